//! The progress of a task or a job, drawn in a terminal.

use std::fmt::Write;
use std::time::Duration;

use unicode_width::UnicodeWidthChar;

use crate::events::TaskEvent;
use crate::http::fields::Query;
use crate::http::{Problem, Request};
use crate::log_form::gap;
use crate::log_safe::LogSafe;
use crate::store::LogPart;
use crate::task::{EventKind, Millis, TaskStatus, now_ms};

/// Twice a second, so that the seconds shown do not jump.
pub(crate) const TICK: Duration = Duration::from_millis(500);

pub(crate) const TEXT: &str = "text/plain";
pub(crate) const TEXT_UTF8: &str = "text/plain; charset=utf-8";

pub(crate) const DEFAULT_WIDTH: usize = 80;

const PARAMETERS: [&str; 5] = ["width", "color", "plain", "log", "watch"];

/// How a task is drawn.
pub(crate) struct Screen {
    /// Columns.
    width: usize,
    color: bool,
    /// A line a change, instead of one that is drawn over.
    plain: bool,
    /// With the lines of the log.
    pub(crate) log: bool,
}

impl Screen {
    /// As the query's `width`, `color` and `plain` ask for.
    pub(crate) fn parse(request: &Request<'_>) -> Result<Screen, Problem> {
        Screen::of(Query::new(request, &PARAMETERS[..3]))
    }

    /// As [`parse`](Self::parse), with `log`.
    pub(crate) fn parse_with_log(request: &Request<'_>) -> Result<Screen, Problem> {
        Screen::of(Query::new(request, &PARAMETERS[..4]))
    }

    /// For a recording.
    pub(crate) fn recorded() -> Screen {
        Screen {
            width: DEFAULT_WIDTH,
            color: true,
            plain: false,
            log: false,
        }
    }

    fn of(mut query: Query<'_>) -> Result<Screen, Problem> {
        let screen = Screen::read(&mut query);
        query.finish()?;
        Ok(screen)
    }

    /// Of a request that creates something: the screen, if `watch` asks to see it.
    pub(crate) fn wanted(request: &Request<'_>) -> Result<Option<Screen>, Problem> {
        let mut query = Query::new(request, &PARAMETERS);
        let screen = Screen::read(&mut query);
        let is_wanted = query.flag(PARAMETERS[4]);
        query.finish()?;
        Ok(is_wanted.then_some(screen))
    }

    fn read(query: &mut Query<'_>) -> Screen {
        let width = query.parse("width", "a whole number from 20 to 500", |text| {
            text.parse().ok().filter(|w| (20..=500).contains(w))
        });
        Screen {
            width: width.unwrap_or(DEFAULT_WIDTH),
            color: query.flag("color"),
            plain: query.flag("plain"),
            log: query.flag("log"),
        }
    }
}

/// What stands on the screen.
pub(crate) struct Picture {
    screen: Screen,
    last: Option<TaskEvent>,
    line: String,
}

impl Picture {
    pub(crate) fn new(screen: Screen) -> Picture {
        Picture {
            screen,
            last: None,
            line: String::new(),
        }
    }

    pub(crate) fn title(&self, name: &str) -> String {
        let name = fit(name, self.screen.width - 1);
        format!("{}\n", self.paint("1", &name))
    }

