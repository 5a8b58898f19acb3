//! Stands between a process and its PostgreSQL, and can do what networks do: go silent, refuse.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait_until;

/// So much of what a connection's client has said is remembered.
const REMEMBERED: usize = 1 << 20;

/// A running proxy; its connections are cut when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    inside: Arc<Inside>,
    thread: Option<JoinHandle<()>>,
}

struct Inside {
    target: String,
    is_paused: AtomicBool,
    is_refusing: AtomicBool,
    is_closed: AtomicBool,
    accepted: AtomicUsize,
    /// Who says this goes silent.
    fatal: Mutex<Option<String>>,
    lines: Mutex<Vec<Arc<Line>>>,
}

/// One connection, with both its ends.
struct Line {
    client: TcpStream,
    server: TcpStream,
    is_silent: AtomicBool,
    /// What its client has said so far.
    said: Mutex<Vec<u8>>,
}

impl Proxy {
    /// To the server that this address of a database names; and the address that leads there by the proxy.
    pub(crate) fn before(url: &str) -> (Proxy, String) {
        let (_, rest) = url.split_once("://").expect("a scheme");
        let (authority, path) = rest.split_once('/').expect("a database");
        let host = authority.rsplit('@').next().expect("a host");
        let target = match host.contains(':') {
            true => host.to_owned(),
            false => format!("{host}:5432"),
        };
        let proxy = Proxy::start(target);
        let through = authority.replace(host, &proxy.address.to_string());
        let (scheme, _) = url.split_once("://").expect("a scheme");
        (proxy, format!("{scheme}://{through}/{path}"))
    }

    fn start(target: String) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let inside = Arc::new(Inside {
            target,
            is_paused: AtomicBool::new(false),
            is_refusing: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            fatal: Mutex::default(),
            lines: Mutex::default(),
        });
        let own = inside.clone();
        let thread = std::thread::spawn(move || own.accept(&listener));
        Proxy {
            address,
            inside,
            thread: Some(thread),
        }
    }

    /// All connections that are open now stay open and say nothing any more; new ones are served.
    pub(crate) fn silence_open(&self) {
        let lines = self.inside.lines.lock().expect("no poison");
        lines.iter().for_each(|line| line.silence());
    }

    /// The newest connection on which `text` was said stays open and says nothing any more. Waits until there is one.
    #[track_caller]
    pub(crate) fn silence_who_said(&self, text: &str) {
        wait_until(|| {
            let lines = self.inside.lines.lock().expect("no poison");
            let carrier = lines.iter().rev().find(|line| line.has_said(text));
            carrier.is_some_and(|line| {
                line.silence();
                true
            })
        });
    }

    /// Every connection on which this was said, or will be, goes silent.
    pub(crate) fn silence_all_who_say(&self, text: Option<&str>) {
        *self.inside.fatal.lock().expect("no poison") = text.map(str::to_owned);
        let lines = self.inside.lines.lock().expect("no poison");
        let carriers = lines.iter();
        carriers
            .filter(|line| text.is_some_and(|text| line.has_said(text)))
            .for_each(|line| line.silence());
    }

    /// Says nothing, on old connections and new ones, until [`go_on`](Self::go_on).
    pub(crate) fn pause(&self) {
        self.inside.is_paused.store(true, SeqCst);
    }

    pub(crate) fn go_on(&self) {
        self.inside.is_paused.store(false, SeqCst);
    }

    /// Cuts every connection, and each new one, until [`serve`](Self::serve).
    pub(crate) fn refuse(&self) {
        self.inside.is_refusing.store(true, SeqCst);
        self.inside.cut();
    }

    pub(crate) fn serve(&self) {
        self.inside.is_refusing.store(false, SeqCst);
    }

    /// How many connections there were.
    pub(crate) fn accepted(&self) -> usize {
        self.inside.accepted.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.inside.is_closed.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.inside.cut();
    }
}

impl Inside {
    fn accept(self: Arc<Inside>, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            if self.is_closed.load(SeqCst) {
                return;
            }
            self.accepted.fetch_add(1, SeqCst);
            if self.is_refusing.load(SeqCst) {
                continue;
            }
            if let Ok(server) = TcpStream::connect(&self.target) {
                self.join(client, server);
            }
        }
    }

    fn join(self: &Arc<Inside>, client: TcpStream, server: TcpStream) {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let line = Arc::new(Line {
            client,
            server,
            is_silent: AtomicBool::new(false),
            said: Mutex::default(),
        });
        self.lines.lock().expect("no poison").push(line.clone());
        for is_up in [true, false] {
            let (inside, line) = (self.clone(), line.clone());
            std::thread::spawn(move || inside.carry(&line, is_up));
        }
    }

    /// Carries what one end says to the other.
    fn carry(&self, line: &Line, is_up: bool) {
        let (mut from, mut to) = match is_up {
            true => (&line.client, &line.server),
            false => (&line.server, &line.client),
        };
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if is_up {
                line.remember(&buffer[..count]);
                let fatal = self.fatal.lock().expect("no poison").clone();
                if fatal.is_some_and(|text| line.has_said(&text)) {
                    line.silence();
                }
            }
            self.wait_while_silent(line);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        // Who has vanished does not say goodbye either.
        self.wait_while_silent(line);
        line.cut();
        let mut lines = self.lines.lock().expect("no poison");
        lines.retain(|other| !std::ptr::eq(&**other, line));
    }

    fn wait_while_silent(&self, line: &Line) {
        let is_silent = || line.is_silent.load(SeqCst) || self.is_paused.load(SeqCst);
        while is_silent() && !self.is_closed.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn cut(&self) {
        let lines = self.lines.lock().expect("no poison");
        lines.iter().for_each(|line| line.cut());
    }
}

impl Line {
    fn silence(&self) {
        self.is_silent.store(true, SeqCst);
    }

    fn remember(&self, words: &[u8]) {
        let mut said = self.said.lock().expect("no poison");
        if said.len() < REMEMBERED {
            said.extend(words);
        }
    }

    fn has_said(&self, text: &str) -> bool {
        let said = self.said.lock().expect("no poison");
        said.windows(text.len()).any(|word| word == text.as_bytes())
    }

    fn cut(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}
