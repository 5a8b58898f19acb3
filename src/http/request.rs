//! A request as handlers see it.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::IpAddr;

use crate::http::problem::Problem;
use crate::http::response::Peer;

/// The methods that routes know; any other is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Delete,
    Options,
    Other,
}

impl Method {
    pub(crate) fn parse(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            _ => Method::Other,
        }
    }
}

/// Names and values, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Headers<'a>(pub(crate) Vec<(&'a str, &'a str)>);

impl<'a> Headers<'a> {
    /// The first value of that name, in any case.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.named(name).next()
    }

    /// Every value of that name.
    pub(crate) fn all(&self, name: &str) -> Vec<&'a str> {
        self.named(name).collect()
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.iter();
        let same = pairs.filter(move |(n, _)| n.eq_ignore_ascii_case(name));
        same.map(|(_, value)| *value)
    }
}

/// A request with its body, received whole.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    /// The host that the target itself names, where it does.
    authority: Option<&'a str>,
    /// Without a trailing slash.
    path: &'a str,
    /// As it was sent.
    query_text: &'a str,
    pub(crate) address: Option<IpAddr>,
    pub(crate) headers: &'a Headers<'a>,
    body: &'a dyn RequestBody,
    /// The client's own id where it is sane, else one of ours.
    pub(crate) id: &'a str,
    /// What is known of the client while its request is handled.
    pub(crate) client: &'a dyn Fn() -> Peer,
    query: OnceCell<Vec<(String, String)>>,
}

/// The body of a request. That of a client that waits for `100 Continue` is asked for only by the first call.
pub(crate) trait RequestBody {
    /// The whole body.
    ///
    /// # Errors
    ///
    /// It did not arrive, or is too large.
    fn whole(&self) -> Result<&[u8], Problem>;
}

impl RequestBody for Vec<u8> {
    fn whole(&self) -> Result<&[u8], Problem> {
        Ok(self)
    }
}

/// Where a request comes from.
pub(crate) struct Client<'a> {
    pub(crate) address: Option<IpAddr>,
    pub(crate) request_id: &'a str,
    pub(crate) state: &'a dyn Fn() -> Peer,
}

impl<'a> Request<'a> {
    pub(crate) fn new(
        method: Method,
        target: &'a str,
        headers: &'a Headers<'a>,
        body: &'a dyn RequestBody,
        client: Client<'a>,
    ) -> Request<'a> {
        let (authority, target) = split_authority(target);
        let (target, _) = cut(target, b'#').unwrap_or((target, ""));
        let (path, query_text) = cut(target, b'?').unwrap_or((target, ""));
        Request {
            method,
            authority,
            path: without_slash(path),
            query_text,
            address: client.address,
            headers,
            body,
            id: client.request_id,
            client: client.state,
            query: OnceCell::new(),
        }
    }

    /// The body, whole.
    ///
    /// # Errors
    ///
    /// It did not arrive, or is too large.
    pub(crate) fn body(&self) -> Result<&'a [u8], Problem> {
        self.body.whole()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name)
    }

    /// The token of `Authorization: Bearer`. None if there are two such headers: a proxy may have checked the other one.
    pub(crate) fn bearer(&self) -> Option<&'a str> {
        let [given] = &self.headers.all("Authorization")[..] else {
            return None;
        };
        let (scheme, token) = given.split_once(' ')?;
        scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
    }

    /// The host, and port, that the client means to speak to; what the target says outweighs the
    /// header.
    pub(crate) fn host(&self) -> &'a str {
        self.authority
            .or_else(|| self.header("Host"))
            .unwrap_or_default()
    }

    /// The path, without a trailing slash.
    pub(crate) fn path(&self) -> &'a str {
        self.path
    }

    /// The query's pairs, decoded, in order.
    pub(crate) fn query(&self) -> &[(String, String)] {
        if self.query_text.is_empty() {
            return &[];
        }
        self.query.get_or_init(|| {
            let pairs = self.query_text.split('&');
            pairs
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (form_decode(name), form_decode(value))
                })
                .collect()
        })
    }

    /// The first value of that name in the query.
    pub(crate) fn query_value(&self, name: &str) -> Option<&str> {
        let mut pairs = self.query().iter();
        pairs.find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// `http://host/path` names the same target as `/path`.
fn split_authority(target: &str) -> (Option<&str>, &str) {
    let without = |scheme: &str| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    match without("http://").or_else(|| without("https://")) {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            (Some(authority), if path.is_empty() { "/" } else { path })
        }
        None => (None, target),
    }
}

fn without_slash(path: &str) -> &str {
    match path.strip_suffix('/') {
        Some(shorter) if !shorter.is_empty() => shorter,
        _ => path,
    }
}

/// What stands before and behind the first `at`, an ASCII character.
pub(crate) fn cut(text: &str, at: u8) -> Option<(&str, &str)> {
    let place = memchr::memchr(at, text.as_bytes())?;
    Some((&text[..place], &text[place + 1..]))
}

fn form_decode(text: &str) -> String {
    match cut(text, b'+') {
        Some(_) => percent_decode(&text.replace('+', " ")).into_owned(),
        None => percent_decode(text).into_owned(),
    }
}

/// `%41` → `A`; a malformed escape stays as it is, bytes that are not UTF-8 become U+FFFD.
pub(crate) fn percent_decode(text: &str) -> Cow<'_, str> {
    if cut(text, b'%').is_none() {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = after;
                }
                _ => bytes.push(first),
            },
            _ => bytes.push(first),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_split_into_path_and_query() {
        for (target, host, path, query) in [
            (
                "/a/b?x=1&y=%C3%BC+z",
                "",
                "/a/b",
                vec![("x", "1"), ("y", "ü z")],
            ),
            ("/a/", "", "/a", vec![]),
            ("/", "", "/", vec![]),
            ("http://h:1/a?b", "h:1", "/a", vec![("b", "")]),
            ("http://h", "h", "/", vec![]),
            ("HTTP://h/a", "h", "/a", vec![]),
            ("*", "", "*", vec![]),
            ("/a?%zz=%4", "", "/a", vec![("%zz", "%4")]),
        ] {
            let client = Client {
                address: None,
                request_id: "",
                state: &|| Peer::Open,
            };
            let headers = Headers(Vec::new());
            let body = Vec::new();
            let request = Request::new(Method::Get, target, &headers, &body, client);
            assert_eq!(request.host(), host);
            assert_eq!(request.path(), path);
            let pairs: Vec<_> = request
                .query()
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            assert_eq!(pairs, query, "{target}");
        }
    }
}
