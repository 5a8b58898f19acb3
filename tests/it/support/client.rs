//! A client that checks what every answer must have.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::document::Items;
use super::reply::{Reply, Stream};
use super::{API, PATIENCE, wait_until};

/// Speaks to a server, as one session or as nobody in particular.
#[derive(Clone)]
pub(crate) struct Client {
    addr: SocketAddr,
    session: Option<String>,
}

impl Client {
    pub(crate) fn new(addr: SocketAddr) -> Client {
        Client {
            addr,
            session: None,
        }
    }

    /// The same server, with `X-App-Session`.
    pub(crate) fn session(&self, key: &str) -> Client {
        Client {
            addr: self.addr,
            session: Some(key.to_owned()),
        }
    }

    /// A request below `/api/v1`.
    pub(crate) fn call(&self, method: &str, path: &str) -> Call {
        self.call_exact(method, &format!("{API}{path}"))
    }

    /// A request to exactly this target.
    pub(crate) fn call_exact(&self, method: &str, target: &str) -> Call {
        let call = Call {
            addr: self.addr,
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            content_length: None,
        };
        match &self.session {
            Some(key) => call.header("X-App-Session", key),
            None => call,
        }
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.call("GET", path).send()
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> Reply {
        self.call("POST", path).json(&body).send()
    }

    /// A `POST` without a body.
    pub(crate) fn act(&self, path: &str) -> Reply {
        self.call("POST", path).send()
    }

    /// The key that the server gives this client.
    pub(crate) fn key(&self) -> String {
        let reply = self.get("/health").expect(200);
        reply.header("X-App-Session").expect("a session").to_owned()
    }

    /// Creates a task; its id.
    #[track_caller]
    pub(crate) fn create(&self, body: Value) -> String {
        id_of(&self.post("/tasks", body).expect(201))
    }

    /// Creates and starts a task of a type; its id.
    #[track_caller]
    pub(crate) fn run(&self, kind: &str) -> String {
        self.create(json!({ "name": kind, "type": kind, "start": true }))
    }

    /// Runs a task to its end; its id.
    #[track_caller]
    pub(crate) fn run_to(&self, kind: &str, status: &str) -> String {
        let id = self.run(kind);
        self.wait_status(&id, status);
        id
    }

    pub(crate) fn task(&self, id: &str) -> Value {
        self.get(&format!("/tasks/{id}")).expect(200).json()["task"].clone()
    }

    pub(crate) fn history(&self, id: &str) -> Vec<Value> {
        let reply = self.get(&format!("/tasks/{id}/history")).expect(200).json();
        reply["history"]
            .as_array()
            .expect("history is a list")
            .clone()
    }

    pub(crate) fn total(&self) -> u64 {
        let reply = self.get("/tasks").expect(200).json();
        reply["total"].as_u64().expect("total is a number")
    }

    /// Waits until the task has that status; the task.
    #[track_caller]
    pub(crate) fn wait_status(&self, id: &str, status: &str) -> Value {
        let start = Instant::now();
        loop {
            let task = self.task(id);
            if task["status"] == status {
                return task;
            }
            assert!(start.elapsed() < PATIENCE, "never {status}: {task}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the task is at that step; the task.
    #[track_caller]
    pub(crate) fn wait_step(&self, id: &str, step: &str) -> Value {
        wait_until(|| self.task(id)["currentStep"] == step);
        self.task(id)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).expect("the server accepts");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout can be set");
        stream
    }
}

/// The id in an answer that carries a task.
#[track_caller]
pub(crate) fn id_of(reply: &Reply) -> String {
    let body = reply.json();
    let id = body["task"]["id"].as_str().expect("the task has an id");
    id.to_owned()
}

/// A request being put together.
pub(crate) struct Call {
    addr: SocketAddr,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    content_length: Option<u64>,
}

impl Call {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Call {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn json(self, body: &Value) -> Call {
        self.header("Content-Type", "application/json")
            .body(body.to_string())
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Call {
        self.body = body.into();
        self
    }

    /// Announces a length other than the body's.
    pub(crate) fn announce(mut self, length: u64) -> Call {
        self.content_length = Some(length);
        self
    }

    #[track_caller]
    pub(crate) fn send(self) -> Reply {
        let mut stream = BufReader::new(self.transmit());
        let reply = Reply::read(&mut stream, &self.method);
        reply.check(&self.method, &self.target);
        reply
    }

    /// Sends it, and reads the answer as it comes.
    #[track_caller]
    pub(crate) fn open(self) -> Stream {
        self.try_open().expect("the stream is not refused")
    }

    /// As [`open`](Self::open); `None` where there are too many streams.
    #[track_caller]
    pub(crate) fn try_open(self) -> Option<Stream> {
        let mut reader = BufReader::new(self.transmit());
        let head = Reply::read(&mut reader, "HEAD");
        head.check_head(&self.method, &self.target);
        if head.status == 503 {
            return None;
        }
        assert!(head.status < 300, "{head}");
        let items = Items::of(&self.method, &self.target, &head);
        assert_eq!(head.header("Transfer-Encoding"), Some("chunked"), "{head}");
        Some(Stream {
            head,
            reader,
            unread: Vec::new(),
            items,
        })
    }

    /// The connection, with the request sent.
    #[track_caller]
    fn transmit(&self) -> TcpStream {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        head += &format!("Host: {}\r\nConnection: close\r\n", self.addr);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let is_chunked = self.headers.iter().any(|(n, _)| n == "Transfer-Encoding");
        let length = self.content_length.unwrap_or(self.body.len() as u64);
        if !is_chunked && (length > 0 || self.method == "POST") {
            head += &format!("Content-Length: {length}\r\n");
        }
        head += "\r\n";
        let mut stream = Client::new(self.addr).connect();
        stream.write_all(head.as_bytes()).expect("the head is sent");
        // The server may answer and close before it has read a body that it refuses.
        let _ = stream.write_all(&self.body);
        stream
    }
}
