//! Calls to a server: who asks, how long a server that is being restarted is waited for, and what a refusal says.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use uuid::Uuid;

use super::http::{self, Address, Request, Response};

/// How long a command tries to reach a server. One that has answered before is being restarted.
const AT_FIRST: Duration = Duration::from_secs(5);
const ONCE_REACHED: Duration = Duration::from_secs(30);

const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// A server, and who asks.
pub(super) struct Api {
    url: String,
    address: Result<Address, String>,
    session: Option<String>,
    token: Option<String>,
    /// For a caller that repeats by itself: when a call must be over.
    only_within: Option<Duration>,
    was_reached: Cell<bool>,
}

/// Why a call has no answer to work with.
pub(super) enum Trouble {
    /// The server did not answer, or is starting or stopping.
    Unreachable(String),
    /// The server refused the call: the status, the code and the message.
    Refused(u16, String, String),
}

impl Trouble {
    pub(super) fn misuse(why: impl Into<String>) -> Trouble {
        Trouble::Refused(400, String::new(), why.into())
    }

    /// What to tell the person.
    pub(super) fn message(&self) -> &str {
        match self {
            Trouble::Unreachable(message) | Trouble::Refused(_, _, message) => message,
        }
    }
}

impl Api {
    /// A server at `url`. What is wrong with the arguments is told by the first call.
    pub(super) fn new(url: &str, session: Option<String>, token: Option<String>) -> Api {
        let mut address = Address::parse(url);
        let is_unfit =
            |value: &Option<String>| value.iter().any(|value| value.contains(char::is_control));
        if is_unfit(&session) || is_unfit(&token) {
            address = Err("a session or a token must not hold control characters".to_owned());
        }
        Api {
            url: url.to_owned(),
            address,
            session,
            token,
            only_within: None,
            was_reached: Cell::new(false),
        }
    }

    /// The same server, asked once and for at most this long.
    pub(super) fn only_within(mut self, limit: Duration) -> Api {
        self.only_within = Some(limit);
        self
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Trouble> {
        self.json(self.send("GET", path, "application/json", None, None)?)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Trouble> {
        self.json(self.send("POST", path, "application/json", None, Some(body))?)
    }

    fn json(&self, response: Response) -> Result<Value, Trouble> {
        let mut text = String::new();
        let read = response.take(MAX_ANSWER).read_to_string(&mut text);
        read.map_err(|error| self.unreachable(&error))?;
        serde_json::from_str(&text).map_err(|_| {
            let message = format!("{} does not answer as this server would", self.url);
            Trouble::Refused(200, String::new(), message)
        })
    }

    /// A text, to be copied as it comes.
    pub(super) fn text(&self, path: &str) -> Result<impl Read, Trouble> {
        self.send("GET", path, "text/plain", None, None)
    }

    /// Calls `each` with each event after `last`, until the stream ends or breaks. Returns whether there are no more to come.
    pub(super) fn events(
        &self,
        path: &str,
        last: Option<&str>,
        mut each: impl FnMut(&str),
    ) -> Result<bool, Trouble> {
        let response = self.send("GET", path, "application/x-ndjson", last, None)?;
        if response.status == 204 {
            return Ok(true);
        }
        let lines = BufReader::new(response).lines().map_while(Result::ok);
        // An empty line says that the server is still there.
        lines
            .filter(|line| !line.is_empty())
            .for_each(|line| each(&line));
        Ok(false)
    }

    /// Sends until the server answers, for as long as it may be restarting.
    fn send(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        last_event: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Response, Trouble> {
        let address = self
            .address
            .as_ref()
            .map_err(|why| Trouble::misuse(&**why))?;
        let begun = Instant::now();
        // A repeat creates nothing twice, also where only the answer was lost.
        let key = body.is_some().then(|| Uuid::new_v4().to_string());
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let headers = [
            ("Accept", Some(accept)),
            ("X-App-Session", self.session.as_deref()),
            ("Authorization", bearer.as_deref()),
            ("Last-Event-ID", last_event),
            ("Idempotency-Key", key.as_deref()),
        ];
        let headers: Vec<_> = headers
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let path = format!("/api/v1{path}");
        let body = body.map(Value::to_string);
        let mut pause = Duration::from_millis(100);
        loop {
            let deadline = self.only_within.map(|limit| begun + limit);
            let body = body.as_deref().map(str::as_bytes);
            let sent = http::send(
                address,
                &Request {
                    method,
                    path: &path,
                    headers: &headers,
                    body,
                    deadline,
                },
            );
            self.was_reached.set(self.was_reached.get() || sent.is_ok());
            let mut asked = None;
            let trouble = match sent {
                Ok(response) if response.status < 400 => return Ok(response),
                Ok(response) => {
                    asked = response.retry_after;
                    refusal(response)
                }
                Err(error) => self.unreachable(&error),
            };
            let patience = match (self.only_within, self.was_reached.get()) {
                (Some(_), _) => Duration::ZERO,
                (None, false) => AT_FIRST,
                (None, true) => ONCE_REACHED,
            };
            let next = pause.max(asked.unwrap_or_default());
            if !matches!(trouble, Trouble::Unreachable(_)) || begun.elapsed() + next > patience {
                return Err(trouble);
            }
            sleep(next);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn unreachable(&self, error: &std::io::Error) -> Trouble {
        Trouble::Unreachable(format!("cannot reach {}: {error}", self.url))
    }
}

/// What the server says when it refuses. One that is stopping is as good as not there.
fn refusal(response: Response) -> Trouble {
    let (status, is_later) = (response.status, response.retry_after.is_some());
    let mut text = String::new();
    let _ = response.take(MAX_ANSWER).read_to_string(&mut text);
    let said: Value = serde_json::from_str(&text).unwrap_or_default();
    let member = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
    let (mut code, mut message) = (member("code"), member("message"));
    if code == "lease_over" {
        code = member("reason");
    }
    if message.is_empty() {
        message = format!("the server answered with status {status}");
    }
    match status {
        502 | 504 => Trouble::Unreachable(message),
        503 if is_later => Trouble::Unreachable(message),
        _ => Trouble::Refused(status, code, message),
    }
}
