//! The audit log: a thread writes every entry of every history as one line of JSON to a file.
//!
//! Entries come through a channel, in the order in which they happened. They wait in memory while the file cannot be
//! written, for example because the disk is full. At most [`MAX_WAITING`] entries wait. Further entries are lost. When
//! the file can be written again, a line in it says how many were lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::actor::{self, Actor};
use crate::log_safe::LogSafe;
use crate::store::{Observer, OnRemoval};
use crate::task::{EventKind, HistoryEvent, Millis, SessionKey, TaskId, now_ms};
use crate::threads::{self, join_until};

/// The most entries that wait for the file.
const MAX_WAITING: usize = 200_000;

/// How long the writer waits after a failed write before it tries again.
const RETRY: Duration = Duration::from_millis(500);

/// One line of the file, before it is written.
struct Entry {
    session: SessionKey,
    task: TaskId,
    at: Millis,
    actor: Option<Actor>,
    what: What,
}

enum What {
    /// An entry of the task's history.
    Event {
        seq: u32,
        kind: EventKind,
        attempt: u32,
        progress: u8,
        step: Option<Box<str>>,
        message: Option<Box<str>>,
    },
    /// The task left the store.
    Removed(Box<str>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a, T> {
    time: String,
    task_id: TaskId,
    session_key: &'a SessionKey,
    #[serde(flatten)]
    what: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Removed<'a> {
    at: Millis,
    event: &'static str,
    message: &'a str,
}

impl Entry {
    fn new(session: &SessionKey, task: TaskId, at: Millis, what: What) -> Entry {
        Entry {
            session: session.clone(),
            task,
            at,
            actor: actor::current(),
            what,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match &self.what {
            What::Removed(reason) => {
                let removed = Removed {
                    at: self.at,
                    event: "removed",
                    message: reason,
                };
                self.write_line(removed, out);
            }
            What::Event {
                seq,
                kind,
                attempt,
                progress,
                step,
                message,
            } => {
                let event = HistoryEvent {
                    seq: *seq,
                    at: self.at,
                    kind: *kind,
                    attempt: *attempt,
                    status: kind.status(),
                    progress: *progress,
                    step: step.as_deref(),
                    message: message.as_deref(),
                };
                self.write_line(event, out);
            }
        }
    }

    fn write_line(&self, what: impl Serialize, out: &mut Vec<u8>) {
        let line = Line {
            time: rfc3339(self.at),
            task_id: self.task,
            session_key: &self.session,
            what,
            client: self.actor.as_ref().and_then(|actor| actor.client),
            request_id: self.actor.as_ref().map(|actor| &*actor.request_id),
        };
        if serde_json::to_writer(&mut *out, &line).is_ok() {
            out.push(b'\n');
        }
    }
}

#[derive(Default)]
struct Counters {
    waiting: AtomicUsize,
    lost: AtomicUsize,
}

/// A message to the writer.
enum Told {
    Entry(Entry),
    /// The writer must open the file again. Entries that were sent before still go into the old file.
    Reopen,
}

/// The writer's thread, and the channel to it.
pub(crate) struct Audit {
    inlet: Inlet,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The sending side of the writer's channel.
#[derive(Clone)]
struct Inlet {
    told: Arc<Mutex<Option<Sender<Told>>>>,
    counters: Arc<Counters>,
}

impl Inlet {
    fn add(&self, entry: impl FnOnce() -> Entry) {
        if self.counters.waiting.load(Relaxed) >= MAX_WAITING {
            self.counters.lost.fetch_add(1, Relaxed);
            return;
        }
        let entry = entry();
        if let Some(told) = &*self.told.lock() {
            self.counters.waiting.fetch_add(1, Relaxed);
            let _ = told.send(Told::Entry(entry));
        }
    }
}

impl Audit {
    /// Opens `path` for appending and starts the writer.
    pub(crate) fn start(path: &Path) -> io::Result<Audit> {
        let path = path.to_owned();
        let file = open(&path)?;
        let (told, queue) = crossbeam_channel::unbounded();
        let counters = Arc::<Counters>::default();
        let inside = counters.clone();
        let thread = threads::spawn("audit", move || Writer::new(path, file, inside).run(&queue))?;
        Ok(Audit {
            inlet: Inlet {
                told: Arc::new(Mutex::new(Some(told))),
                counters,
            },
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The store calls this for each event. It never blocks.
    pub(crate) fn observer(&self) -> Box<Observer> {
        let inlet = self.inlet.clone();
        Box::new(move |session, task, event| {
            let what = || What::Event {
                seq: event.seq,
                kind: event.kind,
                attempt: event.attempt,
                progress: event.progress,
                step: event.step.map(Into::into),
                message: event.message.map(Into::into),
            };
            inlet.add(|| Entry::new(session, task, event.at, what()));
        })
    }

    /// The store calls this for each task that leaves it. It never blocks.
    pub(crate) fn on_removal(&self) -> Box<OnRemoval> {
        let inlet = self.inlet.clone();
        Box::new(move |session, task, reason| {
            inlet.add(|| Entry::new(session, task, now_ms(), What::Removed(reason.into())));
        })
    }

    /// Tells the writer to open the path again, because the open file may have been moved.
    pub(crate) fn reopen(&self) {
        if let Some(told) = &*self.inlet.told.lock() {
            let _ = told.send(Told::Reopen);
        }
    }

    /// Writes the waiting entries and ends the thread.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.inlet.told.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            join_until(thread, deadline);
            let waiting = self.inlet.counters.waiting.load(Relaxed);
            if waiting > 0 {
                log::error!("The last {waiting} entries of the audit log could not be written");
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Returns why the audit log can never be written at `path`, if that is so. If there was no file, this leaves none
/// behind.
pub(crate) fn mistake(path: &Path) -> Option<String> {
    let new = OpenOptions::new().create_new(true).append(true).open(path);
    let error = match new {
        Ok(_) => {
            return std::fs::remove_file(path)
                .err()
                .map(|error| told(path, &error));
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(path).err()?,
        Err(error) => error,
    };
    // A full disk is not a mistake.
    let is_full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    (!is_full).then(|| told(path, &error))
}

/// The message for a file that cannot be opened.
pub(crate) fn told(path: &Path, error: &io::Error) -> String {
    let path = path.display().to_string();
    format!("AUDIT_LOG={}: {error}", LogSafe(&path))
}

struct Writer {
    path: PathBuf,
    file: File,
    counters: Arc<Counters>,
    /// Lines that are not in the file yet. The start of the first one may be.
    pending: Vec<u8>,
    entries: usize,
    failing: bool,
}

impl Writer {
    fn new(path: PathBuf, file: File, counters: Arc<Counters>) -> Writer {
        Writer {
            path,
            file,
            counters,
            pending: Vec::new(),
            entries: 0,
            failing: false,
        }
    }

    fn run(mut self, queue: &Receiver<Told>) {
        let mut open = true;
        while open || !self.pending.is_empty() {
            if self.pending.is_empty() {
                match queue.recv() {
                    Ok(told) => self.take(told),
                    Err(_) => {
                        open = false;
                        continue;
                    }
                }
            }
            while self.pending.len() < 64 * 1024
                && let Ok(told) = queue.try_recv()
            {
                self.take(told);
            }
            if let Err(error) = self.flush() {
                self.complain(&error);
                std::thread::sleep(RETRY);
            }
        }
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Entry(entry) => {
                entry.write(&mut self.pending);
                self.entries += 1;
            }
            Told::Reopen => self.reopen(),
        }
    }

    /// Entries that were sent before go into the old file, if it can still be written.
    fn reopen(&mut self) {
        if let Err(error) = self.flush() {
            self.complain(&error);
        }
        match open(&self.path) {
            Ok(file) => {
                self.file = file;
                log::info!("The audit log was opened anew");
            }
            Err(error) => log::error!(
                "The audit log cannot be opened anew, entries go into the old file: {}",
                told(&self.path, &error)
            ),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            let written = match self.file.write(&self.pending) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.pending.drain(..written);
        }
        self.counters.waiting.fetch_sub(self.entries, Relaxed);
        self.entries = 0;
        let lost = self.counters.lost.swap(0, Relaxed);
        if lost > 0 {
            log::error!("The audit log lost {lost} entries while it could not be written");
            self.pending = format!("{{\"event\":\"lost\",\"entries\":{lost}}}\n").into_bytes();
        } else if self.failing {
            log::info!("The audit log can be written again; nothing was lost");
        }
        self.failing = false;
        Ok(())
    }

    fn complain(&mut self, error: &io::Error) {
        if !self.failing {
            log::error!("The audit log cannot be written, its entries wait: {error}");
        }
        self.failing = true;
    }
}

/// The time in a form that people can read.
fn rfc3339(at: Millis) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000);
    let text = time.ok().and_then(|time| time.format(format).ok());
    text.unwrap_or_default()
}
