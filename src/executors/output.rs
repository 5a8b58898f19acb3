//! What the lines of a command's output say: progress, a report, or a line of the log.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::plain_text::{MAX_LINE, plain};

/// What one line says.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// The line begins with a percent, or has one: how far the work is, and its step.
    Progress { percent: u8, step: String },
    /// The line is a JSON object with these members only.
    Report(OutputReport),
    /// Any other line.
    Log(String),
}

/// A report as a line of JSON. Absent members say nothing.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OutputReport {
    pub(crate) progress: Option<f64>,
    pub(crate) step: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) log: Option<String>,
    #[serde(deserialize_with = "given")]
    pub(crate) result: Option<Value>,
    pub(crate) error: Option<String>,
    /// With `error`: whether a job may be tried again.
    pub(crate) retry: Option<bool>,
}

/// A result of `null` is a result.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// Cuts bytes into lines, whatever the pieces in which they come. Its memory is bounded: of a line without an end only
/// the first part is kept.
#[derive(Debug, Default)]
pub(crate) struct OutputParser {
    /// A line with exactly one percent is progress, wherever that stands.
    is_anywhere: bool,
    /// The most bytes of a line that may be a report.
    longest_report: usize,
    line: Vec<u8>,
    /// The last byte was a carriage return: a newline after it ends no other line.
    after_return: bool,
}

impl OutputParser {
    pub(crate) fn new(is_anywhere: bool) -> OutputParser {
        OutputParser {
            is_anywhere,
            ..OutputParser::default()
        }
    }

    /// Takes reports whose line has up to this many bytes.
    pub(crate) fn with_reports_of(mut self, longest_report: usize) -> OutputParser {
        self.longest_report = longest_report;
        self
    }

    /// Reads the next bytes, and calls `say` for each line that ends in them.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], say: &mut impl FnMut(Said)) {
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            let (part, rest) = bytes.split_at(end);
            let is_second_half = self.after_return && part.is_empty() && rest[0] == b'\n';
            self.after_return = rest[0] == b'\r';
            bytes = &rest[1..];
            if !is_second_half {
                self.keep(part);
                self.end_line(say);
            }
        }
        if !bytes.is_empty() {
            self.after_return = false;
            self.keep(bytes);
        }
    }

    /// The output has ended, perhaps within a line.
    pub(crate) fn finish(&mut self, say: &mut impl FnMut(Said)) {
        self.end_line(say);
    }

    /// The log marks a line that is cut, so one byte more is kept than a line may have.
    fn keep(&mut self, part: &[u8]) {
        let first = self.line.first().or(part.first());
        let most = match first {
            Some(b'{') => self.longest_report.max(MAX_LINE + 1),
            _ => MAX_LINE + 1,
        };
        let room = most.saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end_line(&mut self, say: &mut impl FnMut(Said)) {
        if !self.line.is_empty() {
            let text = String::from_utf8_lossy(&self.line);
            let line = plain(&text);
            if !line.trim().is_empty() {
                say(read(&line, self.is_anywhere));
            }
            self.line.clear();
            self.line.shrink_to(2 * MAX_LINE);
        }
    }
}

/// What a line says.
fn read(line: &str, is_anywhere: bool) -> Said {
    let trimmed = line.trim();
    if trimmed.starts_with('{')
        && let Ok(report) = serde_json::from_str::<OutputReport>(trimmed)
        && report != OutputReport::default()
    {
        return Said::Report(report);
    }
    let said = at_start(trimmed).or_else(|| is_anywhere.then(|| only_one(trimmed)).flatten());
    said.unwrap_or_else(|| Said::Log(line.to_owned()))
}

/// `45%`, `45.7 % Resizing page 3`.
fn at_start(line: &str) -> Option<Said> {
    let number = number_at_end(&line[..line.find('%')?], true)?;
    let rest = &line[line.find('%')? + 1..];
    // "100%ige" is a word.
    let is_apart = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '%');
    is_apart.then(|| Said::Progress {
        percent: number,
        step: rest.trim().to_owned(),
    })
}

/// The one percent of a line. What stands before and after it is not a step: it changes with each line.
fn only_one(line: &str) -> Option<Said> {
    let mut signs = line.match_indices('%');
    let (at, _) = signs.next()?;
    if signs.next().is_some() {
        return None;
    }
    let percent = number_at_end(&line[..at], false)?;
    let step = String::new();
    Some(Said::Progress { percent, step })
}

