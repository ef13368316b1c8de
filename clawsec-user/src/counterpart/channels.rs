//! Who may write over which channel: channel messages never pass clawsec, so that the gateway
//! itself has to know the same people and groups.
//!
//! clawsec's lists do not say which channel an id belongs to, unless it is written `telegram:12`.
//! Numbers are phone numbers on channels that have them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Product;
use super::settings::Settings;
use crate::policy::{GroupId, People, UserId};

/// How a channel writes its lists.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channel {
    pub(super) name: &'static str,
    ids: Ids,
    /// Whether its file has `groups` by id.
    groups: bool,
    /// Whether senders in groups have a list of their own.
    group_senders: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    Phone,
    Own,
}

const CHANNELS: &[Channel] = &[
    Channel {
        name: "whatsapp",
        ids: Ids::Phone,
        groups: true,
        group_senders: true,
    },
    Channel {
        name: "signal",
        ids: Ids::Phone,
        groups: false,
        group_senders: true,
    },
    Channel {
        name: "imessage",
        ids: Ids::Phone,
        groups: true,
        group_senders: true,
    },
    Channel {
        name: "telegram",
        ids: Ids::Own,
        groups: true,
        group_senders: true,
    },
    Channel {
        name: "msteams",
        ids: Ids::Own,
        groups: false,
        group_senders: true,
    },
    Channel {
        name: "discord",
        ids: Ids::Own,
        groups: false,
        group_senders: false,
    },
    Channel {
        name: "slack",
        ids: Ids::Own,
        groups: false,
        group_senders: false,
    },
    Channel {
        name: "googlechat",
        ids: Ids::Own,
        groups: true,
        group_senders: false,
    },
];

/// What one channel's section should say; `None` is nothing.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) users: Option<Vec<String>>,
    pub(super) groups: Option<Vec<String>>,
}

impl Channel {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        CHANNELS.iter().find(|channel| channel.name == name)
    }

    /// Where direct messages' policy and list stand below the channel's section.
    pub(super) fn direct(&self, product: Product) -> (&'static str, &'static str) {
        match (product, self.name) {
            (Product::Clawdbot, "discord" | "slack" | "googlechat") => {
                ("dm.policy", "dm.allowFrom")
            }
            _ => ("dmPolicy", "allowFrom"),
        }
    }

    pub(super) fn wanted(&self, people: &People) -> Wanted {
        let users = people.users.as_ref();
        let groups = people.groups.as_ref();
        Wanted {
            users: users.map(|users| users.iter().filter_map(|user| self.user(user)).collect()),
            groups: groups.map(|groups| {
                groups
                    .iter()
                    .filter_map(|group| self.group(group))
                    .collect()
            }),
        }
    }

    fn user(&self, user: &UserId) -> Option<String> {
        let text = user.as_str();
        match (self.ids, text.strip_prefix('+'), text.split_once(':')) {
            (Ids::Phone, Some(_), _) => Some(text.to_owned()),
            (Ids::Own, Some(digits), _) => Some(digits.to_owned()),
            (_, _, Some((channel, id))) => (channel == self.name).then(|| id.to_owned()),
            (Ids::Own, ..) => Some(text.to_owned()),
            (Ids::Phone, ..) => None,
        }
    }

    fn group(&self, group: &GroupId) -> Option<String> {
        let text = group.as_str();
        match text.split_once(':') {
            Some((channel, id)) => (channel == self.name).then(|| id.to_owned()),
            None if text.ends_with("@g.us") => (self.name == "whatsapp").then(|| text.to_owned()),
            None => (self.name != "whatsapp").then(|| text.to_owned()),
        }
    }

    /// The channel's section.
    fn section(&self, product: Product, wanted: &Wanted) -> Map<String, Value> {
        let mut flat = Vec::new();
        let (policy, list) = self.direct(product);
        if let Some(users) = &wanted.users {
            let direct = if users.is_empty() {
                "disabled"
            } else {
                "allowlist"
            };
            flat.push((policy, json!(direct)));
            // A list that is empty is refused beside `allowlist`.
            if !users.is_empty() {
                flat.push((list, json!(users)));
            }
        }
        match &wanted.groups {
            Some(groups) if groups.is_empty() => flat.push(("groupPolicy", json!("disabled"))),
            groups => {
                flat.push(("groupPolicy", json!("allowlist")));
                if self.group_senders {
                    let everybody = vec!["*".to_owned()];
                    let senders = wanted.users.as_ref().unwrap_or(&everybody);
                    flat.push(("groupAllowFrom", json!(senders)));
                }
                if self.groups
                    && let Some(groups) = groups
                {
                    let entries = groups.iter().map(|group| (group.clone(), json!({})));
                    flat.push(("groups", Value::Object(entries.collect())));
                }
            }
        }
        let mut section = Map::new();
        for (path, value) in flat {
            match path.split_once('.') {
                None => {
                    section.insert(path.to_owned(), value);
                }
                Some((outer, inner)) => {
                    let nested = section.entry(outer).or_insert_with(|| json!({}));
                    if let Some(nested) = nested.as_object_mut() {
                        nested.insert(inner.to_owned(), value);
                    }
                }
            }
        }
        section
    }
}

pub(super) fn settings(
    product: Product,
    people: &People,
    named: &[String],
    settings: &mut Settings,
) {
    if people.users.is_none() && people.groups.is_none() {
        settings.notes.push(
            "security.users and security.groups are left out: clawsec admits everybody, and \
             writes no list for a channel."
                .to_owned(),
        );
        return;
    }
    let policy = "a group nobody listed is not answered";
    settings.put("channels.defaults.groupPolicy", json!("allowlist"), policy);
    let mut why = Some("channel messages do not pass clawsec: security.users, security.groups");
    for name in told(people, named) {
        let Some(channel) = Channel::named(&name) else {
            settings.notes.push(format!(
                "clawsec does not know how the channel {name} writes its lists; set them by hand."
            ));
            continue;
        };
        let section = channel.section(product, &channel.wanted(people));
        let path = format!("channels.{name}");
        settings.put(
            &path,
            Value::Object(section),
            why.take().unwrap_or_default(),
        );
    }
}

/// The channels that ids tell of, and those that were named.
fn told(people: &People, named: &[String]) -> BTreeSet<String> {
    let users = people.users.iter().flatten().map(UserId::as_str);
    let groups = people.groups.iter().flatten().map(GroupId::as_str);
    let tells = |id: &str| match id.split_once(':') {
        Some((channel, _)) => Channel::named(channel).map(|channel| channel.name.to_owned()),
        None if id.starts_with('+') || id.ends_with("@g.us") => Some("whatsapp".to_owned()),
        None => None,
    };
    let told = users.chain(groups).filter_map(tells);
    told.chain(named.iter().cloned()).collect()
}
