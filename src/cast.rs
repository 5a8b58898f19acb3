//! Recordings for asciinema: what a terminal that watched the task has shown, as asciicast v2.

use serde_json::{Value, json};

use crate::demo::recording::Recording;
use crate::events::TaskEvent;
use crate::http::Response;
use crate::task::Millis;
use crate::terminal::{DEFAULT_WIDTH, Picture, Screen, TICK};

/// The most drawings between two events: in a long pause the clock jumps.
const MAX_TICKS: u64 = 600;

/// A recording as a file that asciinema plays.
pub(crate) fn response(recording: &Recording) -> Response {
    let cast = cast(&recording.name, recording.told());
    Response::bytes("application/x-asciicast", cast)
}

/// Draws the events of a task that was created at the moment 0.
fn cast(name: &str, events: impl Iterator<Item = TaskEvent>) -> String {
    let header = json!({ "version": 2, "width": DEFAULT_WIDTH, "height": 12, "title": name });
    let mut cast = Cast {
        lines: format!("{header}\n"),
        picture: Picture::new(Screen::recorded()),
        at: 0,
    };
    let title = cast.picture.title(name);
    cast.show(&title);
    for event in events {
        cast.tick_until(event.at);
        let mut text = String::new();
        cast.picture.change(&mut text, vec![event], cast.at);
        cast.show(&text);
    }
    let mut end = String::new();
    cast.picture.end(&mut end);
    cast.show(&end);
    cast.lines
}

struct Cast {
    lines: String,
    picture: Picture,
    at: Millis,
}

impl Cast {
    /// Draws the clock as it goes on.
    fn tick_until(&mut self, end: Millis) {
        let pause = (TICK.as_millis() as u64).max((end - self.at) / MAX_TICKS);
        while self.at + pause < end {
            self.at += pause;
            let mut text = String::new();
            self.picture.tick(&mut text, self.at);
            self.show(&text);
        }
        self.at = end;
    }

    fn show(&mut self, text: &str) {
        if !text.is_empty() {
            // A terminal in its raw state goes down with a line feed, and not back.
            let text = Value::from(text.replace('\n', "\r\n"));
            let (seconds, millis) = (self.at / 1_000, self.at % 1_000);
            self.lines += &format!("[{seconds}.{millis:03}, \"o\", {text}]\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_in_a_pause_and_a_long_one_has_few_drawings() {
        let event =
            |at: u64, event: &str| json!({ "at": at, "event": event, "attempt": 1, "progress": 0 });
        let lines = |end: u64| {
            let mut events = vec![
                event(0, "created"),
                event(0, "queued"),
                event(1_000, "started"),
            ];
            events.push(event(end, "completed"));
            let recording = json!({ "version": 1, "type": "work", "events": events });
            let recording = Recording::parse(&recording.to_string()).expect("a recording");
            let cast = cast("Work", recording.told());
            let lines = cast
                .lines()
                .map(|line| serde_json::from_str(line).expect("JSON"));
            lines.collect::<Vec<Value>>()
        };
        let short = lines(4_000);
        assert_eq!(short[0]["version"], 2);
        let clocks = short
            .iter()
            .filter_map(|line| Some((line[0].as_f64()?, line[2].as_str()?)));
        let clocks: Vec<_> = clocks.filter(|(_, text)| text.contains("0:02")).collect();
        assert_eq!(clocks.len(), 1, "{short:#?}");
        assert_eq!(clocks[0].0, 3.0);
        let last = short.last().and_then(|line| line[2].as_str());
        assert!(
            last.is_some_and(|text| text.contains("completed in 3.0 s")),
            "{last:?}"
        );
        assert!(lines(86_400_000).len() < 700);
    }
}
