//! The JSON reader against Node's: what clawsec lets through means the same to both.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clawsec_user::gateway::probe;
use serde_json::Value;

use super::product::Product;
use crate::kernel::random::Random;

const CASES: usize = 20_000;

#[test]
fn what_is_let_through_means_the_same_to_node() {
    for (product, seed) in [(Product::Clawdbot, 31), (Product::Openclaw, 32)] {
        let mut random = Random(seed);
        let mut texts: Vec<Vec<u8>> = KNOWN.iter().map(|text| text.to_vec()).collect();
        texts.extend((0..CASES).map(|_| text(&mut random)));
        let theirs = read_by_node(product, &texts);
        assert_eq!(theirs.len(), texts.len());
        let (mut same, mut refused, mut stricter) = (0, 0, 0);
        for (text, theirs) in texts.iter().zip(theirs) {
            let shown = String::from_utf8_lossy(text);
            match (probe::json(text).map(|value| canonical(&value)), theirs) {
                (Some(ours), Some(theirs)) => {
                    assert_eq!(ours, theirs, "{shown}");
                    same += 1;
                }
                (Some(_), None) => panic!("let through, and no JSON to Node: {shown}"),
                (None, Some(_)) => stricter += 1,
                (None, None) => refused += 1,
            }
        }
        // A differential test of texts that all fail would show nothing.
        let least = CASES / 20;
        assert!(
            same > CASES / 4 && refused > least && stricter > least,
            "{same} {refused} {stricter}"
        );
    }
}

fn read_by_node(product: Product, texts: &[Vec<u8>]) -> Vec<Option<String>> {
    let folder = tempfile::tempdir().expect("make a folder");
    let input = folder.path().join("texts");
    let lines = texts.iter().fold(String::new(), |mut lines, text| {
        writeln!(lines, "{}", STANDARD.encode(text)).expect("write to a text");
        lines
    });
    std::fs::write(&input, lines).expect("write the texts");
    let told = product.driven("parser.mjs", &[&input]);
    serde_json::from_slice(&told).expect("a list of meanings")
}

