//! What a browser may do on behalf of a page from elsewhere: nothing, unless configured.

use crate::config::{Config, without_usual_port};
use crate::http::{Method, Problem, Request, Response};

/// Refuses requests to another host's name (DNS rebinding), and changes asked for by a page
/// from another origin.
pub(super) fn check(config: &Config, request: &Request<'_>) -> Result<(), Problem> {
    let host = request.host();
    if !is_ours(config, host) {
        let message = "This host name is not one of ALLOWED_HOSTS";
        return Err(Problem::new(421, "host_not_allowed", message));
    }
    let origin = request.header("Origin");
    let foreign = origin.is_some_and(|origin| !is_same(origin, host) && !is_listed(config, origin));
    if request.method == Method::Post && foreign {
        let message = "Pages of this origin may not use the API; see CORS_ALLOWED_ORIGINS";
        return Err(Problem::new(403, "origin_not_allowed", message));
    }
    Ok(())
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

/// Adds what lets a listed origin's pages read the answer.
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
        .with("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS")
        .with(
            "Access-Control-Allow-Headers",
            "Content-Type, X-App-Session, X-Request-Id, Idempotency-Key, If-None-Match, \
             Last-Event-ID, Authorization",
        )
        .with("Access-Control-Max-Age", "600")
}

fn is_listed(config: &Config, origin: &str) -> bool {
    config.cors_allowed_origins.iter().any(|o| o == origin)
}

#[cfg(test)]
mod tests {
    use super::is_same;

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
}
