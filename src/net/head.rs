//! Judges the head of a request: its request line and its headers.
//!
//! Only a head that is well-formed, of bounded size and unambiguous about its body is accepted. What two
//! programs could understand differently is refused, since a proxy in front may be the other one.

use std::borrow::Cow;

use crate::http::Problem;
use crate::http::request::{Headers, cut};
use crate::net::framing::{BodyLength, FramingHeaders, Version, malformed};

/// The most bytes of a head, its empty line included.
pub(super) const MAX_HEAD: usize = 16 * 1024;

const MAX_HEADERS: usize = 100;

/// A head that is accepted, in its parts.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) headers: Headers<'a>,
    pub(crate) version: Version,
    /// Why the body is refused, if it is: the response then has the headers of every other response.
    pub(crate) body: Result<BodyLength, Problem>,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    /// Whether the client may send another request on this connection.
    pub(crate) keep_alive: bool,
}

/// The client's own id of its request, also if the head is refused.
pub(crate) fn request_id(head: &str) -> Option<&str> {
    let lines = head.lines().skip(1);
    let fields = lines.filter_map(|line| line.split_once(':'));
    let mut ids = fields.filter(|(name, _)| name.eq_ignore_ascii_case("X-Request-Id"));
    ids.next().map(|(_, id)| id.trim())
}

/// The client's own request id, if it can do no harm in a header or a log.
pub(crate) fn sane_id(id: Option<&str>) -> Option<&str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    id.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(allowed))
}

/// The length of the head at the start of `bytes`, with the empty line that ends it. `Ok(None)`: all is well
/// so far, and more has to come.
///
/// The request line is visible ASCII. Header values may hold tabs and bytes above 127 as well. Each line ends with CR LF.
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
            Some(line) if is_fine(line, start) => start = at + 1,
            _ => return Err(not_lines()),
        }
    }
    let begun = &bytes[start..];
    match is_fine(begun.strip_suffix(b"\r").unwrap_or(begun), start) {
        true if bytes.len() < MAX_HEAD => Ok(None),
        true => Err(head_too_large()),
        false => Err(not_lines()),
    }
}

/// Whether these bytes may stand in a line that begins at `start`.
fn is_fine(line: &[u8], start: usize) -> bool {
    match start {
        0 => all(line, |byte| (b' '..=b'~').contains(&byte)),
        _ => is_text(line),
    }
}

/// The text of a head that [`find_end`] has found. A byte that is no UTF-8 becomes U+FFFD: no header of ours has one,
/// and those of others are ignored.
pub(crate) fn text_of(head: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(head) {
        Ok(text) => text.into(),
        Err(_) => String::from_utf8_lossy(head),
    }
}

fn head_too_large() -> Problem {
    let message = format!("The head is larger than {MAX_HEAD} bytes or {MAX_HEADERS} headers");
    Problem::new(431, "head_too_large", message)
}

fn not_lines() -> Problem {
    malformed("A head is lines that end with CR LF, without control characters; the first is ASCII")
}

/// Whether it has no control characters but tabs.
pub(super) fn is_text(line: &[u8]) -> bool {
    all(line, |byte| {
        !((byte < b' ' && byte != b'\t') || byte == 0x7f)
    })
}

/// Looks at every byte in any case, which lets the compiler look at many at once.
fn all(bytes: &[u8], is_fine: impl Fn(u8) -> bool) -> bool {
    let bytes = bytes.iter();
    bytes.fold(true, |fine, &byte| fine & is_fine(byte))
}

/// Reads the [text](text_of) of a head.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn parse(text: &str, max_body: usize) -> Result<Head<'_>, Problem> {
    let (first, mut rest) = cut(text, b'\n').unwrap_or_default();
    let (method, target, version) = request_line(without_cr(first))?;
    let mut headers = Vec::with_capacity(16);
    let mut framing = FramingHeaders::default();
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
        framing.add(name, value)?;
        headers.push((name, value));
    }
    match framing.host {
        None if version == Version::Http11 => {
            return Err(malformed("The header Host is missing"));
        }
        Some(host) if !host.bytes().all(|byte| HOST[usize::from(byte)]) => {
            return Err(malformed("The header Host is not NAME or NAME:PORT"));
        }
        _ => {}
    }
    Ok(Head {
        method,
        target,
        headers: Headers(headers),
        version,
        body: framing.body(version, max_body)?,
        expects_continue: version == Version::Http11 && framing.expect.is_some(),
        keep_alive: !framing.close && (version == Version::Http11 || framing.keep_alive),
    })
}

