//! The gate: what a request's head must be before anything else reads it.
//!
//! `tiny_http` parses leniently, reads a line without an end for ever, and waits for itself at
//! versions that it does not know. Here a head is looked at as a whole, and only one that is
//! well-formed, of bounded size and unambiguous about its body goes on. What two readers could
//! understand differently is refused.

use crate::http::Problem;
use crate::http::request::{Headers, cut};

/// The most bytes of a head, its empty line included.
pub(super) const MAX_HEAD: usize = 16 * 1024;

const MAX_HEADERS: usize = 100;

/// A head that passes, in its parts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) headers: Headers<'a>,
    pub(crate) body: BodyLength,
    /// Whether it is HTTP/1.0.
    pub(crate) is_old: bool,
    /// Whether the client asks for this answer to be the connection's last.
    pub(crate) is_last: bool,
}

/// How a request's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    None,
    Bytes(usize),
    Chunked,
}

/// What a client calls its request, also where the head does not pass.
pub(crate) fn request_id(head: &[u8]) -> Option<&str> {
    let lines = std::str::from_utf8(head).ok()?.lines().skip(1);
    let fields = lines.filter_map(|line| line.split_once(':'));
    let mut ids = fields.filter(|(name, _)| name.eq_ignore_ascii_case("X-Request-Id"));
    ids.next().map(|(_, id)| id.trim())
}

/// How many of the bytes that have come so far are the head, its empty line included.
/// `Ok(None)`: they are fine, but not yet all.
///
/// Up to its end, a head is visible ASCII, blanks and tabs, in lines that end with CR LF.
///
/// # Errors
///
/// What is wrong, as soon as it can be told.
pub(crate) fn find_end(bytes: &[u8]) -> Result<Option<usize>, Problem> {
    let mut start = 0;
    for at in memchr::memchr_iter(b'\n', bytes) {
        match bytes[start..at].strip_suffix(b"\r") {
            Some(b"") if at < MAX_HEAD => return Ok(Some(at + 1)),
            Some(b"") => return Err(head_too_large()),
            Some(line) if is_text(line) => start = at + 1,
            _ => return Err(not_lines()),
        }
    }
    let begun = &bytes[start..];
    match is_text(begun.strip_suffix(b"\r").unwrap_or(begun)) {
        true if bytes.len() < MAX_HEAD => Ok(None),
        true => Err(head_too_large()),
        false => Err(not_lines()),
    }
}

pub(super) fn malformed(message: &str) -> Problem {
    Problem::new(400, "malformed_request", message)
}

pub(super) fn body_too_large(max: usize) -> Problem {
    let message = format!("The body is larger than {max} bytes (MAX_BODY_BYTES)");
    Problem::new(413, "body_too_large", message)
}

fn head_too_large() -> Problem {
    let message = format!("The head is larger than {MAX_HEAD} bytes or {MAX_HEADERS} headers");
    Problem::new(431, "head_too_large", message)
}

fn not_lines() -> Problem {
    malformed("A head is lines of visible ASCII that end with CR LF")
}

/// Whether it is visible ASCII, blanks and tabs. Looks at all of it in any case, which lets the
/// compiler look at many bytes at once.
fn is_text(line: &[u8]) -> bool {
    line.iter()
        .fold(true, |fine, &byte| fine & is_visible(byte))
}

pub(super) fn is_visible(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

/// Reads what [`find_end`] found.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn parse(head: &[u8], max_body: usize) -> Result<Head<'_>, Problem> {
    // The bytes were checked: this cannot fail.
    let text = std::str::from_utf8(head).map_err(|_| malformed("The head is not ASCII"))?;
    let (first, mut rest) = cut(text, b'\n').unwrap_or_default();
    let (method, target, is_old) = request_line(without_cr(first))?;
    let mut headers = Vec::with_capacity(16);
    let mut fields = Fields::default();
    while let Some((line, more)) = cut(rest, b'\n') {
        rest = more;
        let line = without_cr(line);
        if line.is_empty() {
            break;
        }
        if headers.len() == MAX_HEADERS {
            return Err(head_too_large());
        }
        let (name, value) = header(line)?;
        fields.add(name, value)?;
        headers.push((name, value));
    }
    match fields.host {
        None if !is_old => return Err(malformed("The header Host is missing")),
        Some(host) if !host.bytes().all(is_of_host) => {
            return Err(malformed("The header Host is not NAME or NAME:PORT"));
        }
        _ => {}
    }
    Ok(Head {
        method,
        target,
        headers: Headers(headers),
        body: fields.body(is_old, max_body)?,
        is_old,
        is_last: fields.is_last,
    })
}

fn without_cr(line: &str) -> &str {
    line.strip_suffix('\r').unwrap_or(line)
}

/// A name, an address, a port; no list of them, nor a user's name.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\''
        )
        || matches!(byte, b'('..=b'+' | b';' | b'=' | b':' | b'[' | b']')
}