/// The number from 0 to 100 with which a text ends; `is_all`: and of which it consists.
fn number_at_end(text: &str, is_all: bool) -> Option<u8> {
    let text = text.trim_end();
    let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == ',';
    let start = text.len() - text.chars().rev().take_while(|c| is_part(*c)).count();
    let number = text[start..].replace(',', ".");
    let is_apart = !text[..start].ends_with(['-', '+']);
    if is_all && start > 0 || !is_apart || !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    (0.0..=100.0).contains(&number).then_some(number as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(pieces: &[&[u8]], is_anywhere: bool) -> Vec<Said> {
        let mut parser = OutputParser::new(is_anywhere);
        let mut all = Vec::new();
        for piece in pieces {
            parser.feed(piece, &mut |said| all.push(said));
        }
        parser.finish(&mut |said| all.push(said));
        all
    }

    fn one(line: &str, is_anywhere: bool) -> Said {
        said(&[line.as_bytes()], is_anywhere).remove(0)
    }

    fn progress(percent: u8, step: &str) -> Said {
        let step = step.to_owned();
        Said::Progress { percent, step }
    }

    #[test]
    fn a_percent_at_the_start_is_progress_and_the_rest_its_step() {
        for (line, percent, step) in [
            ("45%", 45, ""),
            ("45 % Resizing page 3", 45, "Resizing page 3"),
            ("  7% x", 7, "x"),
            ("45.9% half", 45, "half"),
            ("45,9 %", 45, ""),
            ("100%", 100, ""),
            ("0% of 3%", 0, "of 3%"),
            ("12%: copying", 12, ": copying"),
        ] {
            assert_eq!(one(line, false), progress(percent, step), "{line}");
        }
        for line in [
            "101%", "-5%", "x 45%", "4 5%", "%", "1.2.3%", ".5%", "100%ige", "50%%", "1e1%",
        ] {
            assert_eq!(one(line, false), Said::Log(line.to_owned()), "{line}");
        }
    }

    #[test]
    fn a_percent_anywhere_counts_where_the_type_says_so() {
        for (line, percent) in [
            ("  1,238,099 100%  146.38kB/s    0:00:08", 100),
            ("########        55.5%", 55),
            ("Progress: [ 42%] [####....]", 42),
            ("1.0GiB 0:00:01 [1.0GiB/s] [=====>  ] 37% ETA 0:00:02", 37),
        ] {
            assert_eq!(one(line, true), progress(percent, ""), "{line}");
            assert_eq!(one(line, false), Said::Log(line.to_owned()), "{line}");
        }
        for line in ["10% of 20%... no: a 30% b 40%", "x 300%", "x-5%", "none"] {
            let said = one(line, true);
            assert!(
                matches!(said, Said::Log(_) | Said::Progress { percent: 10, .. }),
                "{line}"
            );
        }
        assert_eq!(
            one("a 30% b 40%", true),
            Said::Log("a 30% b 40%".to_owned())
        );
    }

    #[test]
    fn a_json_object_of_known_members_is_a_report() {
        let report = one(
            r#" {"progress": 45.5, "step": "a", "result": [1], "retry": false} "#,
            false,
        );
        assert_eq!(
            report,
            Said::Report(OutputReport {
                progress: Some(45.5),
                step: Some("a".to_owned()),
                result: Some(serde_json::json!([1])),
                retry: Some(false),
                ..OutputReport::default()
            })
        );
        let null = OutputReport {
            result: Some(Value::Null),
            ..OutputReport::default()
        };
        assert_eq!(one(r#"{"result": null}"#, false), Said::Report(null));
        for line in [
            r#"{"level":"info"}"#,
            r#"{"progress":1,"x":2}"#,
            "{}",
            "{",
            r#"{"step":null}"#,
            r#"{"progress":"1"}"#,
            "[1]",
        ] {
            assert_eq!(one(line, false), Said::Log(line.to_owned()), "{line}");
        }
    }

    #[test]
    fn lines_end_as_terminals_end_them() {
        let lines = said(
            &[
                b"a\r",
                b"\nb\r\r\nc\n\n \n10%\rred \x1b[31mx\x1b[0m\r\xff\xfe",
            ],
            false,
        );
        let log = |text: &str| Said::Log(text.to_owned());
        assert_eq!(
            lines,
            [
                log("a"),
                log("b"),
                log("c"),
                progress(10, ""),
                log("red x"),
                log("\u{fffd}\u{fffd}")
            ]
        );
    }

    #[test]
    fn a_line_without_an_end_takes_no_more_memory() {
        let mut parser = OutputParser::new(false);
        for _ in 0..1_000 {
            parser.feed(&[b'x'; 100_000], &mut |_| panic!("no line has ended"));
        }
        assert!(parser.line.capacity() <= 4 * MAX_LINE);
        let mut lines = Vec::new();
        parser.feed(b"\nnext\n", &mut |said| lines.push(said));
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], Said::Log("next".to_owned()));
    }

    #[test]
    fn a_report_may_be_longer_than_a_line_of_a_log() {
        let line = format!("{{\"result\":\"{}\"}}\n", "x".repeat(3 * MAX_LINE));
        let mut said = Vec::new();
        let mut parser = OutputParser::new(false).with_reports_of(4 * MAX_LINE);
        for part in line.as_bytes().chunks(1_000) {
            parser.feed(part, &mut |one| said.push(one));
        }
        assert!(matches!(&said[..], [Said::Report(report)] if report.result.is_some()));
        assert!(parser.line.capacity() <= 2 * MAX_LINE);
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'%'), Just(b'\x1b'), b'0'..=b'9', any::<u8>()], 0..200),
            cuts in proptest::collection::vec(0..200_usize, 0..10),
            is_anywhere: bool,
        ) {
            let whole = said(&[&bytes], is_anywhere);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(said(&pieces, is_anywhere), whole);
        }
    }
}
