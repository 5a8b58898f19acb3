//! One way to watch everything: as events, drawn in a terminal, or as the lines of its log.

use std::time::Duration;

use crate::events::TaskEvent;
use crate::http::sse::{EventFormat, EventId};
use crate::http::streaming::{LOOK, stream_bytes, stream_events};
use crate::http::{BodyWriter, Response};
use crate::log_form::LogQuery;
use crate::semaphore::Permit;
use crate::store::LogPart;
use crate::task::LogLine;
use crate::terminal::{Picture, Screen, TEXT_UTF8, TICK};

/// What can be watched: a task, a session, a job.
pub(crate) trait Watch: Send + 'static {
    type Event;

    /// What the client has seen already.
    fn seen(&self) -> EventId;

    /// What happens within `patience`.
    fn next(&mut self, patience: Duration) -> News<Self::Event>;

    /// The event's number in the stream.
    fn number(event: &Self::Event) -> u64;

    /// Appends a part of the stream in the words of this resource.
    fn write(
        &self,
        out: &mut Vec<u8>,
        format: EventFormat,
        id: EventId,
        part: Part<'_, Self::Event>,
    );
}

/// What can be drawn in a terminal, since its events tell how a task stands.
pub(crate) trait Draw: Watch {
    fn picture(&mut self, events: Vec<Self::Event>) -> Vec<TaskEvent>;
}

/// What has happened. The lines came ahead of the events.
pub(crate) struct News<E> {
    pub(crate) log: LogPart,
    pub(crate) events: Vec<E>,
    /// Nothing will come after this.
    pub(crate) is_over: bool,
}

impl<E> Default for News<E> {
    fn default() -> News<E> {
        News {
            log: LogPart::default(),
            events: Vec::new(),
            is_over: false,
        }
    }
}

/// A part of a stream.
pub(crate) enum Part<'a, E> {
    /// So many lines of the log are missing here.
    Dropped(u64),
    Line(&'a LogLine<'a>),
    Event(&'a E),
}

/// Streams events until there are no more.
pub(crate) fn events(permit: Permit, format: EventFormat, mut watch: impl Watch) -> Response {
    let mut told = watch.seen();
    let response = Response::stream(format.content_type(), move |out| {
        let _permit = permit;
        stream_events(out, format, |buffer, patience| {
            let news = watch.next(patience);
            write_events(buffer, format, &mut told, &watch, &news);
            !news.is_over
        })
    });
    response.with("Vary", "Accept")
}

fn write_events<W: Watch>(
    out: &mut Vec<u8>,
    format: EventFormat,
    told: &mut EventId,
    watch: &W,
    news: &News<W::Event>,
) {
    let dropped = news.log.dropped;
    if dropped > 0 {
        told.line = told.line.map(|line| line + dropped);
        watch.write(out, format, *told, Part::Dropped(dropped));
    }
    for line in &news.log.lines {
        told.line = Some(line.n);
        watch.write(out, format, *told, Part::Line(line));
    }
    for event in &news.events {
        told.number = W::number(event);
        watch.write(out, format, *told, Part::Event(event));
    }
}

/// Draws what happens until it is over.
pub(crate) fn terminal(
    permit: Permit,
    name: &str,
    screen: Screen,
    mut watch: impl Draw,
) -> Response {
    let mut picture = Picture::new(screen);
    let title = picture.title(name);
    Response::stream(TEXT_UTF8, move |out| {
        let _permit = permit;
        out.send(title.as_bytes())?;
        stream_bytes(out, TICK, picture.heartbeat(), |buffer, patience| {
            let news = watch.next(patience);
            let events = watch.picture(news.events);
            picture.draw(buffer, &news.log, events, news.is_over);
            !news.is_over
        })
    })
}

/// Sends the lines of the log until there are no more.
pub(crate) fn log(permit: Permit, query: LogQuery, mut watch: impl Watch) -> Response {
    Response::stream(TEXT_UTF8, move |out: &mut dyn BodyWriter| {
        let _permit = permit;
        stream_bytes(out, LOOK, b"", |buffer, patience| {
            let news = watch.next(patience);
            query.write_part(buffer, &news.log);
            !news.is_over
        })
    })
}
