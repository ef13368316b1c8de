//! What `init` asks a gateway's file for: what it does not hold yet.

use serde_json::{Value, json};

use super::{config, rendered};
use crate::counterpart::{Product, missing, read};

#[test]
fn only_what_the_file_lacks_is_asked_for() {
    for product in Product::BOTH {
        let config = config(|_| {});
        let whole = rendered(product, &config);
        assert_eq!(missing(product, &config, &whole, true), Ok(None));
        let mut lacking = whole.clone();
        lacking["tools"]["deny"] = json!(["cron"]);
        lacking["gateway"]["auth"]["token"] = Value::Null;
        // Left out, they are what is wanted.
        for key in ["bind", "port"] {
            lacking["gateway"].as_object_mut().unwrap().remove(key);
        }
        let ask = |has_token| {
            let text = missing(product, &config, &lacking, has_token)
                .unwrap()
                .unwrap();
            read(&text).unwrap()
        };
        assert_eq!(
            ask(true),
            json!({ "tools": { "deny": whole["tools"]["deny"] } })
        );
        let token = json!({ "auth": { "token": whole["gateway"]["auth"]["token"] } });
        assert_eq!(ask(false)["gateway"], token);
    }
}
