//! The document as a tree whose every node knows where it stands in the text.
//!
//! Invariant: a tree has no object with one key twice; two programs could read such an object
//! differently. Texts are wiped when the tree is dropped, since any of them may hold a secret.

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use zeroize::Zeroizing;

use super::report::Report;

#[derive(Debug)]
pub(super) struct Node {
    /// Byte offset in the text.
    pub(super) offset: usize,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    /// Decimal digits, as far as the file has them: hexadecimal is converted, `+` taken off.
    Number(String),
    Text(Text),
    List(Vec<Node>),
    Object(Vec<Member>),
    /// A text whose `${…}` could not be resolved; the problem is reported already.
    Unresolved,
}

#[derive(Debug)]
pub(super) struct Text {
    pub(super) value: Zeroizing<String>,
    /// The text as the file has it, where substitution changed it: what messages may show.
    pub(super) written: Option<String>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) key: String,
    pub(super) offset: usize,
    pub(super) node: Node,
}

/// Parses JSON5. A syntax error ends the parse: nothing after it can be judged.
pub(super) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    let options = ParseOptions {
        // The parser's default is laxer than JSON5 here.
        allow_missing_commas: false,
        ..ParseOptions::default()
    };
    let parsed = match parse_to_ast(text, &CollectOptions::default(), &options) {
        Ok(parsed) => parsed,
        Err(error) => {
            let message = format!(
                "not valid JSON5: {}",
                lower_first(&error.kind().to_string())
            );
            report.problem(error.range().start, "", message);
            return None;
        }
    };
    match parsed.value {
        Some(value @ ast::Value::Object(_)) => Some(node(value, "", report)),
        Some(other) => {
            report.problem(other.start(), "", "not a configuration; expected an object");
            None
        }
        None => {
            report.problem(0, "", "the file is empty; expected an object");
            None
        }
    }
}

fn node(value: ast::Value<'_>, path: &str, report: &mut Report) -> Node {
    let offset = value.start();
    let value = match value {
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::BooleanLit(literal) => Value::Boolean(literal.value),
        ast::Value::NumberLit(literal) => Value::Number(decimal(literal.value)),
        ast::Value::StringLit(literal) => Value::Text(Text {
            value: Zeroizing::new(literal.value.into_owned()),
            written: None,
        }),
        ast::Value::Array(array) => {
            let element = |(index, element)| node(element, &format!("{path}[{index}]"), report);
            Value::List(
                array
                    .elements
                    .into_iter()
                    .enumerate()
                    .map(element)
                    .collect(),
            )
        }
        ast::Value::Object(object) => Value::Object(members(object, path, report)),
    };
    Node { offset, value }
}

fn members(object: ast::Object<'_>, path: &str, report: &mut Report) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::with_capacity(object.properties.len());
    let mut seen = std::collections::HashSet::new();
    for property in object.properties {
        let offset = property.start();
        let key = property.name.into_string();
        let path = join(path, &key);
        let node = node(property.value, &path, report);
        if seen.insert(key.clone()) {
            members.push(Member { key, offset, node });
        } else {
            report.problem(offset, &path, "the key stands here a second time");
        }
    }
    members
}

/// Appends a key to a path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn decimal(text: &str) -> String {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let hexadecimal = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok());
    match hexadecimal {
        Some(number) => format!("{sign}{number}"),
        None => text.to_owned(),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(chars).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn problems(text: &str) -> String {
        let mut report = Report::new(None);
        let _tree = parse(text, &mut report);
        let finished = report.finish(text, Path::new("f"));
        finished
            .err()
            .map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn all_of_json5_is_read() {
        let text = "\u{feff}// comment\n{ a: 'x', \"b\": [1, .5, 0x10, +3,], /* c */ d: null, }";
        assert_eq!(problems(text), "");
    }

    #[test]
    fn broken_documents_say_where() {
        let rows = [
            ("", "f:1:1: the file is empty; expected an object"),
            ("[]", "f:1:1: not a configuration; expected an object"),
            (
                "{\n  a: 1\n  b: 2\n}",
                "f:2:7: not valid JSON5: expected comma",
            ),
            (
                "{ a: 1,\n b: }",
                "f:2:5: not valid JSON5: unexpected close brace",
            ),
            ("{ a: {\n", "f:1:6: not valid JSON5: unterminated object"),
            (
                "{ a: { b: 1,\n \"\\u0062\": 2 } }",
                "f:2:2: a.b: the key stands here a second time",
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(problems(text), expected, "{text}");
        }
    }
}
