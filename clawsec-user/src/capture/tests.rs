//! Captures made by hand, whole and broken.

use super::*;

/// Time, link type, length on the wire, bytes.
type Frame = (Option<u64>, u16, u32, Vec<u8>);

/// Every frame, and the error that ended the reading.
fn read(bytes: &[u8]) -> (Vec<Frame>, Option<String>) {
    let mut frames = Vec::new();
    let mut capture = match Capture::open(bytes) {
        Ok(capture) => capture,
        Err(error) => return (frames, Some(error.to_string())),
    };
    loop {
        match capture.next_frame() {
            Ok(Some(frame)) => frames.push((
                frame.at_ns,
                frame.link,
                frame.wire_bytes,
                frame.bytes.to_vec(),
            )),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error.to_string())),
        }
    }
}

fn pcap(magic: u32, big: bool, link: u32, records: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
    let u32 = |value: u32| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let u16 = |value: u16| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut file = u32(magic).to_vec();
    file.extend([u16(2), u16(4)].concat());
    file.extend([0; 12]);
    file.extend(u32(link));
    for (seconds, fraction, wire_bytes, bytes) in records {
        file.extend(u32(*seconds));
        file.extend(u32(*fraction));
        file.extend(u32(u32::try_from(bytes.len()).unwrap()));
        file.extend(u32(*wire_bytes));
        file.extend(*bytes);
    }
    file
}

#[test]
fn pcap_of_both_resolutions_and_both_orders() {
    for big in [false, true] {
        for (magic, unit) in [(0xa1b2_c3d4, 1_000), (0xa1b2_3c4d, 1)] {
            // A frame check sequence of 4 bytes is noted in the link type's upper half.
            let link = 0x2400_0001;
            let file = pcap(magic, big, link, &[(5, 7, 3, b"abc"), (6, 8, 900, b"cut")]);
            let (frames, error) = read(&file);
            assert_eq!(error, None);
            let first = (Some(5_000_000_000 + 7 * unit), 1, 3, b"abc".to_vec());
            let second = (Some(6_000_000_000 + 8 * unit), 1, 900, b"cut".to_vec());
            assert_eq!(frames, [first, second], "{magic:x}, big endian {big}");
        }
    }
}

#[test]
fn broken_files_say_where() {
    let whole = pcap(
        0xa1b2_c3d4,
        false,
        1,
        &[(5, 7, 3, b"abc"), (6, 8, 3, b"def")],
    );
    let mut version = whole.clone();
    version[4] = 3;
    let mut long = whole.clone();
    long[24 + 8 + 3] = 0x7f;
    for (row, bytes, frames, message) in [
        (
            "nothing",
            &whole[..0],
            0,
            "this is neither pcap nor pcapng: it begins with nothing: the file is empty",
        ),
        (
            "text",
            b"{ \"a\": 1 }",
            0,
            "this is neither pcap nor pcapng: it begins with 7b 20 22 61",
        ),
        (
            "one byte",
            &whole[..1],
            0,
            "byte 1: the file ends inside a header",
        ),
        (
            "half a head",
            &whole[..13],
            0,
            "byte 13: the file ends inside the file's head",
        ),
        ("no records", &whole[..24], 0, ""),
        (
            "half a record's head",
            &whole[..24 + 9],
            0,
            "byte 33: the file ends inside a record's head",
        ),
        (
            "half a frame",
            &whole[..24 + 16 + 2],
            0,
            "byte 42: the file ends inside a frame",
        ),
        (
            "half the second frame",
            &whole[..24 + 19 + 17],
            1,
            "byte 60: the file ends inside a frame",
        ),
        (
            "another version",
            &version,
            0,
            "byte 6: a version of pcap other than 2",
        ),
        (
            "a frame of 2 GiB",
            &long,
            0,
            "byte 40: a frame of more than 1 MiB",
        ),
    ] {
        let (found, error) = read(bytes);
        assert_eq!(found.len(), frames, "{row}");
        assert_eq!(error.unwrap_or_default(), message, "{row}");
    }
}

/// A file of blocks in one byte order.
struct Blocks {
    big: bool,
    bytes: Vec<u8>,
}

impl Blocks {
    fn new(big: bool) -> Self {
        let mut blocks = Self {
            big,
            bytes: Vec::new(),
        };
        blocks.section();
        blocks
    }

