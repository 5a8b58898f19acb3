//! `/`: the page for browsers, and a short text for everything else.

use uuid::Uuid;

use super::Call;
use super::terminal::TEXT;
use crate::http::Response;
use crate::http::router::Answer;

const INDEX: &str = include_str!("../page/index.html");
const SHARED: &str = include_str!("../page/shared.html");
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn home(call: &Call<'_>) -> Answer {
    let session = call.session.as_str();
    let response = match call.request.accepts("text/html") {
        true => {
            let page = INDEX.replace("{{session}}", session);
            html(200, &page.replace("{{version}}", VERSION))
        }
        false => Response::bytes(TEXT, text(host(call), session)),
    };
    Ok(response.with("Vary", "Accept"))
}

/// The page of a share link, which fetches its task itself; `status` 404 where that has gone.
pub(super) fn shared(status: u16) -> Response {
    html(status, SHARED)
}

/// A page whose scripts and styles are those it came with, and no other.
fn html(status: u16, page: &str) -> Response {
    let nonce = Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let mut response = Response::bytes(
        "text/html; charset=utf-8",
        page.replace("{{nonce}}", &nonce),
    );
    response.status = status;
    response
        .with("Content-Security-Policy", policy)
        .with("X-Frame-Options", "DENY")
        // Session keys and share tokens stand in addresses: they go nowhere else.
        .with("Referrer-Policy", "no-referrer")
}

/// The host as the client knows it, where that can be pasted into a shell without harm.
fn host<'a>(call: &'a Call<'_>) -> &'a str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".:-[]".contains(&b);
    let host = call.request.host();
    match !host.is_empty() && host.bytes().all(plain) {
        true => host,
        false => "localhost:3000",
    }
}

fn text(host: &str, session: &str) -> String {
    format!(
        "Async Task System {VERSION}: background tasks with progress

Your session: {session}

Start a demo task, and watch it run:

  curl -X POST http://{host}/api/v1/demo/tasks/sample
  curl -N http://{host}/api/v1/tasks/ID/watch

Your own process, step by step:

  curl -X POST http://{host}/api/v1/demo/tasks/workflow \\
    -H 'Content-Type: application/json' \\
    -d '{{\"name\":\"Order\",\"steps\":[{{\"name\":\"Pick\",\"durationMs\":2000}},{{\"name\":\"Ship\",\"durationMs\":3000}}]}}'

Look around:

  curl http://{host}/api/v1/tasks
  curl http://{host}/api/v1/tasks/stats
  curl -N http://{host}/api/v1/tasks/events

The same with a page: open http://{host}/?session={session} in a browser.
"
    )
}