    /// What shows nothing, for a stream that would be silent: a return to the line's begin. `plain` has no such byte.
    pub(crate) fn heartbeat(&self) -> &'static [u8] {
        if self.screen.plain { b"" } else { b"\r" }
    }

    /// Takes in what happened: lines of the log, then events.
    pub(crate) fn draw(
        &mut self,
        out: &mut Vec<u8>,
        log: &LogPart,
        events: Vec<TaskEvent>,
        is_over: bool,
    ) {
        let mut text = String::new();
        self.log(&mut text, log);
        self.change(&mut text, events, now_ms());
        if is_over {
            self.end(&mut text);
        }
        out.extend_from_slice(text.as_bytes());
    }

    /// Takes in events, at the moment `now`.
    pub(crate) fn change(&mut self, out: &mut String, events: Vec<TaskEvent>, now: Millis) {
        if self.screen.plain {
            for event in &events {
                let _ = writeln!(out, "{}", self.plain_line(event));
            }
        }
        self.last = events.into_iter().last().or(self.last.take());
        self.tick(out, now);
    }

    /// Writes lines of the log in the bar's place, which is drawn again below them.
    fn log(&mut self, out: &mut String, part: &LogPart) {
        let gap = (part.dropped > 0).then(|| gap(part.dropped));
        let lines = part.lines.iter().map(|line| match self.screen.plain {
            true => format!(
                "{}  {:<9}        {}",
                second(line.at),
                line.stream.as_str(),
                line.text
            ),
            // Terminals do not agree where a tab ends.
            false => line.text.replace('\t', "    "),
        });
        for line in gap.into_iter().chain(lines) {
            let has_bar = !std::mem::take(&mut self.line).is_empty();
            let covered = if has_bar { self.screen.width - 1 } else { 0 };
            let rest = " ".repeat(covered.saturating_sub(columns(&line)));
            let begin = if has_bar { "\r" } else { "" };
            let _ = writeln!(out, "{begin}{line}{rest}");
        }
    }

    /// Draws the line again where it looks different by now.
    pub(crate) fn tick(&mut self, out: &mut String, now: Millis) {
        let Some(event) = self.last.as_ref().filter(|_| !self.screen.plain) else {
            return;
        };
        let line = self.bar_line(event, now);
        if line != self.line {
            let _ = write!(out, "\r{line}");
            self.line = line;
        }
    }

    /// The last word.
    pub(crate) fn end(&self, out: &mut String) {
        if !self.line.is_empty() {
            out.push('\n');
        }
        let Some(event) = &self.last else {
            return;
        };
        let now = &event.snapshot;
        let took = match (now.started_at, now.completed_at) {
            (Some(from), Some(to)) => format!(" in {}", duration(to.saturating_sub(from))),
            _ => String::new(),
        };
        let reason = now.error.as_deref().unwrap_or_default();
        let reason = match reason {
            "" => String::new(),
            text => format!(": {}", LogSafe(text)),
        };
        let at = format!("at {} %", now.progress);
        let (color, text) = match now.status {
            TaskStatus::Completed => ("32", format!("✔ completed{took}")),
            TaskStatus::Failed => ("31", format!("✘ failed {at}{took}{reason}")),
            TaskStatus::Cancelled => ("33", format!("■ cancelled {at}{took}{reason}")),
            TaskStatus::Pending | TaskStatus::Running => {
                ("33", format!("… {} {at}; the watch ends here", now.status))
            }
        };
        let _ = writeln!(out, "{}", self.paint(color, &text));
    }

    /// `2026-01-31T12:00:00Z  running     40 %  Step 4: what it does`
    fn plain_line(&self, event: &TaskEvent) -> String {
        let at = second(event.at);
        let (kind, percent) = (event.kind.as_str(), event.snapshot.progress);
        let line = format!("{at}  {kind:<9} {percent:>3} %  {}", step(event));
        line.trim_end().to_owned()
    }

    /// `████████░░░░░░░░  40 %  Step 4                 0:02`, exactly one column short of the
    /// width, so that no terminal wraps it and each drawing covers the one before.
    fn bar_line(&self, event: &TaskEvent, now: Millis) -> String {
        let width = self.screen.width - 1;
        let percent = usize::from(event.snapshot.progress);
        let clock = event.snapshot.started_at.map_or(String::new(), |from| {
            let to = event.snapshot.completed_at.unwrap_or(now);
            clock(to.saturating_sub(from))
        });
        // Percent and spaces take nine columns; a clock of years may leave none.
        let free = width.saturating_sub(9 + clock.len());
        let cells = (width * 2 / 5).min(free).min(100);
        let full = cells * percent / 100;
        let room = free - cells;
        let step = fit(&step(event), room);
        let gap = " ".repeat(room - columns(&step) + 1);
        let color = match event.snapshot.status {
            TaskStatus::Failed => "31",
            TaskStatus::Cancelled => "33",
            TaskStatus::Completed => "32",
            TaskStatus::Pending | TaskStatus::Running => "36",
        };
        let done = self.paint(color, &"█".repeat(full));
        let left = self.paint("2", &"░".repeat(cells - full));
        format!("{done}{left} {percent:>3} % {step}{gap} {clock}")
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.screen.color && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// `2026-01-31T12:00:00Z`
fn second(at: Millis) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_millis(at);
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    time::OffsetDateTime::from(at)
        .format(format)
        .unwrap_or_default()
}

/// The step in words, or what the task waits for.
fn step(event: &TaskEvent) -> String {
    let now = &event.snapshot;
    let step = now.step.as_deref().unwrap_or_default();
    let description = now.step_description.as_deref().unwrap_or_default();
    let held = match (now.waiting, now.paused) {
        (_, true) => "paused: ",
        (true, false) => "waiting for a person: ",
        (false, false) => "",
    };
    let words = match (step, description, event.kind) {
        ("", "", EventKind::Created) => "waiting to be started".to_owned(),
        ("", "", EventKind::Queued | EventKind::Retried) => "queued".to_owned(),
        ("", text, _) | (text, "", _) => text.to_owned(),
        (step, description, _) => format!("{step}: {description}"),
    };
    LogSafe(&format!("{held}{words}")).to_string()
}

/// `text` without what could steer the terminal, cut to `room` columns.
fn fit(text: &str, room: usize) -> String {
    // Terminals do not agree how wide joined emoji are: shown singly, they do.
    let joins = ['\u{200d}', '\u{fe0f}'];
    let text = LogSafe(text).to_string().replace(joins, "");
    if columns(&text) <= room {
        return text;
    }
    let mut taken = 0;
    let mut cut: String = text
        .chars()
        .take_while(|&c| {
            taken += c.width().unwrap_or(0);
            taken < room
        })
        .collect();
    if room > 0 {
        cut.push('…');
    }
    cut
}

fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// `0:05`, `12:34`, `1:00:00`.
fn clock(millis: u64) -> String {
    let seconds = millis / 1_000;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// `0.3 s`, `5.0 s`, `2 min 3 s`, `1 h 2 min`.
fn duration(millis: u64) -> String {
    let seconds = millis / 1_000;
    match seconds {
        0..60 => format!("{:.1} s", millis as f64 / 1_000.0),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::TaskSnapshot;
    use crate::task::TaskId;

    #[test]
    fn a_clock_of_years_on_a_narrow_screen_takes_the_bars_place() {
        let picture = Picture::new(Screen {
            width: 20,
            color: false,
            plain: true,
            log: false,
        });
        let mut snapshot = TaskSnapshot::initial();
        snapshot.started_at = Some(0);
        let event = TaskEvent {
            task: TaskId::nil(),
            seq: 1,
            at: 0,
            kind: EventKind::Started,
            attempt: 1,
            snapshot,
        };
        let line = picture.bar_line(&event, 12_345 * 3_600_000);
        assert_eq!(line, "   0 %   12345:00:00");
    }
}
