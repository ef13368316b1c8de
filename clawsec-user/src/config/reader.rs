//! Typed readers over the tree: a section is asked for its keys, and what nobody asked for is
//! unknown.
//!
//! Invariant: each reader reports what is wrong and gives `None`; none stops the pass, so that
//! one run shows every problem. A field of secrets never shows what was found.

mod value;

use super::problem::Problem;
use super::redact::{Change, Edit};
use super::report::Report;
use super::tree::{Member, Node, Text, Value, join};

/// One object of the document, or one that is left out and has no keys.
pub(super) struct Section<'r, 't> {
    pub(super) report: &'r mut Report,
    members: &'t [Member],
    offset: usize,
    path: String,
}

/// One place where a value may stand.
pub(super) struct Field<'r, 't> {
    place: Place<'r>,
    node: Option<&'t Node>,
}

/// Where something is said about a value.
pub(super) struct Place<'r> {
    report: &'r mut Report,
    /// Where the value stands; where it is left out, its section.
    offset: usize,
    path: String,
}

impl Place<'_> {
    pub(super) fn problem(&mut self, message: impl Into<String>) -> &mut Problem {
        self.report.problem(self.offset, &self.path, message)
    }

    pub(super) fn warn(&mut self, message: impl Into<String>) {
        self.report.warn(&self.path, message);
    }

    /// Changes the value in the redacted document.
    pub(super) fn redact(&mut self, change: Change) {
        self.report.edit(Edit {
            path: self.path.clone(),
            change,
        });
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }
}

impl<'r, 't> Section<'r, 't> {
    pub(super) fn root(node: &'t Node, report: &'r mut Report) -> Self {
        let members = match &node.value {
            Value::Object(members) => members.as_slice(),
            _ => &[],
        };
        Self {
            report,
            members,
            offset: node.offset,
            path: String::new(),
        }
    }

    /// The place of one key; asking makes the key known.
    pub(super) fn at(&mut self, key: &str) -> Field<'_, 't> {
        let path = join(&self.path, key);
        self.report.ask(&path);
        let node = self.members.iter().find(|m| m.key == key).map(|m| &m.node);
        let offset = node.map_or(self.offset, |node| node.offset);
        Field {
            place: Place {
                report: self.report,
                offset,
                path,
            },
            node,
        }
    }

    /// A field under either of two names; both at once is a problem.
    pub(super) fn at_either(&mut self, key: &str, synonym: &str) -> Field<'_, 't> {
        let second = self.at(synonym);
        if !second.is_present() {
            return self.at(key);
        }
        if self.members.iter().any(|member| member.key == key) {
            let second = self.at(synonym);
            second.problem(format!("the same key as `{key}`, which stands here too"));
        }
        self.report.ask(&join(&self.path, key));
        self.at(synonym)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.members.iter().any(|member| member.key == key)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        for member in self.members {
            let path = join(&self.path, &member.key);
            self.report
                .see(member.offset, &self.path, &path, &member.key);
        }
    }
}

impl<'t> Field<'_, 't> {
    pub(super) fn is_present(&self) -> bool {
        self.node.is_some()
    }

    pub(super) fn is_text(&self) -> bool {
        self.text_node().is_some()
    }

    pub(super) fn is_object(&self) -> bool {
        self.node
            .is_some_and(|node| matches!(node.value, Value::Object(_)))
    }

    pub(super) fn path(&self) -> &str {
        &self.place.path
    }

    /// Reports this place unless something stands there.
    pub(super) fn required(mut self, expected: &str) -> Self {
        if self.node.is_none() {
            let problem = self.place.problem("missing");
            problem.expected = Some(expected.to_owned());
        }
        self
    }

    /// Refuses a key of one agent's that holds for all; what is silently ignored would be believed
    /// to protect.
    pub(super) fn for_all_agents(self) {
        if self.is_present() {
            self.problem("is said in `security.sandbox`, for all agents; leave it out here");
        }
    }

    pub(super) fn problem(mut self, message: impl Into<String>) {
        self.place.problem(message);
    }

    pub(super) fn warn(mut self, message: impl Into<String>) {
        self.place.warn(message);
    }

    pub(super) fn redact(mut self, change: Change) {
        self.place.redact(change);
    }

    pub(super) fn offset(&self) -> usize {
        self.place.offset
    }

    /// Reads each element; what an element's reader refuses is left out.
    pub(super) fn list<T>(
        self,
        mut read: impl FnMut(Field<'_, 't>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::List(nodes) = &self.node?.value else {
            return self.mistyped("a list");
        };
        let mut values = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let place = Place {
                report: &mut *self.place.report,
                offset: node.offset,
                path: format!("{}[{index}]", self.place.path),
            };
            values.extend(read(Field {
                place,
                node: Some(node),
            }));
        }
        Some(values)
    }

    /// A list of texts.
    pub(super) fn texts(self) -> Option<Vec<String>> {
        self.list(|element| element.text().map(str::to_owned))
    }

    /// Reads an object, if one stands here.
    pub(super) fn object<T>(self, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> Option<T> {
        let node = self.node?;
        let Value::Object(members) = &node.value else {
            return self.mistyped("an object");
        };
        let mut section = Section {
            report: self.place.report,
            members,
            offset: node.offset,
            path: self.place.path,
        };
        let value = read(&mut section);
        section.finish();
        Some(value)
    }

    /// Reads an object; one that is left out is read as `{}`, for its defaults.
    pub(super) fn section<T>(mut self, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> T {
        let members: &'t [Member] = match self.node.map(|node| &node.value) {
            Some(Value::Object(members)) => members,
            Some(_) => {
                self.reborrow().mistyped::<()>("an object");
                &[]
            }
            None => &[],
        };
        let mut section = Section {
            report: self.place.report,
            members,
            offset: self.place.offset,
            path: self.place.path,
        };
        let value = read(&mut section);
        section.finish();
        value
    }

    fn reborrow(&mut self) -> Field<'_, 't> {
        let place = Place {
            report: &mut *self.place.report,
            offset: self.place.offset,
            path: self.place.path.clone(),
        };
        Field {
            place,
            node: self.node,
        }
    }

    fn text_node(&self) -> Option<&'t Text> {
        match &self.node?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Reports a value of another kind; nothing where none stands, or where its reference could
    /// not be resolved.
    pub(super) fn mistyped<T>(mut self, expected: &str) -> Option<T> {
        let found = match &self.node?.value {
            Value::Unresolved => return None,
            Value::Null => "null".to_owned(),
            Value::Boolean(value) => value.to_string(),
            // Without its digits: somebody's key may be all digits, and stand in a wrong place.
            Value::Number(_) => "a number".to_owned(),
            Value::Text(text) if text.value.is_empty() => "an empty text".to_owned(),
            Value::Text(_) => "a text".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        };
        let problem = self.place.problem("");
        problem.found = Some(found);
        problem.expected = Some(expected.to_owned());
        None
    }
}
