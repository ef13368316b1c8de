//! `clawsec key rotate`: a new key, with the one before it beside it for a while.
//!
//! Invariant: the file is replaced whole, by a text that clawsec's own reader has taken, and by
//! nothing where somebody else has changed it meanwhile. Comments stay.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::{SignedDuration, Timestamp};
use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstNode, CstObject, CstRootNode};
use zeroize::Zeroizing;

use super::list::time;
use super::{hash, new_key};
use crate::cli::timed::duration;
use crate::cli::{CommandResult, ConfigArgument, Failure, output};
use crate::config::{self, Config, FileTrust, ProcessSources};

#[derive(Debug, clap::Args)]
pub(crate) struct RotateArguments {
    /// Whose key, as `clawsec key list` names it.
    id: String,
    /// How long the key before it still opens, such as 90s, 1h or 7d.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    overlap: Duration,
    /// End the key before it at once, since somebody else has it.
    #[arg(long, conflicts_with = "overlap")]
    now: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn rotate(arguments: &RotateArguments) -> CommandResult {
    let config = arguments.config.load(FileTrust::Run)?;
    let written = Zeroizing::new(fs::read_to_string(&config.path).map_err(Failure::other)?);
    let path = current(&config, &arguments.id).map_err(Failure::usage)?;
    let end = if arguments.now {
        None
    } else {
        let overlap = SignedDuration::try_from(arguments.overlap).map_err(Failure::usage)?;
        let end = Timestamp::now().checked_add(overlap);
        Some(time(end.map_err(Failure::usage)?.as_second()))
    };
    let key = new_key()?;
    let edit = Edit {
        path: &path,
        id: &arguments.id,
        hash: hash(key.as_bytes()),
        end: end.as_deref(),
    };
    let text = Zeroizing::new(edit.apply(&written).map_err(Failure::usage)?);
    config::compile(&text, &config.path, &ProcessSources::new(FileTrust::Run))
        .map_err(Failure::usage)?;
    replace(&config.path, &written, &text).map_err(Failure::other)?;

    let mut said = Zeroizing::new(String::new());
    let id = &arguments.id;
    said.push_str(&format!(
        "new key of {id:?} (shown once, give it to the client):\n  "
    ));
    said.push_str(&key);
    said.push_str(&match end {
        Some(end) => format!("\n\nthe key before it opens until {end}\n"),
        None => "\n\nthe key before it opens nothing any more\n".to_owned(),
    });
    said.push_str(&format!(
        "{} is changed; a running daemon takes it within a second\n",
        config.path.display()
    ));
    output::print(&said);
    Ok(ExitCode::SUCCESS)
}

/// Where the key of this id stands.
fn current(config: &Config, id: &str) -> anyhow::Result<String> {
    let credentials = &config.policy.credentials;
    let mut specs = credentials.specs().filter(|spec| spec.id == id);
    let current = specs.find(|spec| !spec.path.ends_with(".previous"));
    let Some(current) = current else {
        let ids: Vec<&str> = credentials.ids().collect();
        bail!("there is no key {id:?}; there are: {}", ids.join(", "));
    };
    let over = current.not_after;
    if over.is_some_and(|end| end <= Timestamp::now().as_second()) {
        bail!(
            "the access of {id:?} has ended: give {}.notAfter a later time first",
            current.path
        );
    }
    Ok(current.path.clone())
}

/// A change of one key in the file's text.
struct Edit<'a> {
    /// `security.auth.key`, or `security.auth.tokens[N]`.
    path: &'a str,
    id: &'a str,
    /// Of the new key.
    hash: String,
    /// When the key before it ends; `None` is at once.
    end: Option<&'a str>,
}

