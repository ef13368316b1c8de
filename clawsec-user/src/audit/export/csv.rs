//! RFC 4180: a heading, CRLF, quotes where they are needed; and nothing that a spreadsheet computes.
//!
//! Texts of strangers stand in the log. A cell that begins as a formula does gets a `'` before it,
//! which spreadsheets take for «text»; numbers of ours need none.

use std::fmt::Display;
use std::io::Write as _;

use super::super::record::Record;

/// The names of the columns, in the order of `csv`.
pub const HEADER: &str = "seq,ts,event,action,outcome,reason,rule,generation,src_ip,src_port,\
request,principal,user,group,agent,session,tool,tool_args_bytes,sandbox_provider,sandbox_exit,\
sandbox_signal,sandbox_oom,sandbox_timed_out,sandbox_duration_ms,sandbox_output_bytes,\
sandbox_truncated,duration_ms,count,settles,sources,epoch,totals,first,last,detail,prev,hash\r\n";

/// Appends the row of one record.
pub fn csv(record: &Record, out: &mut Vec<u8>) {
    let mut row = Row { out, first: true };
    row.number(Some(record.seq));
    row.number(Some(record.ts));
    row.text(Some(record.event.as_str()));
    row.text(Some(&record.action));
    row.text(Some(record.outcome.as_str()));
    row.text(Some(&record.reason));
    row.text(record.rule.as_deref());
    row.number((record.generation > 0).then_some(record.generation));
    row.number(record.src.map(|src| src.ip));
    row.number(record.src.and_then(|src| src.port));
    for name in [
        &record.request,
        &record.principal,
        &record.user,
        &record.group,
        &record.agent,
        &record.session,
    ] {
        row.text(name.as_deref());
    }
    let tool = record.tool.as_ref();
    row.text(tool.map(|tool| tool.name.as_str()));
    row.number(tool.map(|tool| tool.args_bytes));
    let sandbox = record.sandbox.as_ref();
    row.text(sandbox.map(|sandbox| sandbox.provider.as_str()));
    row.number(sandbox.and_then(|sandbox| sandbox.exit));
    row.number(sandbox.and_then(|sandbox| sandbox.signal));
    row.number(sandbox.map(|sandbox| sandbox.oom));
    row.number(sandbox.map(|sandbox| sandbox.timed_out));
    row.number(sandbox.map(|sandbox| sandbox.duration_ms));
    row.number(sandbox.map(|sandbox| sandbox.output_bytes));
    row.number(sandbox.map(|sandbox| sandbox.truncated));
    row.number(record.duration_ms);
    row.number(Some(record.count));
    row.number((record.settles > 0).then_some(record.settles));
    row.number(record.sources);
    row.number(record.epoch);
    let totals = record.totals.as_ref();
    // Plain names and numbers; writing them to memory cannot fail.
    let totals = totals.map(|totals| serde_json::to_string(totals).unwrap_or_default());
    row.text(totals.as_deref());
    row.number(record.first);
    row.number(record.last);
    row.text(record.detail.as_deref());
    row.number(Some(record.prev));
    row.number(Some(record.hash));
    out.extend_from_slice(b"\r\n");
}

struct Row<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Row<'_> {
    /// A number, a time, an address or a hash: nothing in it needs quotes.
    fn number(&mut self, value: Option<impl Display>) {
        self.begin();
        if let Some(value) = value {
            // Writing to memory cannot fail.
            let _written = write!(self.out, "{value}");
        }
    }

    fn text(&mut self, text: Option<&str>) {
        self.begin();
        let Some(text) = text else {
            return;
        };
        let mark = if text.starts_with(BEGINS_FORMULA) {
            "'"
        } else {
            ""
        };
        if text.contains(['"', ',', '\r', '\n']) {
            let doubled = text.replace('"', "\"\"");
            let _written = write!(self.out, "\"{mark}{doubled}\"");
        } else {
            self.out.extend_from_slice(mark.as_bytes());
            self.out.extend_from_slice(text.as_bytes());
        }
    }

    fn begin(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
    }
}

/// What spreadsheets compute, in their wide forms too; and what they take away before they look.
const BEGINS_FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"v":1,"seq":3,"ts":"2026-01-01T00:00:00.123456Z","event":"tool","action":"invoke","outcome":"deny","reason":"tool_denied","src":{"ip":"2001:db8::1","port":443},"user":"NAME","tool":{"name":"exec","args_bytes":3},"sandbox":{"provider":"docker","exit":-1,"oom":false,"timed_out":true,"duration_ms":5,"output_bytes":6,"truncated":false},"count":4,"totals":{"a":1},"detail":"a, \"b\"","prev":"0000000000000000000000000000000000000000000000000000000000000000","hash":"1111111111111111111111111111111111111111111111111111111111111111"}"#;

    /// RFC 4180, read by its own rules.
    fn cells(row: &str) -> Vec<String> {
        let mut cells = vec![String::new()];
        let mut quoted = false;
        let mut rest = row.strip_suffix("\r\n").unwrap().chars().peekable();
        while let Some(character) = rest.next() {
            let last = cells.last_mut().unwrap();
            match character {
                '"' if quoted && rest.peek() == Some(&'"') => last.extend(rest.next()),
                '"' => quoted = !quoted,
                ',' if !quoted => cells.push(String::new()),
                other => last.push(other),
            }
        }
        assert!(!quoted);
        cells
    }

    fn row_of(user: &str) -> Vec<(String, String)> {
        let line = LINE.replace("NAME", user);
        let mut row = Vec::new();
        csv(&Record::parse(line.as_bytes()).unwrap(), &mut row);
        let row = String::from_utf8(row).unwrap();
        let (names, cells) = (cells(HEADER), cells(&row));
        assert_eq!(names.len(), cells.len(), "a cell for each column: {row}");
        names.into_iter().zip(cells).collect()
    }

    fn cell(row: &[(String, String)], name: &str) -> String {
        let found = row.iter().find(|(column, _)| column == name);
        found.unwrap().1.clone()
    }

    #[test]
    fn each_cell_stands_under_its_name() {
        let row = row_of("phone");
        for (name, expected) in [
            ("seq", "3"),
            ("ts", "2026-01-01T00:00:00.123456Z"),
            ("event", "tool"),
            ("outcome", "deny"),
            ("rule", ""),
            ("src_ip", "2001:db8::1"),
            ("src_port", "443"),
            ("user", "phone"),
            ("tool", "exec"),
            ("sandbox_exit", "-1"),
            ("sandbox_timed_out", "true"),
            ("count", "4"),
            ("totals", r#"{"a":1}"#),
            ("detail", r#"a, "b""#),
            ("hash", &"1".repeat(64)),
        ] {
            assert_eq!(cell(&row, name), expected, "{name}");
        }
    }

    #[test]
    fn no_text_is_a_formula() {
        for (text, expected) in [
            ("=1+1", "'=1+1"),
            ("+15551234567", "'+15551234567"),
            ("-2", "'-2"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\\t=1", "'\t=1"),
            ("＝1", "'＝1"),
            (
                "=HYPERLINK(\\\"http://x\\\",\\\"y\\\")",
                "'=HYPERLINK(\"http://x\",\"y\")",
            ),
            ("a=1", "a=1"),
            ("two\\r\\nlines", "two\r\nlines"),
        ] {
            assert_eq!(cell(&row_of(text), "user"), expected, "{text}");
        }
    }
}
