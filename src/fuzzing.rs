//! Doors for the targets in `fuzz/`, and what must hold behind them. Compiled for them alone.

use std::sync::Arc;

use crate::api::{self, Api};
use crate::config::Config;
use crate::executor::ExecutorRegistry;
use crate::http::request::{Client, Headers};
use crate::http::response::Body;
use crate::http::router::Router;
use crate::http::{Method, Peer, Request};
use crate::jobs::Jobs;
use crate::net::head;
use crate::player::Player;
use crate::store::Scenes;
use crate::system::TaskSystem;

const MAX_BODY: usize = 65_536;

/// A head that passes, passes whatever follows it, is not whole any earlier, and was fine all
/// the way; one that is refused stays refused.
///
/// # Panics
///
/// Where that does not hold.
pub fn check_head(bytes: &[u8]) {
    let whole = head::find_end(bytes);
    let half = head::find_end(&bytes[..bytes.len() / 2]);
    match (&half, &whole) {
        (Ok(Some(early)), Ok(Some(late))) => assert_eq!(early, late),
        (Ok(Some(_)), _) => panic!("a whole head is not one any more"),
        (Err(_), Ok(_)) => panic!("what was refused is accepted"),
        _ => {}
    }
    if let Ok(Some(length)) = whole {
        assert!(bytes[..length].ends_with(b"\r\n"));
        assert!(matches!(head::find_end(&bytes[..length - 1]), Ok(None)));
        let text = head::text_of(&bytes[..length]);
        if let Ok(head) = head::parse(&text, MAX_BODY) {
            assert!(bytes[..length].ends_with(b"\r\n\r\n"));
            assert!(!head.method.is_empty() && !head.target.is_empty());
        }
    }
}

/// The length, the method, the target and the headers of a head that is accepted.
pub fn head_parts(bytes: &[u8]) -> Option<(usize, String, String, Vec<(String, String)>)> {
    let length = head::find_end(bytes).ok()??;
    let text = head::text_of(&bytes[..length]);
    let head = head::parse(&text, MAX_BODY).ok()?;
    let headers = head.headers.0.iter();
    let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let (method, target) = (head.method.to_owned(), head.target.to_owned());
    Some((length, method, target, headers.collect()))
}

/// The routes over a small system.
pub struct Routes {
    api: Arc<Api>,
    router: Router,
}

impl Routes {
    /// Starts the system.
    ///
    /// # Panics
    ///
    /// Where it cannot be started.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Routes {
        let pairs = [("MAX_TASKS_PER_SESSION", "50"), ("MAX_SESSIONS", "20")];
        let config = Config::from_pairs(pairs).expect("a valid configuration");
        let system = TaskSystem::start(&config, ExecutorRegistry::new()).expect("it starts");
        let jobs = Jobs::start(&config, system.execution()).expect("it is off");
        let api = Arc::new(Api::new(
            system.clone(),
            Player::new(system.execution().clone()),
            Scenes::new(),
            config,
        ));
        let mut routes = api::routes(&api);
        routes.extend(jobs.routes(api.streams()));
        Routes {
            router: Router::new(routes),
            api,
        }
    }

    /// `METHOD TARGET`, then headers, an empty line and the body: answered, in good form.
    ///
    /// # Panics
    ///
    /// Where the answer is a server's error, or has a header or body that cannot be sent.
    pub fn check(&self, text: &str) {
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let first = lines.next().unwrap_or_default();
        let (method, target) = first.split_once(' ').unwrap_or(("GET", first));
        let visible = |text: &str| text.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~'));
        let headers: Vec<_> = lines.filter_map(|line| line.split_once(':')).collect();
        // What no head holds.
        if !visible(head.lines().next().unwrap_or_default())
            || headers
                .iter()
                .any(|(name, value)| !visible(name) || !visible(value))
        {
            return;
        }
        let headers = Headers(
            headers
                .into_iter()
                .map(|(n, v)| (n.trim(), v.trim()))
                .collect(),
        );
        let client = Client {
            address: Some([192, 0, 2, 1].into()),
            request_id: "fuzz",
            state: &|| Peer::Gone,
        };
        let method = Method::parse(method);
        let body = body.as_bytes().to_vec();
        let request = Request::new(method, target, &headers, &body, client);
        let response = self.api.serve(&self.router, &request);
        assert!((200..500).contains(&response.status) || response.status == 503);
        for (name, value) in &response.headers {
            assert!(visible(value), "{name}: {value:?}");
        }
        let json = response
            .header("Content-Type")
            .is_some_and(|kind| kind.contains("json"));
        if let (Body::Bytes(bytes), true) = (&response.body, json) {
            let value: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
            // The health answer alone has no such field.
            let success = value.get("success").map_or(true, |field| field == true);
            assert_eq!(success, response.status < 400);
        }
    }
}