/// Method, target, and whether it is HTTP/1.0.
fn request_line(line: &str) -> Result<(&str, &str, bool), Problem> {
    let wrong = || malformed("A request begins with METHOD TARGET HTTP/1.1");
    let (method, rest) = cut(line, b' ').ok_or_else(wrong)?;
    let (target, version) = cut(rest, b' ').ok_or_else(wrong)?;
    if method.is_empty() || !method.bytes().all(is_token) || target.is_empty() {
        return Err(wrong());
    }
    match version {
        "HTTP/1.1" => Ok((method, target, false)),
        "HTTP/1.0" => Ok((method, target, true)),
        _ if version.starts_with("HTTP/") && !version.contains(' ') => {
            let message = "Only HTTP/1.0 and HTTP/1.1 are understood";
            Err(Problem::new(505, "http_version_not_supported", message))
        }
        _ => Err(wrong()),
    }
}

/// Name and value of one line.
fn header(line: &str) -> Result<(&str, &str), Problem> {
    // A blank before the colon, or in front of a line, is what proxies disagree about.
    match cut(line, b':') {
        Some((name, value)) if !name.is_empty() && name.bytes().all(is_token) => {
            Ok((name, value.trim_ascii()))
        }
        _ => Err(malformed("A header is NAME: VALUE")),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

/// The headers that say where the request goes and where it ends; each at most once.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a str>,
    content_length: Option<&'a str>,
    transfer_encoding: Option<&'a str>,
    expect: Option<&'a str>,
    is_last: bool,
}

impl<'a> Fields<'a> {
    fn add(&mut self, name: &str, value: &'a str) -> Result<(), Problem> {
        // The parser does not take it, and would only say that something is wrong.
        if memchr::memchr(b'\t', value.as_bytes()).is_some() {
            return Err(malformed(&format!("{name} has a tab within its value")));
        }
        let place = match name.len() {
            4 if name.eq_ignore_ascii_case("Host") => &mut self.host,
            6 if name.eq_ignore_ascii_case("Expect") => &mut self.expect,
            // A list, in one header or several.
            10 if name.eq_ignore_ascii_case("Connection") => {
                let mut words = value.split(',').map(str::trim_ascii);
                self.is_last |= words.any(|word| word.eq_ignore_ascii_case("close"));
                return Ok(());
            }
            14 if name.eq_ignore_ascii_case("Content-Length") => &mut self.content_length,
            17 if name.eq_ignore_ascii_case("Transfer-Encoding") => &mut self.transfer_encoding,
            _ => return Ok(()),
        };
        match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(malformed(&format!("{name} is given twice"))),
        }
    }

    fn body(&self, is_old: bool, max: usize) -> Result<BodyLength, Problem> {
        // An old client that is sent `100 Continue` would take it for the answer.
        let expects = |e: &str| is_old || !e.eq_ignore_ascii_case("100-continue");
        if self.expect.is_some_and(expects) {
            let message = "Only Expect: 100-continue is understood, and only in HTTP/1.1";
            return Err(Problem::new(417, "expectation_failed", message));
        }
        match (self.content_length, self.transfer_encoding) {
            (None, None) => Ok(BodyLength::None),
            (Some(_), Some(_)) => Err(malformed(
                "Content-Length and Transfer-Encoding exclude each other",
            )),
            (None, Some(_)) if is_old => Err(malformed("HTTP/1.0 has no Transfer-Encoding")),
            (None, Some(encoding)) if encoding.eq_ignore_ascii_case("chunked") => {
                Ok(BodyLength::Chunked)
            }
            (None, Some(_)) => {
                let message = "Only Transfer-Encoding: chunked is understood";
                Err(Problem::new(
                    501,
                    "transfer_encoding_not_supported",
                    message,
                ))
            }
            (Some(length), None) => content_length(length, max),
        }
    }
}

