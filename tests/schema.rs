//! Holds records against the schema of the log, more strictly than a reader would: a field that the
//! schema does not name is a breach, and so is a keyword that this check does not know.

use std::sync::LazyLock;

use serde_json::Value;

static SCHEMA: LazyLock<Value> = LazyLock::new(clawsec_user::audit::schema);

/// What of a record the schema does not allow.
pub(crate) fn breach(record: &Value) -> Option<String> {
    check(&SCHEMA, record, "record", true).err()
}

fn check(schema: &Value, value: &Value, at: &str, closed: bool) -> Result<(), String> {
    let none = serde_json::Map::new();
    let fields = value.as_object().unwrap_or(&none);
    for (keyword, wanted) in schema.as_object().expect("a schema is an object") {
        let holds = match keyword.as_str() {
            // `then` is looked at with its `if`.
            "$schema" | "title" | "description" | "format" | "then" => true,
            "type" => match wanted.as_str().expect("one type") {
                "object" => value.is_object(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("type {other} is not known here"),
            },
            "const" => value == wanted,
            "enum" => list(wanted).contains(value),
            "minimum" => wanted.as_i64() <= value.as_i64().or(Some(i64::MAX)),
            "maximum" => value.as_u64() <= wanted.as_u64(),
            "maxLength" => {
                let length = value.as_str().map_or(0, |text| text.chars().count());
                length as u64 <= wanted.as_u64().expect("a length")
            }
            "pattern" => fits(wanted.as_str().expect("a pattern"), value),
            "required" => list(wanted)
                .iter()
                .all(|name| fields.contains_key(name.as_str().expect("a name"))),
            "additionalProperties" => {
                for (name, value) in fields {
                    check(wanted, value, &format!("{at}.{name}"), true)?;
                }
                true
            }
            "properties" => {
                for (name, value) in fields {
                    match wanted.get(name) {
                        Some(schema) => check(schema, value, &format!("{at}.{name}"), true)?,
                        None if closed => return Err(format!("{at}.{name} is not in the schema")),
                        None => {}
                    }
                }
                true
            }
            "allOf" => {
                for schema in list(wanted) {
                    check(schema, value, at, false)?;
                }
                true
            }
            // Words for one event.
            "if" => {
                if check(wanted, value, at, false).is_ok() {
                    check(&schema["then"], value, at, false)?;
                }
                true
            }
            other => panic!("the keyword {other} is not known here"),
        };
        if !holds {
            return Err(format!("{at} is {value}, not {keyword} {wanted}"));
        }
    }
    Ok(())
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

/// The two patterns of the schema: digits or hexadecimal digits counted, everything else as it
/// stands.
fn fits(pattern: &str, value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    match pattern {
        "^[0-9a-f]{64}$" => {
            let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            text.len() == 64 && text.bytes().all(is_hex)
        }
        pattern if pattern.starts_with("^[0-9]{4}-") => {
            let form = text.replace(|c: char| c.is_ascii_digit(), "0");
            form == "0000-00-00T00:00:00.000000Z"
        }
        other => panic!("the pattern {other} is not known here"),
    }
}
