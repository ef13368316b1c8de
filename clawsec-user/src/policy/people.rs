//! Users and groups as requests claim them, and the allow lists that admit them.

use super::{Denial, Reason};

/// A user: a phone number in E.164, or a channel's id, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

impl UserId {
    /// Reads `+1 (555) 123-4567`, `whatsapp:+15551234567` and `15551234567@s.whatsapp.net` as
    /// one and the same.
    pub fn new(text: &str) -> Self {
        let text = text.trim().to_lowercase();
        let bare = text.strip_suffix("@s.whatsapp.net").unwrap_or(&text);
        let bare = match bare.rsplit_once(':') {
            Some((_, number)) if number.starts_with('+') => number,
            _ => bare,
        };
        let digits: String = bare
            .chars()
            .filter(|c| !matches!(c, ' ' | '-' | '(' | ')' | '.' | '+'))
            .collect();
        let is_number = digits.len() >= 7
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && !bare.contains('@');
        Self(if is_number {
            format!("+{digits}")
        } else {
            text
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A group: a channel's id (`1203…@g.us`) or an e-mail-like name, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(String);

impl GroupId {
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_lowercase())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `security.users` and `security.groups`. A list that is left out admits everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct People {
    pub users: Option<Vec<UserId>>,
    pub groups: Option<Vec<GroupId>>,
}

impl People {
    pub fn judge_user(&self, user: &UserId) -> Result<(), Denial> {
        match &self.users {
            Some(allowed) if !allowed.contains(user) => Err(Denial::new(
                Reason::UserNotAllowed,
                "security.users.allowList",
            )),
            _ => Ok(()),
        }
    }

    pub fn judge_group(&self, group: &GroupId) -> Result<(), Denial> {
        match &self.groups {
            Some(allowed) if !allowed.contains(group) => Err(Denial::new(
                Reason::GroupNotAllowed,
                "security.groups.allowList",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_has_one_spelling() {
        let rows = [
            "+15551234567",
            "15551234567",
            "+1 (555) 123-4567",
            " +1.555.123.4567 ",
            "whatsapp:+15551234567",
            "15551234567@s.whatsapp.net",
        ];
        for text in rows {
            assert_eq!(UserId::new(text).as_str(), "+15551234567", "{text}");
        }
        assert_eq!(
            UserId::new("Alice@Example.org").as_str(),
            "alice@example.org"
        );
        assert_eq!(UserId::new("telegram:12").as_str(), "telegram:12");
    }

    #[test]
    fn a_list_left_out_admits_everybody_and_an_empty_one_nobody() {
        let open = People::default();
        assert!(open.judge_user(&UserId::new("x")).is_ok());
        let closed = People {
            users: Some(vec![]),
            groups: Some(vec![GroupId::new("A@G.us")]),
        };
        assert!(closed.judge_user(&UserId::new("x")).is_err());
        assert!(closed.judge_group(&GroupId::new("a@g.us")).is_ok());
    }
}
