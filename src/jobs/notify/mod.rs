//! Notifies other processes, and receives their notifications.
//!
//! Notifications only save time: other processes would find the changes by polling. No caller waits for them. A
//! thread sends the messages, and sends equal messages only once.

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

/// The most messages that wait. Further messages are dropped; polling finds those changes a little later.
const MAX_WAITING: usize = 10_000;

/// The least interval between two notifications of added jobs. Under load, one notification stands for many jobs.
const NOTIFY_EVERY: Duration = Duration::from_millis(5);

/// How often the listener checks whether it must stop.
const CHECK_STOP_EVERY: Duration = Duration::from_millis(250);

/// The pause before the listener connects again.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

enum Message {
    Added,
    Cancelled(Claim),
}

pub(crate) struct Notifier {
    messages: Mutex<Option<Sender<Message>>>,
    /// A message about added jobs is waiting already.
    is_added: Arc<AtomicBool>,
    /// The text of this process's messages, so that it can ignore its own.
    name: Arc<str>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Notifier {
    pub(crate) fn start(storage: Arc<Storage>) -> io::Result<Notifier> {
        let (messages, queue) = bounded(MAX_WAITING);
        let is_added = Arc::<AtomicBool>::default();
        let name: Arc<str> = format!("added by {}", Uuid::new_v4()).into();
        let (pending, sign) = (is_added.clone(), name.clone());
        let body = move || send_loop(&storage, &queue, &pending, &sign);
        Ok(Notifier {
            messages: Mutex::new(Some(messages)),
            is_added,
            name,
            thread: Mutex::new(Some(threads::spawn("notifier", body)?)),
        })
    }

    /// Jobs may be due.
    pub(crate) fn added(&self) {
        if !self.is_added.swap(true, SeqCst) {
            self.send(Message::Added);
        }
    }

    pub(crate) fn cancelled(&self, claim: Claim) {
        self.send(Message::Cancelled(claim));
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

    /// Starts the thread that passes messages of other processes to `queue`.
    pub(crate) fn listen(
        &self,
        url: &str,
        queue: Arc<Queue>,
        stopping: Arc<AtomicBool>,
    ) -> io::Result<JoinHandle<()>> {
        let (url, own) = (url.to_owned(), self.name.clone());
        threads::spawn("listener", move || {
            listen_loop(&url, &queue, &stopping, &own)
        })
    }
}

fn send_loop(storage: &Storage, queue: &Receiver<Message>, is_added: &AtomicBool, name: &str) {
    let mut notified: Option<Instant> = None;
    while let Ok(message) = queue.recv() {
        let text = match message {
            Message::Added => {
                let since = notified.map_or(NOTIFY_EVERY, |at| at.elapsed());
                std::thread::sleep(NOTIFY_EVERY.saturating_sub(since));
                notified = Some(Instant::now());
                // Jobs that are added from now on need another message.
                is_added.store(false, SeqCst);
                name.to_owned()
            }
            Message::Cancelled(claim) => format!("cancelled {} {}", claim.id, claim.token),
        };
        if let Err(error) = storage.notify(&text) {
            log::debug!("Other processes were not notified: {error}");
        }
    }
}

fn listen_loop(url: &str, queue: &Queue, stopping: &AtomicBool, own: &str) {
    let mut listener = None;
    while !stopping.load(SeqCst) {
        let Some(mut open) = listener.take().or_else(|| Listener::open(url)) else {
            std::thread::sleep(RECONNECT_AFTER);
            continue;
        };
        let Some(messages) = open.wait(CHECK_STOP_EVERY) else {
            continue;
        };
        listener = Some(open);
        let others = messages.iter().filter(|message| **message != *own);
        others.for_each(|message| handle(queue, message));
    }
}

fn handle(queue: &Queue, message: &str) {
    if let Some(claim) = parse_cancelled(message) {
        queue.cancel_run(claim);
    } else if message.parse::<Uuid>().is_ok() {
        // Older versions send the job's id alone. The job may have a newer claim by now, so ask the database.
        queue.renew_now();
    } else {
        queue.wake();
    }
}

/// Parses `cancelled ID CLAIM`.
fn parse_cancelled(message: &str) -> Option<Claim> {
    let (id, token) = message.strip_prefix("cancelled ")?.split_once(' ')?;
    Some(Claim {
        id: id.parse().ok()?,
        token: token.parse().ok()?,
    })
}