fn without_cr(line: &str) -> &str {
    line.strip_suffix('\r').unwrap_or(line)
}

fn request_line(line: &str) -> Result<(&str, &str, Version), Problem> {
    let wrong = || malformed("A request begins with METHOD TARGET HTTP/1.1");
    let (method, rest) = token(line, b' ').ok_or_else(wrong)?;
    let (target, version) = cut(rest, b' ').ok_or_else(wrong)?;
    if target.is_empty() {
        return Err(wrong());
    }
    match version {
        "HTTP/1.1" => Ok((method, target, Version::Http11)),
        "HTTP/1.0" => Ok((method, target, Version::Http10)),
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
    let (name, value) = token(line, b':').ok_or_else(|| malformed("A header is NAME: VALUE"))?;
    Ok((name, value.trim_ascii()))
}

/// The token that `text` begins with, which `end` ends, and what follows.
fn token(text: &str, end: u8) -> Option<(&str, &str)> {
    let mut bytes = text.bytes();
    let length = bytes.position(|byte| !TOKEN[usize::from(byte)])?;
    let is_token = length > 0 && text.as_bytes()[length] == end;
    is_token.then(|| (&text[..length], &text[length + 1..]))
}

/// What a token is made of (RFC 9110, 5.6.2).
static TOKEN: [bool; 256] = letters_digits_and(b"!#$%&'*+-.^_`|~");

/// A name, an address, a port; no list of them, nor a user's name.
static HOST: [bool; 256] = letters_digits_and(b"-._~%!$&'()*+;=:[]");

const fn letters_digits_and(others: &[u8]) -> [bool; 256] {
    let mut class = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        class[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        class[others[at] as usize] = true;
        at += 1;
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the head is, and what it says, once it is whole.
    fn look(text: &str) -> Result<Option<(usize, Head<'_>)>, u16> {
        let look = || match find_end(text.as_bytes())? {
            Some(end) => Ok(Some((end, parse(&text[..end], 1_000)?))),
            None => Ok(None),
        };
        look().map_err(|problem: Problem| problem.status)
    }

    /// Whether it is whole or not yet, or the status that refuses it.
    fn judge(text: &str) -> Result<bool, u16> {
        look(text).map(|head| head.is_some())
    }

    fn body_of(headers: &str) -> Result<BodyLength, u16> {
        let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        let (_, head) = look(&text)?.expect("a whole head");
        head.body.map_err(|problem| problem.status)
    }

    #[test]
    fn a_head_is_whole_at_its_empty_line_and_fine_until_then() {
        let text = "GET /a?b HTTP/1.1\r\nHost: h\r\nX-Y:\t z \r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(judge(&text[..end]), Ok(false), "{:?}", &text[..end]);
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
        assert_eq!((head.method, head.target), ("GET", "/a?b"));
        assert_eq!(head.version, Version::Http11);
        let want = Headers(vec![("Host", "h"), ("X", "y"), ("X", "z:")]);
        assert_eq!(head.headers, want);
        assert!(head.keep_alive && !head.expects_continue);
    }

    #[test]
    fn a_value_may_hold_tabs_and_any_byte_above_ascii() {
        let head = b"GET / HTTP/1.1\r\nHost: h\r\nCookie: a=gr\xc3\xbcn\r\nX: caf\xe9\tb\r\n\r\n";
        assert!(matches!(find_end(head), Ok(Some(end)) if end == head.len()));
        let text = text_of(head);
        let head = parse(&text, 0).expect("fine");
        assert_eq!(head.headers.get("Cookie"), Some("a=grün"));
        assert_eq!(head.headers.get("X"), Some("caf\u{fffd}\tb"));
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
            ("Transfer-Encoding: gzip\r\n", Err(501)),
            ("Transfer-Encoding: chunked, gzip\r\n", Err(400)),
            ("Transfer-Encoding: chunked, chunked\r\n", Err(400)),
            ("Transfer-Encoding:\r\n", Err(400)),
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
            let (_, head) = look(&text)?.expect("whole");
            let body = head.body.map_err(|problem| problem.status)?;
            Ok((body, head.expects_continue, head.keep_alive))
        };
        assert_eq!(old("Transfer-Encoding: chunked"), Err(400));
        let ignored = Ok((BodyLength::None, false, false));
        assert_eq!(old("Expect: 100-continue"), ignored);
        assert_eq!(old("Expect: magic"), ignored);
        let kept = Ok((BodyLength::None, false, true));
        assert_eq!(old("Connection: x, Keep-Alive"), kept);
    }

    #[test]
    fn what_readers_could_understand_differently_is_refused() {
        for (head, want) in [
            ("GET / HTTP/1.1\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\n\n", 400),
            ("GET / HTTP/1.1\rHost: h", 400),
            ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
            ("GET /\r\nHost: h\r\n\r\n", 400),
            ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", 400),
            ("GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET /a\tb HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nX: \u{7f}\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: hü\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nü: x\r\n\r\n", 400),
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
            assert_eq!(judge(head), Err(want), "{head:?}");
        }
    }

    #[test]
    fn the_words_of_connection_are_compared_whole() {
        let is_last = |headers: &str| {
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n");
            let (_, head) = look(&text).expect("fine").expect("whole");
            !head.keep_alive
        };
        assert!(is_last("Connection: Close"));
        assert!(is_last("Connection: keep-alive\r\nconnection:\tx , close"));
        assert!(!is_last("Connection: keep-alive"));
        assert!(!is_last("Connection: closed, x-close"));
        assert!(!is_last("X: close"));
    }

    /// What another parser makes of a head: method, target, and the headers.
    type Parts = (String, String, Vec<(String, Vec<u8>)>);

    fn parts_by_httparse(bytes: &[u8]) -> Option<Parts> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let length = request.parse(bytes).ok()?;
        let fields = request.headers.iter();
        let fields = fields.map(|h| (h.name.to_owned(), h.value.trim_ascii().to_vec()));
        let parts = (
            request.method?.to_owned(),
            request.path?.to_owned(),
            fields.collect(),
        );
        (length == httparse::Status::Complete(bytes.len())).then_some(parts)
    }

    fn parts_of(bytes: &[u8]) -> Option<Parts> {
        let end = find_end(bytes).ok()??;
        let text = text_of(&bytes[..end]);
        let head = parse(&text, usize::MAX).ok()?;
        let fields = head.headers.0.iter();
        let fields = fields.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        let parts = (
            head.method.to_owned(),
            head.target.to_owned(),
            fields.collect(),
        );
        (end == bytes.len()).then_some(parts)
    }

    proptest::proptest! {
        /// Heads with some bytes changed: what is accepted here, another parser accepts too, and reads the same.
        #[test]
        fn another_parser_reads_the_same(
            changes in proptest::collection::vec((0_usize..200, proptest::num::u8::ANY), 0..4),
            value in "[\\x20-\\x7eü\t]{0,20}",
        ) {
            let head = format!("GET /a?b=c HTTP/1.1\r\nHost: h:80\r\nX-Y: {value}\r\nA:b\r\nContent-Length: 3\r\n\r\n");
            let mut bytes = head.into_bytes();
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            if let Some(parts) = parts_of(&bytes)
                && std::str::from_utf8(&bytes).is_ok()
            {
                proptest::prop_assert_eq!(Some(parts), parts_by_httparse(&bytes));
            }
        }
    }

    #[test]
    fn size_and_number_have_a_limit() {
        let with = |filler: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{filler}\r\n");
        let empty = with("").len();
        let long = |bytes: usize| with(&format!("X: {}\r\n", "y".repeat(bytes - empty - 5)));
        assert!(matches!(look(&long(MAX_HEAD)), Ok(Some(_))));
        assert_eq!(judge(&long(MAX_HEAD + 1)), Err(431));
        assert_eq!(judge(&"y".repeat(MAX_HEAD)), Err(431));
        assert!(matches!(look(&with(&"A: b\r\n".repeat(99))), Ok(Some(_))));
        assert_eq!(judge(&with(&"A: b\r\n".repeat(100))), Err(431));
    }
}
