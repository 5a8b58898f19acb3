//! Polls that are conditional (`If-None-Match`) or long (`?wait`), for whatever has a version.

use std::time::{Duration, Instant};

use crate::http::fields::Query;
use crate::http::router::Answer;
use crate::http::streaming::LOOK;
use crate::http::{Peer, Problem, Request, Response};
use crate::store::Wait;

/// The longest wait, in seconds.
const MAX_WAIT: u64 = 60;

/// How long the client is ready to wait, if it is.
pub(crate) fn wait(request: &Request<'_>) -> Result<Option<Duration>, Problem> {
    let mut query = Query::new(request, &["wait"]);
    let wait = query.parse("wait", "a whole number of seconds from 0 to 60", |text| {
        let seconds = text.parse().ok();
        seconds.filter(|seconds| (0..=MAX_WAIT).contains(seconds))
    });
    query.finish()?;
    Ok(wait.map(Duration::from_secs))
}

/// What a poll has found.
pub(crate) struct Polled {
    response: Response,
    /// A long poll needs to wait no longer.
    is_ready: bool,
}

impl Polled {
    /// `body` is asked for unless the client knows this version.
    pub(crate) fn new(
        request: &Request<'_>,
        version: u64,
        is_final: bool,
        body: impl FnOnce() -> Response,
    ) -> Polled {
        let tag = ["\"", itoa::Buffer::new().format(version), "\""].concat();
        let known = request.header("If-None-Match");
        let is_same = known.is_some_and(|known| matches(known, &tag));
        let response = match is_same {
            true => Response::empty(304),
            false => body(),
        };
        let response = response.with("ETag", tag);
        Polled {
            response: match is_final {
                true => response,
                false => response.with("Retry-After", "1"),
            },
            is_ready: is_final || known.is_some() && !is_same,
        }
    }

    pub(crate) fn response(self) -> Response {
        self.response
    }
}

/// Whether `If-None-Match` names this tag. A weak tag matches too.
fn matches(known: &str, tag: &str) -> bool {
    let mut tags = known.split(',').map(str::trim);
    tags.any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

/// Polls until there is something to say, or the time is up. `changed` waits for a change; it has to be subscribed
/// before this call, so that no change is missed.
pub(crate) fn long_poll(
    request: &Request<'_>,
    patience: Duration,
    poll: impl Fn() -> Result<Polled, Problem>,
    changed: impl Fn(Duration) -> Wait,
) -> Answer {
    let deadline = Instant::now() + patience;
    loop {
        let polled = poll()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if polled.is_ready || left.is_zero() || (request.client)() != Peer::Open {
            return Ok(polled.response);
        }
        if changed(left.min(LOOK)) == Wait::Over {
            return poll().map(Polled::response);
        }
    }
}
