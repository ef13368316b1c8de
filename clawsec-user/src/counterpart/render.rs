//! The settings as JSON with comments, which both gateways read (JSON5).

use serde_json::Value;

use super::Product;
use super::drift::at;
use super::settings::{Setting, Unsupported, settings};
use crate::config::Config;

/// Writes the gateway's file; `channels` are written besides those that the lists tell of.
///
/// # Errors
/// Where this gateway cannot do what clawsec's configuration asks for.
pub fn render(
    product: Product,
    config: &Config,
    channels: &[String],
) -> Result<String, Unsupported> {
    let settings = settings(product, config, channels)?;
    let mut text = format!(
        "// {}: what clawsec's configuration asks of it. Merge it into the gateway's own file;\n\
         // `clawsec check --gateway-file FILE` compares the two.\n",
        product.name()
    );
    for note in &settings.notes {
        text.push_str(&format!("// {note}\n"));
    }
    text.push_str(&object(settings.list.iter()));
    Ok(text)
}

/// Writes what the gateway's file does not yet hold; nothing where it holds all of it. Whoever knows
/// that the gateway has its token, in its file or its environment, says so.
///
/// # Errors
/// Where this gateway cannot do what clawsec's configuration asks for.
pub fn missing(
    product: Product,
    config: &Config,
    found: &Value,
    has_token: bool,
) -> Result<Option<String>, Unsupported> {
    let settings = settings(product, config, &[])?;
    let is_there = |setting: &&Setting| match setting.path.join(".").as_str() {
        "gateway.auth.token" if has_token => true,
        path => holds(found, path, &setting.value),
    };
    let list: Vec<&Setting> = settings.list.iter().filter(|one| !is_there(one)).collect();
    Ok((!list.is_empty()).then(|| object(list.into_iter())))
}

/// Whether a file says this, or more of it; or leaves it out where that means the same.
fn holds(found: &Value, path: &str, wanted: &Value) -> bool {
    match (at(found, path), wanted) {
        (Some(Value::Array(found)), Value::Array(wanted)) => {
            wanted.iter().all(|item| found.contains(item))
        }
        (Some(found), wanted) => found == wanted,
        (None, wanted) => {
            let left_out = [
                ("gateway.bind", Value::from("loopback")),
                ("gateway.port", Value::from(18789)),
                ("gateway.auth.mode", Value::from("token")),
            ];
            let mut left_out = left_out.iter();
            left_out.any(|(key, value)| *key == path && value == wanted)
        }
    }
}

/// Settings as one object, with their reasons.
fn object<'a>(settings: impl Iterator<Item = &'a Setting>) -> String {
    let mut root = Branch::default();
    for setting in settings {
        root.put(&setting.path, setting);
    }
    let mut text = "{\n".to_owned();
    root.write(1, &mut text);
    text.push_str("}\n");
    text
}

/// Settings by the keys of one object, in the order they came.
#[derive(Default)]
struct Branch<'a> {
    keys: Vec<(&'a str, Twig<'a>)>,
}

enum Twig<'a> {
    Branch(Branch<'a>),
    Setting(&'a Setting),
}

impl<'a> Branch<'a> {
    fn put(&mut self, path: &'a [String], setting: &'a Setting) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        if rest.is_empty() {
            self.keys.push((first, Twig::Setting(setting)));
            return;
        }
        let known = self.keys.iter_mut().find(|(key, _)| key == first);
        if let Some((_, Twig::Branch(branch))) = known {
            branch.put(rest, setting);
        } else {
            let mut branch = Branch::default();
            branch.put(rest, setting);
            self.keys.push((first, Twig::Branch(branch)));
        }
    }

    fn write(&self, depth: usize, text: &mut String) {
        let indent = "  ".repeat(depth);
        for (key, twig) in &self.keys {
            match twig {
                Twig::Branch(branch) => {
                    text.push_str(&format!("{indent}\"{key}\": {{\n"));
                    branch.write(depth + 1, text);
                    text.push_str(&format!("{indent}}},\n"));
                }
                Twig::Setting(setting) => {
                    if let Some(why) = &setting.why {
                        text.push_str(&format!("{indent}// {why}\n"));
                    }
                    let value = written(&setting.value, &indent);
                    text.push_str(&format!("{indent}\"{key}\": {value},\n"));
                }
            }
        }
    }
}

/// Lists of objects have a line for each.
fn written(value: &Value, indent: &str) -> String {
    let Some(items) = value
        .as_array()
        .filter(|items| items.iter().any(Value::is_object))
    else {
        return value.to_string();
    };
    let lines = items.iter().map(|item| format!("{indent}  {item},\n"));
    format!("[\n{}{indent}]", lines.collect::<String>())
}
