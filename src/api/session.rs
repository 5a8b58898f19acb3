//! Whose request it is: the session key, from the request or from the client's address.

use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use super::Api;
use crate::http::{Problem, Request};
use crate::task::SessionKey;

impl Api {
    /// The first of header, query, cookie, address and default that is there.
    pub(super) fn session_of(&self, request: &Request<'_>) -> Result<SessionKey, Problem> {
        if let Some(text) = named(request) {
            return SessionKey::parse(text).ok_or_else(invalid);
        }
        if self.config.auto_map_session_by_ip
            && let Some(address) = self.client_address(request)
        {
            let hash = self.addresses.hash_one(address);
            return SessionKey::parse(&format!("ip_{hash:016x}")).ok_or_else(invalid);
        }
        Ok(self.config.default_session.clone())
    }

    /// The address that the outermost trusted proxy saw. One that fewer proxies vouch for than
    /// there are did not come through them, and counts as the connection's own.
    pub(super) fn client_address(&self, request: &Request<'_>) -> Option<IpAddr> {
        let proxies = self.config.trusted_proxies;
        if proxies == 0 {
            return request.address;
        }
        let forwarded = request.headers.all("X-Forwarded-For").join(",");
        forwarded
            .rsplit(',')
            .nth(proxies - 1)
            .and_then(|text| parse_address(text.trim()))
            .or(request.address)
    }
}

/// The key that the request itself names.
pub(super) fn named<'r>(request: &'r Request<'_>) -> Option<&'r str> {
    request
        .header("X-App-Session")
        .or_else(|| request.query_value("session"))
        .or_else(|| {
            let cookies = request.headers.all("Cookie");
            cookies
                .into_iter()
                .find_map(|header| cookie(header, "app_session"))
        })
}

fn invalid() -> Problem {
    let message = "A session key has 1 to 128 characters of A-Z a-z 0-9 . _ : -";
    Problem::new(400, "invalid_session_key", message)
}

fn cookie<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.split(';').find_map(|pair| {
        let (n, value) = pair.trim().split_once('=')?;
        (n == name).then_some(value)
    })
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = bare
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        for (text, want) in [
            ("1.2.3.4", Some("1.2.3.4")),
            ("1.2.3.4:80", Some("1.2.3.4")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("unknown", None),
            ("", None),
        ] {
            let want = want.map(|w| w.parse().expect("an address"));
            assert_eq!(parse_address(text), want, "{text}");
        }
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        assert_eq!(
            cookie("a=1; app_session=me; b=2", "app_session"),
            Some("me")
        );
        assert_eq!(cookie("xapp_session=me", "app_session"), None);
    }
}
