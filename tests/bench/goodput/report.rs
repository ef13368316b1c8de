//! Rows to JSON and to a table.

use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::client::Goodput;
use super::servers::Who;
use crate::report::say;

/// One attack on both servers.
#[derive(Debug)]
pub(crate) struct Row {
    name: &'static str,
    clawsec: Goodput,
    nginx: Goodput,
    notes: Vec<String>,
}

impl Row {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            clawsec: Goodput::default(),
            nginx: Goodput::default(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn put(&mut self, who: Who, goodput: Goodput) {
        match who {
            Who::Clawsec => self.clawsec = goodput,
            Who::Nginx => self.nginx = goodput,
        }
    }

    pub(crate) fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }
}

/// Prints the table and writes the same as JSON.
pub(crate) fn write(rows: &[Row], out: &Path) -> anyhow::Result<()> {
    say("\nanswers a second of the allowed client, without and under the attack");
    say(
        "| attack | clawsec | under it | kept | nginx, nftables | under it | kept | clawsec : nginx, kept | |\n\
         |---|---|---|---|---|---|---|---|---|",
    );
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    for row in rows {
        let (ours, theirs) = (&row.clawsec, &row.nginx);
        say(&format!(
            "| {} | {:.0} | {:.0} | **{}** | {:.0} | {:.0} | {} | {:.1} | {} |",
            row.name,
            ours.quiet(),
            ours.under(),
            percent(ours.share()),
            theirs.quiet(),
            theirs.under(),
            percent(theirs.share()),
            ours.share() / theirs.share(),
            row.notes.join("; ")
        ));
    }
    let each = |goodput: &Goodput| json!({ "quiet": goodput.quiet, "under": goodput.under, "kept": goodput.share() });
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({ "attack": row.name, "clawsec": each(&row.clawsec),
                "nginx": each(&row.nginx), "notes": row.notes })
        })
        .collect();
    let text = serde_json::to_string_pretty(&json!({ "rows": rows }))?;
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).context("make the output's folder")?;
    }
    std::fs::write(out, text).with_context(|| format!("write {}", out.display()))
}
