//! Where in a file a configuration path stands, for answers that name a rule.

use super::report::Report;
use super::tree::{self, Node, Value};

/// The line, from 1, of a path such as `security.network.allowedIPs[1]`. For a path that is not
/// in the text, the line of its nearest section that is; `None` where not even that is there.
pub fn line_of(text: &str, path: &str) -> Option<usize> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let root = tree::parse(text, &mut Report::new(None))?;
    let mut node = &root;
    let mut found = None;
    for step in steps(path) {
        let Some((offset, next)) = enter(node, step) else {
            break;
        };
        found = Some(offset);
        node = next;
    }
    let before = text.get(..found?)?;
    Some(before.bytes().filter(|&byte| byte == b'\n').count() + 1)
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// `a.b[1]` is a, b, 1.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split(['.', '[']).map(|part| {
        let index = part
            .strip_suffix(']')
            .and_then(|digits| digits.parse().ok());
        index.map_or(Step::Key(part), Step::Index)
    })
}

fn enter<'a>(node: &'a Node, step: Step<'_>) -> Option<(usize, &'a Node)> {
    match (&node.value, step) {
        (Value::Object(members), Step::Key(key)) => members
            .iter()
            .find(|member| member.key == key)
            .map(|member| (member.offset, &member.node)),
        (Value::List(elements), Step::Index(index)) => {
            elements.get(index).map(|element| (element.offset, element))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_line_it_stands_on() {
        let text = "{\n  security: {\n    network: {\n      allowedIPs: [\n        '10.0.0.0/8',\n        \
                    '192.0.2.0/24'\n      ] } }\n}";
        for (path, line) in [
            ("security.network.allowedIPs[1]", Some(6)),
            ("security.network.allowedIPs", Some(4)),
            ("security.network.allowedIPs[7]", Some(4)),
            ("security.network.rules[0]", Some(3)),
            ("gateway.listen", None),
        ] {
            assert_eq!(line_of(text, path), line, "{path}");
        }
        assert_eq!(line_of("not a document", "a"), None);
    }
}
