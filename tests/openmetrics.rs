//! A reader of OpenMetrics 1.0 text that takes nothing the specification does not allow.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct Read {
    /// By name, with the type.
    pub(crate) families: BTreeMap<String, String>,
    /// By name and labels, as they are written.
    pub(crate) samples: BTreeMap<String, f64>,
}

/// Reads OpenMetrics 1.0 text; whatever it does not allow is an error.
pub(crate) fn read_strictly(text: &str) -> Result<Read, String> {
    let mut read = Read::default();
    let body = text.strip_suffix("# EOF\n").ok_or("no # EOF at the end")?;
    let mut family = (String::new(), String::new());
    for line in body.lines() {
        let wrong = |why: &str| Err(format!("{why}: {line}"));
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(word), Some(name), Some(rest)) = (words.next(), words.next(), words.next())
            else {
                return wrong("half a comment");
            };
            match word {
                "TYPE" => {
                    if !["gauge", "counter", "info", "histogram"].contains(&rest) {
                        return wrong("no such type");
                    }
                    family = (name.to_owned(), rest.to_owned());
                    if read.families.insert(name.into(), rest.into()).is_some() {
                        return wrong("a family twice");
                    }
                }
                "UNIT" if name == family.0 && name.ends_with(&format!("_{rest}")) => {}
                "HELP" if name == family.0 && rest.ends_with('.') => {}
                _ => return wrong("a comment out of place"),
            }
            continue;
        }
        let (key, value) = line.rsplit_once(' ').ok_or("a sample without a value")?;
        let value: f64 = value
            .parse()
            .map_err(|_unread| format!("no number: {line}"))?;
        let (name, labels) = match key.split_once('{') {
            None => (key, Vec::new()),
            Some((name, rest)) => {
                let rest = rest.strip_suffix('}').ok_or("labels without an end")?;
                (name, read_labels(rest)?)
            }
        };
        let suffix = name
            .strip_prefix(family.0.as_str())
            .filter(|_| !family.0.is_empty())
            .ok_or(format!("a sample of no family: {line}"))?;
        let allowed: &[&str] = match family.1.as_str() {
            "gauge" => &[""],
            "counter" => &["_total"],
            "info" => &["_info"],
            _ => &["_bucket", "_count", "_sum"],
        };
        let has_bound = labels.iter().any(|(label, _)| label == "le");
        if !allowed.contains(&suffix) || has_bound != (suffix == "_bucket") {
            return wrong("not a sample of this type");
        }
        if (family.1 != "gauge" && value < 0.0)
            || (family.1 == "info" && value.to_bits() != 1.0_f64.to_bits())
        {
            return wrong("not a value of this type");
        }
        if read.samples.insert(key.to_owned(), value).is_some() {
            return wrong("a sample twice");
        }
    }
    check_histograms(&read, body)?;
    Ok(read)
}

impl Read {
    /// The sum of a family's samples whose labels hold every one of `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let is_wanted = |key: &str| {
            let (family, rest) = key.split_once('{').unwrap_or((key, ""));
            family == name && labels.iter().all(|label| rest.contains(label))
        };
        let of = self.samples.iter().filter(|(key, _)| is_wanted(key));
        of.map(|(_, value)| value).sum()
    }
}

fn read_labels(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut labels = Vec::new();
    let mut rest = text;
    loop {
        let (label, after) = rest.split_once("=\"").ok_or(format!("no label: {rest}"))?;
        if label.is_empty() || !label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            return Err(format!("a label's name: {label}"));
        }
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next() {
                Some((at, '"')) => break at,
                Some((_, '\\')) => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                    _ => return Err(format!("an escape: {text}")),
                },
                Some((_, other)) => value.push(other),
                None => return Err(format!("a label without an end: {text}")),
            }
        };
        labels.push((label.to_owned(), value));
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None if rest.is_empty() => return Ok(labels),
            None => return Err(format!("after a label: {rest}")),
        }
    }
}

/// Buckets in the order they are written: bounds grow to `+Inf`, counts do not fall, and the last
/// is the count.
fn check_histograms(read: &Read, body: &str) -> Result<(), String> {
    let mut last: Option<(f64, f64)> = None;
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (key, value) = line.rsplit_once(' ').ok_or("a sample")?;
        let value: f64 = value.parse().map_err(|_unread| "a number")?;
        if key.contains("_bucket{")
            && let Some((_, bound)) = key.rsplit_once("le=\"")
        {
            let bound: f64 = bound
                .trim_end_matches("\"}")
                .replace("+Inf", "inf")
                .parse()
                .map_err(|_unread| format!("a bound: {line}"))?;
            let grows = last.is_none_or(|(b, v)| bound > b && value >= v);
            if !grows {
                return Err(format!("not cumulative: {line}"));
            }
            last = Some((bound, value));
        } else if key.contains("_count") && read.families.values().any(|t| t == "histogram") {
            match last.take() {
                Some((bound, count))
                    if bound.is_infinite() && count.to_bits() == value.to_bits() => {}
                _ => return Err(format!("the last bucket is not the count: {line}")),
            }
        }
    }
    Ok(())
}