impl Edit<'_> {
    fn apply(&self, text: &str) -> anyhow::Result<String> {
        let (mark, text) = match text.strip_prefix('\u{feff}') {
            Some(rest) => ("\u{feff}", rest),
            None => ("", text),
        };
        let root = CstRootNode::parse(text, &ParseOptions::default())?;
        let auth = root
            .object_value()
            .and_then(|root| root.object_value("security")?.object_value("auth"))
            .context("find security.auth in the file")?;
        match self.index() {
            None => self.only_key(&auth)?,
            Some(index) => {
                let tokens = auth
                    .array_value("tokens")
                    .context("find security.auth.tokens")?;
                let token = tokens.elements().into_iter().nth(index);
                self.token(&token.with_context(|| format!("find {}", self.path))?)?;
            }
        }
        Ok(format!("{mark}{root}"))
    }

    fn index(&self) -> Option<usize> {
        let digits = self.path.strip_prefix("security.auth.tokens[")?;
        digits.strip_suffix(']')?.parse().ok()
    }

    /// `{ type: "apiKey", key: … }` has room for one; it becomes a list of tokens.
    fn only_key(&self, auth: &CstObject) -> anyhow::Result<()> {
        let key = auth.get("key").context("find security.auth.key")?;
        let before = text_of(key.value())?;
        let entry = self.entry(before);
        key.replace_with("tokens", CstInputValue::Array(vec![entry]));
        let kind = auth.get("type").context("find security.auth.type")?;
        kind.set_value(text("token"));
        Ok(())
    }

    fn token(&self, token: &CstNode) -> anyhow::Result<()> {
        let Some(object) = token.as_object() else {
            let before = text_of(Some(token.clone()))?;
            if let Some(literal) = token.as_string_lit() {
                literal.replace_with(self.entry(before));
            }
            return Ok(());
        };
        let Some(key) = object.get("token") else {
            bail!(
                "{} stands for a certificate: write the new one's digits",
                self.path
            );
        };
        let before = text_of(key.value())?;
        key.set_value(text(&self.hash));
        // Of two before, the older ends.
        if let Some(older) = object.get("previous") {
            older.remove();
        }
        if let Some(previous) = self.previous(before) {
            object.insert(key.property_index() + 1, "previous", previous);
        }
        Ok(())
    }

    /// What a plain key becomes: the same rights, written out.
    fn entry(&self, before: String) -> CstInputValue {
        let scopes = CstInputValue::Array(vec![text("operator.admin")]);
        let mut entry = vec![
            ("id".to_owned(), text(self.id)),
            ("scopes".to_owned(), scopes),
            ("token".to_owned(), text(&self.hash)),
        ];
        let previous = self.previous(before);
        entry.extend(previous.map(|previous| ("previous".to_owned(), previous)));
        CstInputValue::Object(entry)
    }

    fn previous(&self, before: String) -> Option<CstInputValue> {
        let end = self.end?;
        Some(CstInputValue::Object(vec![
            ("token".to_owned(), CstInputValue::String(before)),
            ("notAfter".to_owned(), text(end)),
        ]))
    }
}

fn text(text: &str) -> CstInputValue {
    CstInputValue::String(text.to_owned())
}

fn text_of(node: Option<CstNode>) -> anyhow::Result<String> {
    let literal = node.and_then(|node| node.as_string_lit());
    let literal = literal.context("find the key's text")?;
    literal
        .decoded_value()
        .map_err(|error| anyhow::anyhow!("read the key's text: {error:?}"))
}

