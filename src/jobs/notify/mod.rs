//! Tells other processes what they would otherwise find later, and hears what they tell.
//!
//! Nobody waits for it: a thread sends what has come, and the same thing said many times is sent once.

mod listen;
pub(crate) mod watch;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::jobs::notify::listen::Listener;
use crate::jobs::storage::{Claim, Storage};
use crate::jobs::worker::Queue;
use crate::threads::{self, join_until};

/// The most messages that wait. Those beyond are found out without a message, a little later.
const MAX_WAITING: usize = 10_000;

/// The least time between two calls that something was added: under load one is for many.
const CALL_EVERY: Duration = Duration::from_millis(5);

/// How long the listener waits before it looks whether it is to stop.
const LISTEN_LOOK: Duration = Duration::from_millis(250);

/// How long the listener waits before it connects again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

enum Message {
    Added,
    CalledOff(Claim),
}

/// The way to the other processes.
pub(crate) struct Notifier {
    messages: Mutex<Option<Sender<Message>>>,
    /// That something was added is on its way.
    is_added: Arc<AtomicBool>,
    /// What this process signs with, so that it does not hear itself.
    name: Arc<str>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Notifier {
    pub(crate) fn start(storage: Arc<Storage>) -> io::Result<Notifier> {
        let (messages, queue) = bounded(MAX_WAITING);
        let is_added = Arc::<AtomicBool>::default();
        let name: Arc<str> = format!("added by {}", Uuid::new_v4()).into();
        let (pending, sign) = (is_added.clone(), name.clone());
        let body = move || send(&storage, &queue, &pending, &sign);
        Ok(Notifier {
            messages: Mutex::new(Some(messages)),
            is_added,
            name,
            thread: Mutex::new(Some(threads::spawn("notifier", body)?)),
        })
    }

    /// Something may be due.
    pub(crate) fn added(&self) {
        if !self.is_added.swap(true, SeqCst) {
            self.send(Message::Added);
        }
    }

    /// This claim was cancelled.
    pub(crate) fn called_off(&self, claim: Claim) {
        self.send(Message::CalledOff(claim));
    }

    /// Never blocks.
    fn send(&self, message: Message) {
        let messages = self.messages.lock().clone();
        let sent = messages.map(|messages| messages.try_send(message).is_ok());
        if sent != Some(true) {
            self.is_added.store(false, SeqCst);
        }
    }

    pub(crate) fn stop(&self, deadline: Instant) {
        self.messages.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            join_until(thread, deadline);
        }
    }

    /// Starts the thread that tells `queue` what other processes say.
    pub(crate) fn listen(
        &self,
        url: &str,
        queue: Arc<Queue>,
        stopping: Arc<AtomicBool>,
    ) -> io::Result<JoinHandle<()>> {
        let (url, own) = (url.to_owned(), self.name.clone());
        threads::spawn("listener", move || hear(&url, &queue, &stopping, &own))
    }
}

fn send(storage: &Storage, queue: &Receiver<Message>, is_added: &AtomicBool, name: &str) {
    let mut called: Option<Instant> = None;
    while let Ok(message) = queue.recv() {
        let text = match message {
            Message::Added => {
                let since = called.map_or(CALL_EVERY, |at| at.elapsed());
                std::thread::sleep(CALL_EVERY.saturating_sub(since));
                called = Some(Instant::now());
                // What is added from now on is told once more.
                is_added.store(false, SeqCst);
                name.to_owned()
            }
            Message::CalledOff(claim) => format!("cancelled {} {}", claim.id, claim.token),
        };
        if let Err(error) = storage.notify(&text) {
            log::debug!("Other processes were not told: {error}");
        }
    }
}

fn hear(url: &str, queue: &Queue, stopping: &AtomicBool, own: &str) {
    let mut listener = None;
    while !stopping.load(SeqCst) {
        let Some(mut open) = listener.take().or_else(|| Listener::open(url)) else {
            std::thread::sleep(LISTEN_AGAIN);
            continue;
        };
        let Some(heard) = open.wait(LISTEN_LOOK) else {
            continue;
        };
        listener = Some(open);
        let others = heard.iter().filter(|message| **message != *own);
        others.for_each(|message| obey(queue, message));
    }
}

fn obey(queue: &Queue, message: &str) {
    if let Some(claim) = cancelled(message) {
        queue.cancel_run(claim);
    } else if message.parse::<Uuid>().is_ok() {
        // The version before names the job alone, of which there may be a newer claim by now.
        queue.renew_now();
    } else {
        queue.wake();
    }
}

/// `cancelled ID CLAIM`.
fn cancelled(message: &str) -> Option<Claim> {
    let (id, token) = message.strip_prefix("cancelled ")?.split_once(' ')?;
    Some(Claim {
        id: id.parse().ok()?,
        token: token.parse().ok()?,
    })
}