fn content_length(text: &str, max: usize) -> Result<BodyLength, Problem> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed("Content-Length is not a number"));
    }
    // More digits than fit into a number are too large as well.
    match text.parse() {
        Ok(0) => Ok(BodyLength::None),
        Ok(length) if length <= max => Ok(BodyLength::Bytes(length)),
        _ => Err(body_too_large(max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the head is, and what it says, once it is whole.
    fn look(text: &str) -> Result<Option<(usize, Head<'_>)>, u16> {
        let bytes = text.as_bytes();
        let look = || match find_end(bytes)? {
            Some(end) => Ok(Some((end, parse(&bytes[..end], 1_000)?))),
            None => Ok(None),
        };
        look().map_err(|problem: Problem| problem.status)
    }

    fn body_of(headers: &str) -> Result<BodyLength, u16> {
        let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        let (_, head) = look(&text)?.expect("a whole head");
        Ok(head.body)
    }

    #[test]
    fn a_head_is_whole_at_its_empty_line_and_fine_until_then() {
        let text = "GET /a?b HTTP/1.1\r\nHost: h\r\nX-Y:\t z \r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(look(&text[..end]), Ok(None), "{:?}", &text[..end]);
        }
        let with_more = format!("{text}\0 not ours to judge");
        for whole in [text, &with_more] {
            let (length, _) = look(whole).expect("fine").expect("whole");
            assert_eq!(length, text.len());
        }
    }

    #[test]
    fn a_head_is_read_in_its_parts() {
        let head = "GET /a?b HTTP/1.1\r\nHost: h\r\nX:\ty \r\nX:z:\r\n\r\n";
        let (_, head) = look(head).expect("fine").expect("whole");
        let want = Head {
            method: "GET",
            target: "/a?b",
            headers: Headers(vec![("Host", "h"), ("X", "y"), ("X", "z:")]),
            body: BodyLength::None,
            is_old: false,
            is_last: false,
        };
        assert_eq!(head, want);
    }

    #[test]
    fn a_body_has_one_length() {
        for (headers, want) in [
            ("", Ok(BodyLength::None)),
            ("Content-Length: 0\r\n", Ok(BodyLength::None)),
            ("content-length:7\r\n", Ok(BodyLength::Bytes(7))),
            ("Content-Length: 1000\r\n", Ok(BodyLength::Bytes(1_000))),
            ("Content-Length: 1001\r\n", Err(413)),
            ("Content-Length: 99999999999999999999999\r\n", Err(413)),
            ("Content-Length: +7\r\n", Err(400)),
            ("Content-Length: 7, 7\r\n", Err(400)),
            ("Content-Length: 0x7\r\n", Err(400)),
            ("Content-Length:\r\n", Err(400)),
            ("Content-Length: 7\r\nContent-Length: 7\r\n", Err(400)),
            (
                "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
                Err(400),
            ),
            ("Transfer-Encoding: Chunked\r\n", Ok(BodyLength::Chunked)),
            ("Transfer-Encoding: gzip, chunked\r\n", Err(501)),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Err(400),
            ),
            (
                "Expect: 100-Continue\r\nContent-Length: 7\r\n",
                Ok(BodyLength::Bytes(7)),
            ),
            ("Expect: magic\r\n", Err(417)),
        ] {
            assert_eq!(body_of(headers), want, "{headers:?}");
        }
        let old = |header: &str| {
            let text = format!("POST / HTTP/1.0\r\n{header}\r\n\r\n");
            look(&text).map(drop)
        };
        assert_eq!(old("Transfer-Encoding: chunked"), Err(400));
        assert_eq!(old("Expect: 100-continue"), Err(417));
    }

    #[test]
    fn what_readers_could_understand_differently_is_refused() {
        for (head, want) in [
            ("GET / HTTP/1.1\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\n\n", 400),
            ("GET / HTTP/1.1\rHost: h", 400),
            ("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
            ("GET /\r\nHost: h\r\n\r\n", 400),
            ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nX: a\tb\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nX: y\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: me@a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
            ("GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nX: \0\r\n", 400),
            ("GET /ü HTTP/1.1", 400),
            ("\u{16}\u{3}\u{1}", 400),
            ("PRI * HTTP/2.0\r\n\r\n", 505),
            ("GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505),
            ("GET / HTTP/1.2\r\nHost: h\r\n\r\n", 505),
            ("GET / FTP/1.1\r\nHost: h\r\n\r\n", 400),
        ] {
            assert_eq!(look(head), Err(want), "{head:?}");
        }
    }

    #[test]
    fn the_last_request_may_say_so_in_any_of_its_headers() {
        let is_last = |headers: &str| {
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n");
            let (_, head) = look(&text).expect("fine").expect("whole");
            head.is_last
        };
        assert!(is_last("Connection: Close"));
        assert!(is_last("Connection: keep-alive\r\nconnection:\tx , close"));
        assert!(!is_last("Connection: keep-alive"));
        assert!(!is_last("Connection: closed, x-close"));
        assert!(!is_last("X: close"));
    }

    #[test]
    fn size_and_number_have_a_limit() {
        let with = |filler: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{filler}\r\n");
        let empty = with("").len();
        let long = |bytes: usize| with(&format!("X: {}\r\n", "y".repeat(bytes - empty - 5)));
        assert!(matches!(look(&long(MAX_HEAD)), Ok(Some(_))));
        assert_eq!(look(&long(MAX_HEAD + 1)), Err(431));
        assert_eq!(look(&"y".repeat(MAX_HEAD)), Err(431));
        assert!(matches!(look(&with(&"A: b\r\n".repeat(99))), Ok(Some(_))));
        assert_eq!(look(&with(&"A: b\r\n".repeat(100))), Err(431));
    }
}
