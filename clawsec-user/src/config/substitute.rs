//! `${VAR}` and `${secret:NAME}` in texts, by the gateway's own rules
//! (`src/config/env-substitution.ts` of clawdbot).
//!
//! Names are `[A-Z_][A-Z0-9_]*`, anywhere in a text; `$${VAR}` is a literal `${VAR}`; a variable
//! that is missing or empty is a problem of the key it stands in. A text of any other form stays
//! as it is. `${secret:NAME}` is clawsec's own and asks the provider of `secrets`.

use zeroize::Zeroizing;

use super::report::Report;
use super::tree::{Node, Text, Value, join};

/// What a reference names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference<'a> {
    Variable(&'a str),
    Secret(&'a str),
}

/// Resolves every reference below `node`. `resolve` gives the text, or says why there is none.
pub(super) fn apply(
    node: &mut Node,
    path: &str,
    report: &mut Report,
    resolve: &mut dyn FnMut(Reference<'_>) -> Result<Zeroizing<String>, String>,
) {
    match &mut node.value {
        Value::Text(text) => {
            if resolve_text(text, node.offset, path, report, resolve).is_err() {
                node.value = Value::Unresolved;
            }
        }
        Value::List(nodes) => {
            for (index, node) in nodes.iter_mut().enumerate() {
                apply(node, &format!("{path}[{index}]"), report, resolve);
            }
        }
        Value::Object(members) => {
            for member in members {
                apply(&mut member.node, &join(path, &member.key), report, resolve);
            }
        }
        Value::Null | Value::Boolean(_) | Value::Number(_) | Value::Unresolved => {}
    }
}

/// Writes `text` so that substitution gives it back.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        escaped.push_str(before);
        let (piece, after) = reference(from);
        if !matches!(piece, Piece::Literal(_)) {
            escaped.push('$');
        }
        escaped.push_str(from.strip_suffix(after).unwrap_or(from));
        rest = after;
    }
    escaped.push_str(rest);
    escaped
}

fn resolve_text(
    text: &mut Text,
    offset: usize,
    path: &str,
    report: &mut Report,
    resolve: &mut dyn FnMut(Reference<'_>) -> Result<Zeroizing<String>, String>,
) -> Result<(), Failed> {
    let pieces = pieces(&text.value);
    if matches!(pieces.as_slice(), [] | [Piece::Literal(_)]) {
        if let Some(name) = almost(&text.value) {
            report.warn(
                path,
                format!("`{name}` is taken literally: names of variables are A-Z, 0-9 and `_`"),
            );
        }
        return Ok(());
    }
    let mut value = Zeroizing::new(String::new());
    let mut failed = false;
    for piece in &pieces {
        let problem = match piece {
            Piece::Literal(text) | Piece::Escaped(text) => {
                value.push_str(text);
                continue;
            }
            Piece::Reference(reference) => match resolve(*reference) {
                Ok(text) => {
                    value.push_str(&text);
                    continue;
                }
                Err(why) => why,
            },
            Piece::Malformed(text) => format!(
                "`{text}` is not a reference to a secret; names are letters, digits, `_`, `-`, `.`"
            ),
        };
        report.problem(offset, path, problem);
        failed = true;
    }
    if failed {
        return Err(Failed);
    }
    let written = std::mem::replace(&mut text.value, value);
    text.written = Some(written.to_string());
    Ok(())
}

struct Failed;

#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Literal(&'a str),
    /// The text without its first `$`.
    Escaped(&'a str),
    Reference(Reference<'a>),
    /// `${secret:` that does not go on as a reference: never silently a literal secret.
    Malformed(&'a str),
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        let (before, from) = rest.split_at(start);
        if !before.is_empty() {
            pieces.push(Piece::Literal(before));
        }
        let escaped = from
            .strip_prefix('$')
            .filter(|inner| inner.starts_with("${"));
        let (piece, after) = match escaped.map(reference) {
            Some((Piece::Reference(_) | Piece::Malformed(_), after)) => {
                let inner = from.get(1..from.len() - after.len()).unwrap_or_default();
                (Piece::Escaped(inner), after)
            }
            _ => reference(from),
        };
        pieces.push(piece);
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest));
    }
    pieces
}