    fn u32(&self, value: u32) -> [u8; 4] {
        if self.big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    fn u16(&self, value: u16) -> [u8; 2] {
        if self.big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    fn block(&mut self, kind: u32, body: &[u8]) {
        let padding = body.len().next_multiple_of(4) - body.len();
        let length = self.u32(u32::try_from(body.len() + padding + 12).unwrap());
        self.bytes.extend(self.u32(kind));
        self.bytes.extend(length);
        self.bytes.extend(body);
        self.bytes.extend(vec![0; padding]);
        self.bytes.extend(length);
    }

    fn section(&mut self) {
        let body = [
            &self.u32(0x1a2b_3c4d)[..],
            &self.u16(1),
            &self.u16(0),
            &[0xff; 8],
        ]
        .concat();
        self.block(0x0a0d_0d0a, &body);
    }

    fn interface(&mut self, link: u16, snap_bytes: u32, options: &[(u16, &[u8])]) {
        let mut body = [&self.u16(link)[..], &[0, 0], &self.u32(snap_bytes)].concat();
        for (code, value) in options {
            body.extend(self.u16(*code));
            body.extend(self.u16(u16::try_from(value.len()).unwrap()));
            body.extend(*value);
            body.extend(vec![0; value.len().next_multiple_of(4) - value.len()]);
        }
        self.block(1, &body);
    }

    fn packet(&mut self, interface: u32, ticks: u64, bytes: &[u8]) {
        let [high, low] =
            [ticks >> 32, ticks & 0xffff_ffff].map(|half| u32::try_from(half).unwrap());
        let length = u32::try_from(bytes.len()).unwrap();
        let mut body: Vec<u8> = [interface, high, low, length, length]
            .iter()
            .flat_map(|value| self.u32(*value))
            .collect();
        body.extend(bytes);
        body.extend(vec![0; bytes.len().next_multiple_of(4) - bytes.len()]);
        // A comment, which nobody asks about.
        body.extend([&self.u16(1)[..], &self.u16(2), b"hi\0\0", &[0; 4]].concat());
        self.block(6, &body);
    }
}

#[test]
fn pcapng_has_interfaces_each_with_its_clock() {
    for big in [false, true] {
        let mut file = Blocks::new(big);
        file.interface(1, 0, &[]);
        file.interface(1, 0, &[(2, b"eth0"), (9, &[9]), (0, b"")]);
        file.interface(113, 0, &[(9, &[0x8a])]);
        let offset = if big {
            100_i64.to_be_bytes()
        } else {
            100_i64.to_le_bytes()
        };
        file.interface(1, 0, &[(14, &offset), (9, &[0])]);
        file.interface(1, 0, &[(9, &[12])]);
        file.interface(1, 0, &[(9, &[0x7f])]);
        file.interface(1, 0, &[(9, &[0xff])]);
        for interface in 0..5 {
            file.packet(interface, 5_000_000_000, b"abcde");
        }
        file.packet(5, u64::MAX, b"");
        file.packet(6, u64::MAX, b"");
        let (frames, error) = read(&file.bytes);
        assert_eq!(error, None);
        let times: Vec<_> = frames.iter().map(|frame| frame.0.unwrap()).collect();
        let expected = [
            5_000 * 1_000_000_000,
            5_000_000_000,
            5_000_000_000 * 1_000_000_000 / 1024,
            5_000_000_100 * 1_000_000_000,
            5_000_000,
            0,
            0,
        ];
        assert_eq!(times, expected, "big endian {big}");
        let links: Vec<_> = frames.iter().map(|frame| frame.1).collect();
        assert_eq!(links, [1, 1, 113, 1, 1, 1, 1]);
        assert_eq!(frames[0].3, b"abcde");
    }
}

#[test]
fn pcapng_of_several_sections_and_older_blocks() {
    let mut file = Blocks::new(false);
    file.interface(1, 4, &[]);
    // Name resolution, skipped.
    file.block(4, &[1, 2, 3, 4, 5]);
    let simple = [&6_u32.to_le_bytes()[..], b"abcd"].concat();
    file.block(3, &simple);
    let obsolete = [
        &[0; 4][..],
        &[0; 4],
        &7_u32.to_le_bytes(),
        &2_u32.to_le_bytes(),
        &2_u32.to_le_bytes(),
        b"xy",
    ];
    file.block(2, &obsolete.concat());
    let mut second = Blocks::new(true);
    second.interface(105, 0, &[]);
    second.packet(0, 1, b"q");
    file.bytes.extend(second.bytes);
    let (frames, error) = read(&file.bytes);
    assert_eq!(error, None);
    assert_eq!(
        frames,
        [
            (None, 1, 6, b"abcd".to_vec()),
            (Some(7_000), 1, 2, b"xy".to_vec()),
            (Some(1_000), 105, 1, b"q".to_vec()),
        ]
    );
}

#[test]
fn broken_blocks_say_where() {
    let mut whole = Blocks::new(false);
    whole.interface(1, 0, &[]);
    let packet_at = whole.bytes.len();
    whole.packet(0, 5, b"abcd");
    let whole = whole.bytes;
    let with = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        bytes
    };
    let last = whole.len() - 4;
    for (row, bytes, message) in [
        ("as it is", whole.clone(), ""),
        (
            "no order mark",
            with(8, 0),
            "byte 12: a section header without its byte order mark",
        ),
        (
            "version 2",
            with(12, 2),
            "byte 14: a version of pcapng other than 1",
        ),
        (
            "an odd length",
            with(packet_at + 4, 61),
            "byte 56: a block whose length cannot be",
        ),
        (
            "a tiny length",
            with(packet_at + 4, 8),
            "byte 56: a block whose length cannot be",
        ),
        (
            "an unknown interface",
            with(packet_at + 8, 1),
            "byte 60: a packet of an interface that was not described",
        ),
        (
            "more kept than there is",
            with(packet_at + 20, 200),
            "byte 76: a block shorter than what it holds",
        ),
        (
            "two lengths",
            with(last, 1),
            "byte 96: a block whose two lengths differ",
        ),
        (
            "cut",
            whole[..last + 2].to_vec(),
            "byte 94: the file ends inside a block",
        ),
    ] {
        let (_, error) = read(&bytes);
        assert_eq!(error.unwrap_or_default(), message, "{row}");
    }
}
