//! Requests to a server: what every command of the client sends, and how it hears of trouble.

use std::io::{self, Read, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body};
use uuid::Uuid;

/// How long a command waits for a server that is being restarted.
const PATIENCE: Duration = Duration::from_secs(5);

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The server sends something at least every 15 s on a stream, and holds no call longer than a minute.
const READ_WITHIN: Duration = Duration::from_secs(75);

/// A server, and who asks.
pub(super) struct Api {
    agent: Agent,
    base: String,
    session: Option<String>,
    token: Option<String>,
    patience: Duration,
}

/// Why a call has no answer to work with.
pub(super) enum Trouble {
    /// The server did not answer, or is starting or stopping.
    Unreachable(String),
    /// The server refused the call: the status, the code and the message.
    Refused(u16, String, String),
}

impl Trouble {
    /// What to tell the person.
    pub(super) fn message(&self) -> &str {
        match self {
            Trouble::Unreachable(message) | Trouble::Refused(_, _, message) => message,
        }
    }
}

impl Api {
    /// A server at `url`, which may end with a slash.
    pub(super) fn new(url: &str, session: Option<String>, token: Option<String>) -> Api {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_per_read(Some(READ_WITHIN))
            .max_redirects(0)
            .build();
        let url = url.trim_end_matches('/');
        let base = match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        };
        Api {
            agent: config.into(),
            base,
            session,
            token,
            patience: PATIENCE,
        }
    }

    /// The same server, without repeats: for a thread that repeats by itself.
    pub(super) fn impatient(mut self) -> Api {
        self.patience = Duration::ZERO;
        self
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Trouble> {
        self.call(Method::GET, path, None)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Trouble> {
        self.call(Method::POST, path, Some(body))
    }

    /// A call whose answer is JSON.
    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Trouble> {
        let mut response = self.send(method, path, body, "application/json")?;
        let text = response.body_mut().read_to_string();
        let text = text.map_err(|error| self.unreachable(&error))?;
        serde_json::from_str(&text).map_err(|_| {
            let message = format!("{} does not answer as this server would", self.base);
            Trouble::Refused(200, "not_json".to_owned(), message)
        })
    }

    /// Copies a stream of text to `out` as it comes.
    pub(super) fn copy(&self, path: &str, out: &mut impl Write) -> Result<(), Trouble> {
        let mut response = self.send(Method::GET, path, None, "text/plain")?;
        let mut reader = response.body_mut().as_reader();
        let mut part = [0; 8 * 1024];
        loop {
            let length = reader
                .read(&mut part)
                .map_err(|error| self.broken(&error))?;
            let part = &part[..length];
            // Whoever reads our output may have seen enough.
            if part.is_empty() || out.write_all(part).and_then(|()| out.flush()).is_err() {
                return Ok(());
            }
        }
    }

    /// Sends until the server answers, for as long as it may be restarting.
    fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        accept: &str,
    ) -> Result<Response<Body>, Trouble> {
        let deadline = Instant::now() + self.patience;
        let key = Uuid::new_v4().to_string();
        let mut pause = Duration::from_millis(100);
        loop {
            let trouble = match self.try_send(method.clone(), path, body, accept, &key) {
                Ok(response) if response.status().as_u16() < 400 => return Ok(response),
                Ok(response) => refusal(response),
                Err(error) => self.unreachable(&error),
            };
            let may_repeat = matches!(trouble, Trouble::Unreachable(_));
            if !may_repeat || Instant::now() + pause > deadline {
                return Err(trouble);
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn try_send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        accept: &str,
        key: &str,
    ) -> Result<Response<Body>, ureq::Error> {
        let target = format!("{}/api/v1{path}", self.base);
        let mut request = Request::builder().method(method).uri(target);
        request = request.header("Accept", accept);
        if let Some(session) = &self.session {
            request = request.header("X-App-Session", session);
        }
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        match body {
            Some(body) => {
                request = request.header("Content-Type", "application/json");
                // A repeat creates nothing twice, also where only the answer was lost.
                request = request.header("Idempotency-Key", key);
                self.agent.run(request.body(body.to_string())?)
            }
            None => self.agent.run(request.body(())?),
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> Trouble {
        let why = match error {
            ureq::Error::Io(error) => error.to_string(),
            error => error.to_string(),
        };
        Trouble::Unreachable(format!("cannot reach {}: {why}", self.base))
    }

    fn broken(&self, error: &io::Error) -> Trouble {
        Trouble::Unreachable(format!("{} has gone away: {error}", self.base))
    }
}

/// What the server says when it refuses. One that is stopping is as good as not there.
fn refusal(mut response: Response<Body>) -> Trouble {
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().unwrap_or_default();
    let said: Value = serde_json::from_str(&text).unwrap_or_default();
    let member = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
    let (mut code, mut message) = (member("code"), member("message"));
    if code == "lease_over" {
        code = member("reason");
    }
    if message.is_empty() {
        message = format!("the server answered with status {status}");
    }
    match code.as_str() {
        "server_stopping" | "database_unavailable" => Trouble::Unreachable(message),
        _ if status == 502 || status == 504 => Trouble::Unreachable(message),
        _ => Trouble::Refused(status, code, message),
    }
}
