//! JSON as Node would read it, or not at all.
//!
//! Invariant: text accepted here has one meaning. A key that appears twice in an object (after
//! unescaping, so `"tool"` and `"t\u006fol"` are one) is refused, because `JSON.parse` keeps the
//! last and other readers the first. Lone surrogates, numbers out of range and invalid UTF-8 are
//! refused too: Node would read them as something else than a Rust string or number.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::policy::js_trim;

/// Parses one JSON text whole.
pub(super) fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// `Number.MAX_SAFE_INTEGER`: integers beyond are doubles to Node.
const SAFE_INTEGER: u64 = (1 << 53) - 1;

#[expect(clippy::cast_precision_loss, reason = "Node loses it, too")]
fn as_double(value: i128) -> f64 {
    value as f64
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without a key that appears twice")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(if value.unsigned_abs() <= SAFE_INTEGER {
            value.into()
        } else {
            as_double(value.into()).into()
        })
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(if value <= SAFE_INTEGER {
            value.into()
        } else {
            as_double(value.into()).into()
        })
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            if key == "__proto__" {
                // An own member to `JSON.parse`, and the prototype to whoever copies it by name.
                return Err(A::Error::custom("the key \"__proto__\""));
            }
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!(
                    "the key {key:?} stands twice"
                )));
            }
            let value = entries.next_value_seed(Strict)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// A member's name.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    /// Without escapes, or it could not be borrowed.
    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<String, E> {
        Ok(key.to_owned())
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        // V8 13.6 (Node 24) reads such a key as a lone backslash once it has met an object with
        // that key in the same place: `JSON.parse('{"x":1,"\\\\":1}')` changes what
        // `{"x":1,"\\n":1}` means. No member of the protocol is a single character.
        if key.chars().nth(1).is_none() {
            return Err(E::custom("an escaped key of one character"));
        }
        Ok(key.to_owned())
    }
}

/// A string field that is there and not blank, trimmed as the gateway trims it.
pub(super) fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object
        .get(key)
        .and_then(Value::as_str)
        .map(js_trim)
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_with_two_readings_is_refused() {
        let rows: &[(&str, &[u8], bool)] = &[
            ("plain", br#"{"a":1,"b":[true,null,"x",1.5,-2]}"#, true),
            ("same key in two objects", br#"[{"a":1},{"a":2}]"#, true),
            ("twice", br#"{"tool":"x","tool":"exec"}"#, false),
            (
                "twice, escaped",
                br#"{"tool":"x","t\u006fol":"exec"}"#,
                false,
            ),
            ("twice, deep", br#"{"a":{"b":[{"c":1,"c":1}]}}"#, false),
            ("lone surrogate", br#"{"a":"\ud800"}"#, false),
            ("number out of range", br#"{"a":1e999}"#, false),
            ("invalid UTF-8", b"{\"a\":\"\xff\"}", false),
            ("byte order mark", b"\xef\xbb\xbf{}", false),
            ("two texts", br"{}{}", false),
            ("comment", br"{/**/}", false),
            ("escaped key of one character", br#"{"\u0041":1}"#, false),
            ("escaped key", br#"{"\u0041B":1}"#, true),
            ("prototype", br#"{"a":{"__proto__":{}}}"#, false),
            ("nothing", b"", false),
        ];
        for (name, text, accepted) in rows {
            assert_eq!(parse(text).is_ok(), *accepted, "{name}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_err());
    }
}
