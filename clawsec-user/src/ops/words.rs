//! Numbers, times and names as a person reads them, the same on every screen.

/// A duration.
pub fn words(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A rate.
pub fn figure(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        0.0..10.0 => format!("{rate:.1}"),
        10.0..10_000.0 => format!("{rate:.0}"),
        10_000.0..1_000_000.0 => format!("{:.0} k", rate / 1e3),
        _ => format!("{:.1} M", rate / 1e6),
    }
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 record`, `2 records`.
pub fn counted(count: u64, word: &str) -> String {
    format!(
        "{} {word}{}",
        grouped(count),
        if count == 1 { "" } else { "s" }
    )
}

/// A name from outside without what would turn a line around, end it or colour it.
pub fn plain(text: &str) -> String {
    let is_direction = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let safe = |c: char| {
        if c.is_control() || is_direction(c) {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(words(59), "59s");
        assert_eq!(words(3661), "1h01m");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
        assert_eq!(counted(1, "record"), "1 record");
        assert_eq!(counted(0, "record"), "0 records");
        for (rate, expected) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (12.4, "12"),
            (45_200.0, "45 k"),
            (2.5e6, "2.5 M"),
        ] {
            assert_eq!(figure(rate), expected);
        }
    }

    #[test]
    fn a_name_cannot_steer_a_terminal() {
        assert_eq!(
            plain("a\u{1b}[31mb\u{202e}\n"),
            "a\u{fffd}[31mb\u{fffd}\u{fffd}"
        );
    }
}
