//! Requests that a browser sends for a page of another origin: they are refused unless configured.

use crate::config::{Config, without_usual_port};
use crate::http::{Method, Problem, Request, Response};

/// Refuses requests to another host's name (DNS rebinding), and changes asked for by a page
/// from another origin.
pub(super) fn check(config: &Config, request: &Request<'_>) -> Result<(), Problem> {
    let host = request.host();
    if !is_ours(config, host) {
        let message = match is_plain(host) {
            true => format!("Host {host} is not in ALLOWED_HOSTS"),
            false => "This host name is not in ALLOWED_HOSTS".to_owned(),
        };
        return Err(Problem::new(421, "host_not_allowed", message));
    }
    let changes = matches!(request.method, Method::Post | Method::Delete);
    let origin = changes.then(|| request.header("Origin"));
    match origin.flatten() {
        Some(origin) if !is_same(origin, host) && !is_listed(config, origin) => {
            let message = refusal(origin);
            Err(Problem::new(403, "origin_not_allowed", message))
        }
        _ => Ok(()),
    }
}

/// Names the variable that helps, with the value to give it.
fn refusal(origin: &str) -> String {
    let (scheme, host) = origin.split_once("://").unwrap_or_default();
    if !is_plain(host) || !matches!(scheme, "http" | "https") {
        return "Pages of this origin may not use the API; see CORS_ALLOWED_ORIGINS".to_owned();
    }
    let any_port = match host.split_once(':') {
        Some(("localhost", _)) => format!(", or {scheme}://localhost:* for every port"),
        _ => String::new(),
    };
    format!(
        "Pages of {origin} may not use the API: start the server with \
         CORS_ALLOWED_ORIGINS={origin}{any_port}"
    )
}

/// Whether a name from outside can be repeated.
fn is_plain(host: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".:-[]".contains(&b);
    (1..=255).contains(&host.len()) && host.bytes().all(plain)
}

/// Whether the page is this host's own. Browsers leave the usual port out, some proxies add it.
fn is_same(origin: &str, host: &str) -> bool {
    let (scheme, authority) = origin.split_once("://").unwrap_or(("", origin));
    let bare = without_usual_port(scheme, host);
    authority.eq_ignore_ascii_case(host) || authority.eq_ignore_ascii_case(bare)
}

/// Whether the server may go by that name, with its port or without.
fn is_ours(config: &Config, host: &str) -> bool {
    let allowed = &config.allowed_hosts;
    if allowed.is_empty() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let mut allowed = allowed.iter();
    allowed.any(|a| a.eq_ignore_ascii_case(host) || a.eq_ignore_ascii_case(name))
}

/// Adds the CORS headers that let a listed origin's pages read the response.
pub(super) fn allow(config: &Config, request: &Request<'_>, response: Response) -> Response {
    if config.cors_allowed_origins.is_empty() {
        return response;
    }
    let response = response.with("Vary", "Origin");
    let Some(origin) = request.header("Origin").filter(|o| is_listed(config, o)) else {
        return response;
    };
    let response = response
        .with("Access-Control-Allow-Origin", origin.to_owned())
        .with(
            "Access-Control-Expose-Headers",
            "Location, Retry-After, ETag, X-App-Session, X-Request-Id, Idempotency-Replayed",
        );
    if request.method != Method::Options {
        return response;
    }
    response
        .with(
            "Access-Control-Allow-Methods",
            "GET, HEAD, POST, DELETE, OPTIONS",
        )
        .with(
            "Access-Control-Allow-Headers",
            "Content-Type, X-App-Session, X-Request-Id, Idempotency-Key, If-None-Match, \
             Last-Event-ID, Authorization",
        )
        .with("Access-Control-Max-Age", "600")
}

fn is_listed(config: &Config, origin: &str) -> bool {
    let mut listed = config.cors_allowed_origins.iter();
    listed.any(|listed| match listed.strip_suffix(":*") {
        Some(name) => is_at_any_port(origin, name),
        None => listed == origin,
    })
}

/// `http://localhost` and `http://localhost:5173`, where `name` is `http://localhost`.
fn is_at_any_port(origin: &str, name: &str) -> bool {
    match origin.strip_prefix(name) {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok()),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{is_at_any_port, is_same, refusal};

    #[test]
    fn a_page_of_the_same_host_is_known_with_and_without_the_usual_port() {
        for (origin, host, same) in [
            ("https://a.example", "a.example", true),
            ("https://a.example", "A.example:443", true),
            ("http://a.example", "a.example:80", true),
            ("http://a.example:3000", "a.example:3000", true),
            ("http://a.example", "a.example:443", false),
            ("https://a.example", "a.example:3000", false),
            ("https://b.example", "a.example", false),
            ("null", "a.example", false),
        ] {
            assert_eq!(is_same(origin, host), same, "{origin} at {host}");
        }
    }

    #[test]
    fn any_port_is_a_port_and_no_other_name() {
        let name = "http://localhost";
        for (origin, fits) in [
            ("http://localhost", true),
            ("http://localhost:5173", true),
            ("http://localhost:70000", false),
            ("http://localhost:1.evil.example", false),
            ("http://localhost.evil.example", false),
            ("https://localhost:5173", false),
        ] {
            assert_eq!(is_at_any_port(origin, name), fits, "{origin}");
        }
    }

    #[test]
    fn a_refusal_repeats_no_origin_that_is_none() {
        for origin in [
            "null",
            "http://a b",
            "file://",
            "javascript://x",
            "http://<x>",
        ] {
            assert!(
                refusal(origin).starts_with("Pages of this origin"),
                "{origin}"
            );
        }
    }
}