/// Splits what stands at a `$` from what follows it.
fn reference(from: &str) -> (Piece<'_>, &str) {
    let single = || {
        let (dollar, after) = from.split_at(1);
        (Piece::Literal(dollar), after)
    };
    let Some(inner) = from.strip_prefix("${") else {
        return single();
    };
    let Some((name, after)) = inner.split_once('}') else {
        return if inner.starts_with("secret:") {
            (Piece::Malformed(from), "")
        } else {
            single()
        };
    };
    if is_variable(name) {
        return (Piece::Reference(Reference::Variable(name)), after);
    }
    match name.strip_prefix("secret:") {
        Some(name) if is_secret(name) => (Piece::Reference(Reference::Secret(name)), after),
        Some(_) => {
            let whole = from.strip_suffix(after).unwrap_or(from);
            (Piece::Malformed(whole), after)
        }
        None => single(),
    }
}

fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_uppercase() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// One file name, never a path: no `/`, and no leading dot.
fn is_secret(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// A `${word}` that looks meant as a variable and is not one.
fn almost(text: &str) -> Option<&str> {
    let start = text.find("${")?;
    let from = text.get(start..)?;
    let end = from.find('}')?;
    let name = from.get(2..end)?;
    let word = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    word.then(|| from.get(..=end)).flatten()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn substituted(text: &str) -> Result<String, String> {
        let mut report = Report::new(None);
        let mut node = Node {
            offset: 0,
            value: Value::Text(Text {
                value: Zeroizing::new(text.to_owned()),
                written: None,
            }),
        };
        apply(&mut node, "k", &mut report, &mut |reference| {
            match reference {
                Reference::Variable("A") => Ok("apple".to_owned()),
                Reference::Variable("REF") => Ok("${A}".to_owned()),
                Reference::Secret("s.1") => Ok("hidden".to_owned()),
                other => Err(format!("no {other:?}")),
            }
            .map(Zeroizing::new)
        });
        match (report.finish(text, Path::new("f")), node.value) {
            (Ok(()), Value::Text(text)) => Ok(text.value.to_string()),
            (result, _) => Err(result.map_or_else(|error| error.to_string(), |()| String::new())),
        }
    }

    #[test]
    fn the_gateways_rules_hold() {
        let rows = [
            ("${A}", "apple"),
            ("x${A}y${A}", "xappleyapple"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("${a}", "${a}"),
            ("${A", "${A"),
            ("$A", "$A"),
            ("${A-}", "${A-}"),
            ("${}", "${}"),
            ("${1A}", "${1A}"),
            ("$", "$"),
            ("${REF}", "${A}"),
            ("${secret:s.1}!", "hidden!"),
            ("$${secret:s.1}", "${secret:s.1}"),
            ("äö${A}", "äöapple"),
        ];
        for (text, expected) in rows {
            assert_eq!(substituted(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_resolved_is_a_problem_of_the_key() {
        let rows = [
            ("${B} ${C}", 2),
            ("${secret:other}", 1),
            ("${secret:../x}", 1),
            ("${secret:}", 1),
            ("${secret:s.1", 1),
        ];
        for (text, count) in rows {
            let errors = substituted(text).unwrap_err();
            assert_eq!(errors.lines().count(), count, "{text}: {errors}");
            assert!(errors.contains("k: "), "{errors}");
        }
    }

    #[test]
    fn escaping_is_undone_by_substitution() {
        let rows = [
            "plain",
            "${A}",
            "$${A}",
            "$$${A}",
            "${a}",
            "${secret:s.1}",
            "${secret:/}",
            "$",
            "${",
            "a${A}b${B}c",
            "${secret:s",
        ];
        for text in rows {
            assert_eq!(substituted(&escape(text)).as_deref(), Ok(text), "{text}");
        }
    }
}
