//! The headers that say where a request goes, where it ends, and what follows it on the connection.

use crate::http::Problem;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    Http11,
}

/// How a request's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    None,
    Bytes(usize),
    Chunked,
}

/// The headers that say where the request goes, where it ends and what follows it.
#[derive(Default)]
pub(super) struct FramingHeaders<'a> {
    pub(super) host: Option<&'a str>,
    pub(super) content_length: Option<&'a str>,
    pub(super) transfer_encoding: Option<&'a str>,
    pub(super) expect: Option<&'a str>,
    /// The words of `Connection`.
    pub(super) close: bool,
    pub(super) keep_alive: bool,
}

impl<'a> FramingHeaders<'a> {
    pub(super) fn add(&mut self, name: &str, value: &'a str) -> Result<(), Problem> {
        let place = match name.len() {
            4 if name.eq_ignore_ascii_case("Host") => &mut self.host,
            6 if name.eq_ignore_ascii_case("Expect") => &mut self.expect,
            // A list, in one header or several.
            10 if name.eq_ignore_ascii_case("Connection") => {
                for word in value.split(',').map(str::trim_ascii) {
                    self.close |= word.eq_ignore_ascii_case("close");
                    self.keep_alive |= word.eq_ignore_ascii_case("keep-alive");
                }
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

    /// The length of the body, or why the body is refused.
    ///
    /// # Errors
    ///
    /// Nobody can tell where the request ends.
    pub(super) fn body(
        &self,
        version: Version,
        max: usize,
    ) -> Result<Result<BodyLength, Problem>, Problem> {
        let length = match (self.content_length, self.transfer_encoding) {
            (None, None) => Ok(BodyLength::None),
            (Some(length), None) => content_length(length, max)?,
            (Some(_), Some(_)) => {
                let message = "Content-Length and Transfer-Encoding exclude each other";
                return Err(malformed(message));
            }
            (None, Some(_)) if version == Version::Http10 => {
                return Err(malformed("HTTP/1.0 has no Transfer-Encoding"));
            }
            (None, Some(codings)) => transfer_encoding(codings)?,
        };
        // An HTTP/1.0 client cannot expect anything, so its header is ignored (RFC 9110, 10.1.1).
        let is_unknown = |expect: &str| !expect.eq_ignore_ascii_case("100-continue");
        if version == Version::Http11 && self.expect.is_some_and(is_unknown) {
            let message = "Only Expect: 100-continue is understood";
            return Ok(Err(Problem::new(417, "expectation_failed", message)));
        }
        Ok(length)
    }
}

/// `chunked` is the only transfer coding that is understood, and has to be the last one (RFC 9112, 6.3).
fn transfer_encoding(codings: &str) -> Result<Result<BodyLength, Problem>, Problem> {
    let codings: Vec<_> = codings.split(',').map(str::trim_ascii).collect();
    let is_chunked = |coding: &&str| coding.eq_ignore_ascii_case("chunked");
    match codings.iter().position(is_chunked) {
        Some(0) if codings.len() == 1 => Ok(Ok(BodyLength::Chunked)),
        Some(place) if place + 1 < codings.len() => {
            Err(malformed("chunked has to be the last Transfer-Encoding"))
        }
        _ if codings.contains(&"") => Err(malformed("Transfer-Encoding has an empty word")),
        _ => {
            let message = "Only Transfer-Encoding: chunked is understood";
            let problem = Problem::new(501, "transfer_encoding_not_supported", message);
            Ok(Err(problem))
        }
    }
}

fn content_length(text: &str, max: usize) -> Result<Result<BodyLength, Problem>, Problem> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed("Content-Length is not a number"));
    }
    // More digits than fit into a number are too large as well.
    Ok(match text.parse() {
        Ok(0) => Ok(BodyLength::None),
        Ok(length) if length <= max => Ok(BodyLength::Bytes(length)),
        _ => Err(body_too_large(max)),
    })
}

pub(super) fn malformed(message: &str) -> Problem {
    Problem::new(400, "malformed_request", message)
}

pub(super) fn body_too_large(max: usize) -> Problem {
    let message = format!("The body is larger than {max} bytes (MAX_BODY_BYTES)");
    Problem::new(413, "body_too_large", message)
}
