//! The audit log: every history entry as one line of JSON in a file, by a thread of its own.
//!
//! Entries come through a channel, in the order they happened. While the file cannot be
//! written (a full disk, say) they wait in memory, up to [`MAX_WAITING`]; past that they are
//! lost, and a line in the file says how many once it can be written again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use serde::Serialize;

use crate::log_safe::LogSafe;
use crate::store::Observer;
use crate::task::{EventKind, HistoryEvent, Millis, SessionKey, TaskId};
use crate::threads::{self, join_until};

/// The most entries that wait for the file.
const MAX_WAITING: usize = 200_000;

/// How long to wait before trying a file again that could not be written.
const RETRY: Duration = Duration::from_millis(500);

struct Entry {
    session: SessionKey,
    task: TaskId,
    seq: u32,
    at: Millis,
    kind: EventKind,
    attempt: u32,
    progress: u8,
    step: Option<Box<str>>,
    message: Option<Box<str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    task_id: TaskId,
    session_key: &'a SessionKey,
    #[serde(flatten)]
    event: HistoryEvent<'a>,
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        let line = Line {
            task_id: self.task,
            session_key: &self.session,
            event: HistoryEvent {
                seq: self.seq,
                at: self.at,
                kind: self.kind,
                attempt: self.attempt,
                status: self.kind.status(),
                progress: self.progress,
                step: self.step.as_deref(),
                message: self.message.as_deref(),
            },
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

/// What the writer is told.
enum Told {
    Entry(Entry),
    /// To open the file anew, behind what was told before.
    Reopen,
}

/// The writer's thread and the way to it.
pub(crate) struct Audit {
    entries: Arc<Mutex<Option<Sender<Told>>>>,
    counters: Arc<Counters>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Opens `path` for appending and starts the writer.
    pub(crate) fn start(path: &Path) -> io::Result<Audit> {
        let path = path.to_owned();
        let file = open(&path)?;
        let (entries, queue) = crossbeam_channel::unbounded();
        let counters = Arc::<Counters>::default();
        let inside = counters.clone();
        let thread = threads::spawn("audit", move || Writer::new(path, file, inside).run(&queue))?;
        Ok(Audit {
            entries: Arc::new(Mutex::new(Some(entries))),
            counters,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What the store tells of each event; never blocks.
    pub(crate) fn observer(&self) -> Box<Observer> {
        let (entries, counters) = (self.entries.clone(), self.counters.clone());
        Box::new(move |session, task, event| {
            if counters.waiting.load(Relaxed) >= MAX_WAITING {
                counters.lost.fetch_add(1, Relaxed);
                return;
            }
            let entry = Entry {
                session: session.clone(),
                task,
                seq: event.seq,
                at: event.at,
                kind: event.kind,
                attempt: event.attempt,
                progress: event.progress,
                step: event.step.map(Into::into),
                message: event.message.map(Into::into),
            };
            if let Some(entries) = &*entries.lock() {
                counters.waiting.fetch_add(1, Relaxed);
                let _ = entries.send(Told::Entry(entry));
            }
        })
    }

    /// Has the writer open the path anew: the file that it has may have been moved away.
    pub(crate) fn reopen(&self) {
        if let Some(entries) = &*self.entries.lock() {
            let _ = entries.send(Told::Reopen);
        }
    }

    /// Writes what waits and ends the thread.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.entries.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            join_until(thread, deadline);
            let waiting = self.counters.waiting.load(Relaxed);
            if waiting > 0 {
                log::error!("The last {waiting} entries of the audit log could not be written");
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Why the audit log cannot be written at `path`, whenever it is tried. A file that was not there is not
/// there afterwards.
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

/// What is said where the file cannot be opened.
pub(crate) fn told(path: &Path, error: &io::Error) -> String {
    let path = path.display().to_string();
    format!("AUDIT_LOG={}: {error}", LogSafe(&path))
}

struct Writer {
    path: PathBuf,
    file: File,
    counters: Arc<Counters>,
    /// Lines, perhaps from the middle of the first, that the file has not taken yet.
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

    /// What was told before goes into the file that was there before, where it takes it.
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
