//! Free text made safe for a log line and for the terminal that shows it.
//!
//! Invariant: what leaves here holds no control character, no terminal escape and no character
//! that reorders or hides its neighbours, and is no longer than asked.

use std::borrow::Cow;

/// Spells out what a terminal would obey or a reader could not see, as `\u{1b}`.
pub fn neutralise(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hostile(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// The same for JSON text, which stays JSON: `\u001b`.
pub fn neutralise_json(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hostile(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Neutralises, then cuts to `max_bytes`, the mark of the cut included.
pub(super) fn fit(text: &str, max_bytes: usize) -> Cow<'_, str> {
    // What is thrown away is not worth spelling out: at most eight times the limit is looked at.
    let looked_at = text.floor_char_boundary(max_bytes.saturating_mul(8));
    let unread = text.len() - looked_at;
    let safe = neutralise(&text[..looked_at]);
    if safe.len() <= max_bytes && unread == 0 {
        return safe;
    }
    let keep = safe.floor_char_boundary(max_bytes.saturating_sub(CUT_ROOM));
    let cut = safe.len() - keep + unread;
    Cow::Owned(format!("{}…[+{cut} bytes]", &safe[..keep]))
}

fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            // Soft hyphen, zero-width and directional marks, line and paragraph separators,
            // invisible operators, byte order mark, interlinear annotation, tag characters.
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Room for the mark: `…[+18446744073709551615 bytes]`.
const CUT_ROOM: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_characters_are_spelled_out() {
        for (input, safe) in [
            ("plain Ünïcode 🦀", "plain Ünïcode 🦀"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\r\nb\tc", "a\\u{d}\\u{a}b\\u{9}c"),
            ("c1 \u{9b}31m", "c1 \\u{9b}31m"),
            ("rtl \u{202e}gpj", "rtl \\u{202e}gpj"),
            ("del\u{7f}", "del\\u{7f}"),
        ] {
            assert_eq!(neutralise(input), safe, "{input:?}");
        }
    }

    #[test]
    fn json_that_was_made_safe_means_the_same() {
        for text in [
            "plain 🦀",
            "\u{202e}gpj",
            "\u{9b}31m\u{7f}",
            "tag \u{e0041}",
        ] {
            let json = serde_json::to_string(text).unwrap();
            let safe = neutralise_json(&json);
            assert!(!safe.chars().any(is_hostile), "{safe}");
            assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
        }
        assert_eq!(neutralise_json("\u{1b}[2J"), "\\u001b[2J");
    }

    #[test]
    fn long_text_is_cut_with_a_mark_at_a_character_boundary() {
        let cut = fit("ééééééééééééééééééééééééééééééééééééééé", 41);
        assert_eq!(cut, "éééé…[+70 bytes]");
        assert_eq!(fit("short", 64), "short");
        let escapes = "\u{1b}".repeat(1000);
        assert!(fit(&escapes, 100).len() <= 100);
        let long = "x".repeat(100_000);
        let cut = fit(&long, 100);
        assert!(
            cut.len() <= 100 && cut.ends_with("…[+99932 bytes]"),
            "{cut}"
        );
    }
}
