//! The fuzz targets' own functions for a bounded number of inputs, the same in every run.

#[expect(unreachable_pub, reason = "it is a crate's root for libFuzzer")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use crate::kernel::random::Random;

const PACKETS: usize = 300_000;
const CAPTURES: usize = 60_000;

#[test]
fn the_packet_parser() {
    let mut random = Random(11);
    let syn = [
        &[2; 12][..],
        &[
            8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 9, 9, 9, 9, 10, 0, 0, 1,
        ],
        &[
            0x9c, 0x40, 0x20, 0xfb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
        ],
    ]
    .concat();
    let v6 = [
        &[2; 12][..],
        &[0x81, 0, 0, 0, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 44, 0, 64],
        &[0x20; 32],
        &[
            44, 0, 1, 4, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 1, 6, 0, 1, 4, 0, 0, 0, 0,
        ],
        &syn[34..],
    ]
    .concat();
    for seed in [&syn, &v6] {
        targets::packet(seed);
    }
    for number in 0..PACKETS {
        let bytes = match number % 4 {
            0 => {
                let count = random.below(160);
                random.bytes(count)
            }
            1 => mutate(syn.clone(), &mut random),
            _ => mutate(v6.clone(), &mut random),
        };
        targets::packet(&bytes);
    }
}

#[test]
fn the_capture_reader() {
    let mut random = Random(12);
    let record = [
        &7_u32.to_le_bytes()[..],
        &8_u32.to_le_bytes(),
        &20_u32.to_le_bytes(),
        &20_u32.to_le_bytes(),
        &[0x11; 20],
    ]
    .concat();
    let head = [
        0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0,
    ];
    let pcap = [&head[..], &record, &record, &record].concat();
    let block = |kind: u32, body: &[u8]| {
        let length = u32::try_from(body.len() + 12).unwrap().to_le_bytes();
        [&kind.to_le_bytes()[..], &length, body, &length].concat()
    };
    let mut section = vec![0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0];
    section.extend([0xff; 8]);
    let packet = [&[0; 12][..], &[8, 0, 0, 0, 8, 0, 0, 0], b"abcdefgh"].concat();
    let pcapng = [
        block(0x0a0d_0d0a, &section),
        block(
            1,
            &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0],
        ),
        block(6, &packet),
        block(3, &[&4_u32.to_le_bytes()[..], b"abcd"].concat()),
        block(5, &[0; 8]),
        block(6, &packet),
    ]
    .concat();
    for number in 0..CAPTURES {
        let seed = if number % 3 == 0 { &pcap } else { &pcapng };
        targets::capture(&mutate(seed.clone(), &mut random));
    }
}

fn mutate(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.byte(),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = *random.pick(&[0, 1, 4, 8, 0x7f, 0x80, 0xff]),
            3 => bytes.truncate(at),
            4 => {
                let to = (at + random.below(24)).min(bytes.len());
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let count = random.below(8);
                let more = random.bytes(count);
                bytes.splice(at..at, more);
            }
        }
    }
    bytes
}