/// As the driver writes it: numbers by their bits, texts by their UTF-16, members in one order.
fn canonical(value: &Value) -> String {
    match value {
        Value::Null => "n".to_owned(),
        Value::Bool(true) => "t".to_owned(),
        Value::Bool(false) => "f".to_owned(),
        Value::Number(number) => {
            let number = number.as_f64().expect("a double");
            format!("#{:x}", number.to_bits())
        }
        Value::String(text) => canonical_text(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(members) => {
            let mut members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{}:{}", canonical_text(key), canonical(value)))
                .collect();
            members.sort();
            format!("{{{}}}", members.join(","))
        }
    }
}

fn canonical_text(text: &str) -> String {
    text.encode_utf16().fold("s".to_owned(), |mut hex, unit| {
        let [low, high] = unit.to_le_bytes();
        write!(hex, "{low:02x}{high:02x}").expect("write to a text");
        hex
    })
}

/// A frame or a body as somebody might send it who wants to be read in two ways.
fn text(random: &mut Random) -> Vec<u8> {
    let mut text = Vec::new();
    if random.below(3) == 0 {
        text.extend_from_slice(br#"{"type":"req","id":"1","method":"#);
        string(random, &mut text);
        text.extend_from_slice(br#","params":"#);
        value(random, 4, &mut text);
        text.push(b'}');
    } else {
        value(random, 5, &mut text);
    }
    match random.below(12) {
        0 => {
            let at = random.below(text.len());
            text[at] = random.byte();
        }
        1 => text.truncate(random.below(text.len() + 1)),
        2 => text.extend_from_slice(random.pick::<&[u8]>(ODD)),
        3 => {
            let at = random.below(text.len() + 1);
            let odd = *random.pick::<&[u8]>(ODD);
            text.splice(at..at, odd.iter().copied());
        }
        4 => {
            let depth = random.below(400);
            text = [vec![b'['; depth], text, vec![b']'; depth]].concat();
        }
        _ => {}
    }
    text
}

fn value(random: &mut Random, depth: usize, text: &mut Vec<u8>) {
    space(random, text);
    match random.below(if depth == 0 { 6 } else { 10 }) {
        0 => text.extend_from_slice(random.pick::<&[u8]>(&[&b"true"[..], b"false", b"null"])),
        1 | 2 => number(random, text),
        3..=5 => string(random, text),
        6 | 7 => {
            text.push(b'[');
            for index in 0..random.below(4) {
                if index > 0 {
                    text.push(b',');
                }
                value(random, depth - 1, text);
            }
            text.push(b']');
        }
        _ => {
            text.push(b'{');
            for index in 0..random.below(4) {
                if index > 0 {
                    text.push(b',');
                }
                key(random, text);
                text.push(b':');
                value(random, depth - 1, text);
            }
            text.push(b'}');
        }
    }
    space(random, text);
}

fn space(random: &mut Random, text: &mut Vec<u8>) {
    if random.below(6) == 0 {
        text.extend_from_slice(
            random.pick::<&[u8]>(&[&b" "[..], b"\n", b"\t", b"\r\n", b"\x0c"][..]),
        );
    }
}

/// Few names, so that they meet, in many spellings.
fn key(random: &mut Random, text: &mut Vec<u8>) {
    let keys: &[&[u8]] = &[
        br#""tool""#,
        br#""t\u006fol""#,
        br#""\u0074ool""#,
        br#""name""#,
        br#""sessionKey""#,
        br#""sessionkey""#,
        br#""a""#,
        br#""\u0061""#,
        br#""1""#,
        br#""0""#,
        br#""__proto__""#,
        br#""constructor""#,
        b"\"\"",
        br#""\u0000""#,
    ];
    if random.below(4) == 0 {
        string(random, text);
    } else {
        text.extend_from_slice(random.pick::<&[u8]>(keys));
    }
}

fn number(random: &mut Random, text: &mut Vec<u8>) {
    let forms: &[&[u8]] = &[
        b"0",
        b"-0",
        b"1",
        b"-1",
        b"1.0",
        b"0.1",
        b"1e5",
        b"1E+5",
        b"1e-7",
        b"-0.0e0",
        b"9007199254740991",
        b"9007199254740992",
        b"9007199254740993",
        b"-9007199254740993",
        b"18446744073709551615",
        b"18446744073709551616",
        b"-9223372036854775809",
        b"123456789012345678901234567890",
        b"1e308",
        b"1e309",
        b"-1e999",
        b"1e-400",
        b"5e-324",
        b"2.2250738585072011e-308",
        b"0.30000000000000004",
        b"1.7976931348623157e308",
        b"01",
        b"-",
        b"+1",
        b".5",
        b"1.",
        b"1.e5",
        b"0x10",
        b"1e",
        b"NaN",
        b"Infinity",
        b"1_000",
    ];
    if random.below(3) == 0 {
        let digits = 1 + random.below(24);
        text.push(b'1' + u8::try_from(random.below(9)).expect("a digit"));
        for _ in 0..digits {
            text.push(b'0' + u8::try_from(random.below(10)).expect("a digit"));
        }
        if random.below(2) == 0 {
            text.push(b'.');
            for _ in 0..digits {
                text.push(b'0' + u8::try_from(random.below(10)).expect("a digit"));
            }
        }
        if random.below(3) == 0 {
            let exponent = format!("e{}", random.below(640).cast_signed() - 320);
            text.extend_from_slice(exponent.as_bytes());
        }
    } else {
        text.extend_from_slice(random.pick::<&[u8]>(forms));
    }
}

fn string(random: &mut Random, text: &mut Vec<u8>) {
    let parts: &[&[u8]] = &[
        b"a",
        b"exec",
        b"agent:main:main",
        b"\xc3\xa9",
        b"\xf0\x9f\xa6\x80",
        b"\\n",
        b"\\/",
        b"\\\\",
        b"\\\"",
        b"\\u0041",
        b"\\u00e9",
        b"\\ud83e\\udd80",
        b"\\uD83E\\uDD80",
        b"\\u2028",
        b"\xe2\x80\xa8",
        b"\x7f",
        b"\xef\xbb\xbf",
    ];
    let hostile: &[&[u8]] = &[
        b"\\ud83e",
        b"\\udd80",
        b"\\udd80\\ud83e",
        b"\\u12",
        b"\\x41",
        b"\\a",
        b"\n",
        b"\0",
        b"\x1f",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b"\xf5\x80\x80\x80",
        b"\"",
        b"\\",
    ];
    text.push(b'"');
    for _ in 0..random.below(4) {
        let from = if random.below(16) == 0 {
            hostile
        } else {
            parts
        };
        text.extend_from_slice(random.pick::<&[u8]>(from));
    }
    text.push(b'"');
}

const ODD: &[&[u8]] = &[
    b",",
    b"{}",
    b"//x",
    b"/**/",
    b"\xef\xbb\xbf",
    b"\xc2\xa0",
    b"\0",
    b"'a'",
    b"}",
    b"\xff",
    b" ",
    b"null",
];

/// Texts that once were, or might be, read in two ways.
const KNOWN: &[&[u8]] = &[
    br#"{"method":"health","method":"config.apply"}"#,
    br#"{"method":"health","m\u0065thod":"config.apply"}"#,
    br#"{"a":1,"A":2}"#,
    b"{\"a\":\"\xff\"}",
    br#"{"a":9007199254740993}"#,
    br#"{"a":1e400}"#,
    br#"{"a":"\ud800"}"#,
    br#"{"__proto__":{"sessionKey":"agent:other:main"}}"#,
    b"\xef\xbb\xbf{}",
    b"{}\0",
];