/// Puts `text` in the place of a file that still is `before`, with its mode and owner.
fn replace(path: &Path, before: &str, text: &str) -> anyhow::Result<()> {
    let path = &path.canonicalize()?;
    let named = || format!("replace {}", path.display());
    let name = path.file_name().with_context(named)?.to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    let metadata = fs::metadata(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .with_context(|| {
            format!(
                "write {}; remove it if no other clawsec runs",
                new.display()
            )
        })?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| fchown(&file, Some(metadata.uid()), Some(metadata.gid())))
        .and_then(|()| file.set_permissions(metadata.permissions()))
        .and_then(|()| file.sync_all());
    let written = written.map_err(anyhow::Error::from).and_then(|()| {
        if *before != *fs::read_to_string(path)? {
            bail!("somebody else has just changed it: try again");
        }
        Ok(fs::rename(&new, path)?)
    });
    if let Err(error) = written {
        // What is left is named by the next run.
        let _left = fs::remove_file(&new);
        return Err(error).with_context(named);
    }
    if let Some(folder) = path.parent() {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(named)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "2027-01-31T12:00:00Z";

    fn edited(file: &str, path: &str, end: Option<&str>) -> anyhow::Result<String> {
        let edit = Edit {
            path,
            id: "phone",
            hash: hash(b"the-new-key"),
            end,
        };
        edit.apply(file)
    }

    /// Each key that opens, and until when.
    fn keys(text: &str) -> Vec<(String, String, Option<i64>)> {
        let config = config::compile(
            text,
            Path::new("c.json"),
            &ProcessSources::new(FileTrust::Read),
        )
        .unwrap();
        let specs = config.policy.credentials.specs();
        let mut keys: Vec<_> = specs
            .map(|spec| (spec.path.clone(), spec.id.clone(), spec.not_after))
            .collect();
        keys.sort();
        keys
    }

    #[test]
    fn comments_stay_and_both_keys_open() {
        let file = "{\n  // who\n  security: { auth: {\n    type: 'token', tokens: [\n      \
                    // mine\n      { id: 'phone', token: 'the-old-key-of-twenty', user: '+1555' }, // phone\n      \
                    { id: 'desk', token: 'another-key-of-twenty' },\n    ] } },\n}\n";
        let new = edited(file, "security.auth.tokens[0]", Some(END)).unwrap();
        for comment in ["// who\n", "// mine\n", "// phone\n"] {
            assert!(new.contains(comment), "{new}");
        }
        let end = Some(1_801_396_800);
        let expected = [
            ("security.auth.tokens[0]", "phone", None),
            ("security.auth.tokens[0].previous", "phone", end),
            ("security.auth.tokens[1]", "desk", None),
        ];
        let expected = expected.map(|(path, id, end)| (path.to_owned(), id.to_owned(), end));
        assert_eq!(keys(&new), expected, "{new}");
        // Once more: the new one becomes the one before, and the first is gone.
        let newer = edited(&new, "security.auth.tokens[0]", Some(END)).unwrap();
        assert!(!newer.contains("the-old-key"), "{newer}");
        assert_eq!(newer.matches("previous").count(), 1, "{newer}");
        let none = edited(&new, "security.auth.tokens[0]", None).unwrap();
        assert_eq!(keys(&none).len(), 2, "{none}");
    }

    #[test]
    fn the_seed_s_short_forms_become_entries_with_the_same_rights() {
        for (file, path) in [
            (
                "{ security: { auth: { type: \"apiKey\", key: \"the-old-key-of-twenty\" } } }",
                "security.auth.key",
            ),
            (
                "{ security: { auth: { type: \"token\", tokens: [\"the-old-key-of-twenty\"] } } }",
                "security.auth.tokens[0]",
            ),
        ] {
            let new = edited(file, path, Some(END)).unwrap();
            assert_eq!(keys(&new).len(), 2, "{new}");
            assert!(new.contains("operator.admin"), "{new}");
        }
        let reference = "\u{feff}{ security: { auth: { type: 'apiKey', key: '${API_KEY}' } } }";
        let new = edited(reference, "security.auth.key", Some(END)).unwrap();
        assert!(
            new.starts_with('\u{feff}') && new.contains("\"${API_KEY}\""),
            "{new}"
        );
    }

    #[test]
    fn a_certificate_is_not_rotated() {
        let file = "{ security: { auth: { type: 'token', tokens: [{ cert: 'sha256:00' }] } } }";
        let error = edited(file, "security.auth.tokens[0]", Some(END)).unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    }

    #[test]
    fn a_file_that_changed_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        fs::write(&path, "theirs").unwrap();
        let error = replace(&path, "mine", "new").unwrap_err();
        assert!(format!("{error:#}").contains("somebody else"), "{error:#}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        replace(&path, "theirs", "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
