//! Channels: whom the gateway answers there, against `security.users` and `security.groups`.

use serde_json::{Value, json};

use super::{Comparison, Severity, at};
use crate::counterpart::channels::{Channel, Wanted};

impl Comparison<'_> {
    pub(super) fn channels(&mut self) {
        let people = &self.config.policy.people;
        if people.users.is_none() && people.groups.is_none() {
            return;
        }
        let path = "channels.defaults.groupPolicy";
        if self.at(path).and_then(Value::as_str) == Some("open") {
            let detail = "\"open\": groups that nobody listed are answered".to_owned();
            let remedy = format!("set {path} to \"allowlist\"");
            self.add(Severity::Critical, path, path, detail, remedy);
        }
        let Some(sections) = self.at("channels").and_then(Value::as_object).cloned() else {
            return;
        };
        for (name, section) in &sections {
            let is_off = section.get("enabled") == Some(&json!(false));
            if matches!(name.as_str(), "defaults" | "modelByChannel") || is_off {
                continue;
            }
            let path = format!("channels.{name}");
            let Some(channel) = Channel::named(name) else {
                let detail = "clawsec does not know how this channel writes its lists".to_owned();
                let remedy = format!("hold {path} to security.users and security.groups by hand");
                self.add(Severity::Warn, "channels.unknown", &path, detail, remedy);
                continue;
            };
            let wanted = channel.wanted(people);
            self.channel(channel, &wanted, &path, section);
            let accounts = section.get("accounts").and_then(Value::as_object);
            for (account, own) in accounts.into_iter().flatten() {
                // What an account leaves out, its channel says.
                let mut merged = section.clone();
                merge(&mut merged, own);
                self.channel(
                    channel,
                    &wanted,
                    &format!("{path}.accounts.{account}"),
                    &merged,
                );
            }
        }
    }

    fn channel(&mut self, channel: &Channel, wanted: &Wanted, path: &str, section: &Value) {
        let (policy_key, list_key) = channel.direct(self.product);
        if let Some(users) = &wanted.users {
            let policy = at(section, policy_key)
                .and_then(Value::as_str)
                .unwrap_or("pairing");
            if matches!(policy, "open" | "pairing") {
                let detail = format!("{policy:?} admits people who are not in security.users");
                let wanted = if users.is_empty() {
                    "disabled"
                } else {
                    "allowlist"
                };
                let path = format!("{path}.{policy_key}");
                let severity = match policy {
                    "open" => Severity::Critical,
                    _ => Severity::Warn,
                };
                let remedy = format!("set {path} to {wanted:?}");
                self.add(severity, "channels.*.dmPolicy", &path, detail, remedy);
            }
            self.list(
                users,
                at(section, list_key),
                "allowFrom",
                &format!("{path}.{list_key}"),
            );
            let senders = at(section, "groupAllowFrom");
            self.list(
                users,
                senders,
                "groupAllowFrom",
                &format!("{path}.groupAllowFrom"),
            );
        }
        let default = self
            .at("channels.defaults.groupPolicy")
            .and_then(Value::as_str);
        let policy = at(section, "groupPolicy").and_then(Value::as_str);
        let policy = policy.or(default).unwrap_or("allowlist");
        if policy == "open" {
            let detail = "\"open\": groups that nobody listed are answered".to_owned();
            let path = format!("{path}.groupPolicy");
            let remedy = format!("set {path} to \"allowlist\"");
            self.add(
                Severity::Critical,
                "channels.*.groupPolicy",
                &path,
                detail,
                remedy,
            );
        }
        if let Some(groups) = &wanted.groups
            && policy != "disabled"
            && let Some(found) = at(section, "groups").and_then(Value::as_object)
        {
            let found: Vec<Value> = found.keys().map(|key| json!(key)).collect();
            let path = format!("{path}.groups");
            self.list(groups, Some(&Value::Array(found)), "groups", &path);
        }
    }

    /// Names in a list of the gateway's that clawsec does not admit.
    fn list(&mut self, wanted: &[String], found: Option<&Value>, key: &str, path: &str) {
        let plain = |text: &str| text.trim().trim_start_matches('+').to_lowercase();
        let admitted: Vec<String> = wanted.iter().map(|id| plain(id)).collect();
        let ids = found.and_then(Value::as_array).into_iter().flatten();
        let ids = ids.map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
        let more: Vec<String> = ids
            .filter(|id| !id.contains("${") && !admitted.contains(&plain(id)))
            .collect();
        if !more.is_empty() {
            let detail = format!("admits {}, whom clawsec does not", more.join(", "));
            let remedy = format!("take them out of {path}, or add them to clawsec's list");
            self.add(
                Severity::Critical,
                &format!("channels.*.{key}"),
                path,
                detail,
                remedy,
            );
        }
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
