//! HTTP/1.1 as far as this client needs it: a connection for each call, and an end for every wait.

use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long a server may say nothing. It answers a long poll after 30 s, and breaks a stream's silence every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// The longest line of a head, and the most lines that it may have.
const MAX_LINE: u64 = 16 * 1024;
const MAX_LINES: usize = 100;

/// Where a server is.
pub(super) struct Address {
    host: String,
    port: u16,
    prefix: String,
}

impl Address {
    /// `http://host:3000`, also with a path or without `http://`.
    pub(super) fn parse(url: &str) -> Result<Address, String> {
        let rest = url.strip_prefix("http://").unwrap_or(url);
        if rest.contains("://") {
            return Err(format!(
                "{url} must begin with http://, which is all that this client speaks"
            ));
        }
        let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (authority, Some(80)),
        };
        let is_fit = |c: char| c.is_ascii_graphic() && !"?#@\\".contains(c);
        match port {
            Some(port) if !host.is_empty() && rest.chars().all(is_fit) => Ok(Address {
                host: host.to_owned(),
                port,
                prefix: prefix.trim_end_matches('/').to_owned(),
            }),
            _ => Err(format!("{url} must be an address as http://host:3000")),
        }
    }

    fn connect(&self, deadline: Option<Instant>) -> io::Result<TcpStream> {
        let name = self.host.trim_start_matches('[').trim_end_matches(']');
        let mut last = Error::new(ErrorKind::NotFound, "the host has no address");
        for address in (name, self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, left(deadline, CONNECT_WITHIN)?) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// What is left until a deadline, but no more than `most`.
fn left(deadline: Option<Instant>, most: Duration) -> io::Result<Duration> {
    let left = deadline.map_or(most, |deadline| {
        deadline.saturating_duration_since(Instant::now())
    });
    match left.is_zero() {
        true => Err(ErrorKind::TimedOut.into()),
        false => Ok(left.min(most)),
    }
}

/// A call.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// Names and values, which hold no line ends.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: Option<&'a [u8]>,
    /// When all of it must be over.
    pub(super) deadline: Option<Instant>,
}

/// An answer, whose body is still to be read.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    reader: BufReader<Timed>,
    body: Framing,
}

/// How a body ends.
enum Framing {
    Length(u64),
    /// The bytes that are left of this chunk; the first has none before it.
    Chunked {
        left: u64,
        is_first: bool,
    },
    Closing,
}

/// Sends a call and reads the head of its answer.
pub(super) fn send(address: &Address, request: &Request<'_>) -> io::Result<Response> {
    let mut socket = address.connect(request.deadline)?;
    socket.set_write_timeout(Some(left(request.deadline, SILENCE)?))?;
    socket.write_all(&request.bytes(address))?;
    let deadline = request.deadline;
    let mut reader = BufReader::new(Timed { socket, deadline });
    loop {
        let response = read_head(&mut reader)?;
        // 100 Continue and its like go ahead of the answer.
        if let Some((status, retry_after, body)) = response {
            return Ok(Response {
                status,
                retry_after,
                reader,
                body,
            });
        }
    }
}

impl Request<'_> {
    fn bytes(&self, address: &Address) -> Vec<u8> {
        let (host, port, prefix) = (&address.host, address.port, &address.prefix);
        let mut head = format!(
            "{} {prefix}{} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n",
            self.method, self.path
        );
        for (name, value) in self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = self.body {
            head += &format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            );
        }
        let mut bytes = (head + "\r\n").into_bytes();
        bytes.extend_from_slice(self.body.unwrap_or_default());
        bytes
    }
}

type Head = (u16, Option<Duration>, Framing);

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let first = line(reader)?;
    let status = first
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5));
    let status: u16 = status
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| bad("no HTTP"))?;
    let (mut retry_after, mut framing) = (None, Framing::Closing);
    for _ in 0..MAX_LINES {
        let line = line(reader)?;
        if line.is_empty() {
            return Ok(match status {
                100..200 => None,
                204 | 304 => Some((status, retry_after, Framing::Length(0))),
                _ => Some((status, retry_after, framing)),
            });
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| bad("a header without a colon"))?;
        let value = value.trim();
        match &*name.to_ascii_lowercase() {
            "transfer-encoding" => {
                framing = Framing::Chunked {
                    left: 0,
                    is_first: true,
                }
            }
            "content-length" if !matches!(framing, Framing::Chunked { .. }) => {
                framing = Framing::Length(
                    value
                        .parse()
                        .map_err(|_| bad("a length that is no number"))?,
                );
            }
            "retry-after" => retry_after = value.parse().ok().map(Duration::from_secs),
            _ => {}
        }
    }
    Err(bad("too many headers"))
}

/// A line without its end.
fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(MAX_LINE).read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_end_matches('\r').to_owned())
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the answer has {what}"))
}

impl Response {
    fn begin_chunk(&mut self) -> io::Result<()> {
        let Framing::Chunked { left: 0, is_first } = self.body else {
            return Ok(());
        };
        if !is_first {
            line(&mut self.reader)?;
        }
        let size = line(&mut self.reader)?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        let left = u64::from_str_radix(digits, 16).map_err(|_| bad("a chunk without a size"))?;
        self.body = match left {
            0 => Framing::Length(0),
            left => Framing::Chunked {
                left,
                is_first: false,
            },
        };
        Ok(())
    }
}

impl Read for Response {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        self.begin_chunk()?;
        let left = match &mut self.body {
            Framing::Length(left) | Framing::Chunked { left, .. } => left,
            Framing::Closing => return self.reader.read(part),
        };
        let most = part.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let length = self.reader.read(&mut part[..most])?;
        *left -= length as u64;
        match length {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => Ok(length),
        }
    }
}

/// A socket whose reads end.
struct Timed {
    socket: TcpStream,
    deadline: Option<Instant>,
}

impl Read for Timed {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        self.socket
            .set_read_timeout(Some(left(self.deadline, SILENCE)?))?;
        self.socket.read(part).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => Error::new(ErrorKind::TimedOut, "it says nothing"),
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_understood() {
        for (url, host, port, prefix) in [
            ("http://127.0.0.1:3000", "127.0.0.1", 3000, ""),
            ("tasks:81/", "tasks", 81, ""),
            ("http://tasks/at/home/", "tasks", 80, "/at/home"),
            ("http://[::1]:3000", "[::1]", 3000, ""),
            ("[::1]", "[::1]", 80, ""),
        ] {
            let address = Address::parse(url).expect(url);
            assert_eq!(
                (&*address.host, address.port, &*address.prefix),
                (host, port, prefix)
            );
        }
        for url in [
            "",
            "http://",
            "https://x",
            "x:y",
            "x:99999",
            "a b",
            "x\r\ny",
            "u:p@x:1",
            "x?y",
            ":3000",
        ] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }

    /// What the client reads of these bytes, and whether it noticed an end that came too early.
    fn read(bytes: &str) -> (u16, String, bool) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut socket, _) = listener.accept().expect("a client");
                let mut head = [0; 1_000];
                let _ = socket.read(&mut head);
                let _ = socket.write_all(bytes.as_bytes());
            });
            let address = Address::parse(&address).expect("an address");
            let request = Request {
                method: "GET",
                path: "/",
                headers: &[],
                body: None,
                deadline: None,
            };
            let Ok(mut response) = send(&address, &request) else {
                return (0, String::new(), true);
            };
            let mut body = Vec::new();
            let is_broken = response.read_to_end(&mut body).is_err();
            (
                response.status,
                String::from_utf8(body).expect("text"),
                is_broken,
            )
        })
    }

    #[test]
    fn bodies_end_where_they_say() {
        for (bytes, status, body, is_broken) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef",
                200,
                "abc",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
                200,
                "abc",
                true,
            ),
            (
                "HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
                404,
                "abc0123456789",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
                200,
                "abc",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
                200,
                "",
                true,
            ),
            ("HTTP/1.0 200 OK\n\nto the end", 200, "to the end", false),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                204,
                "",
                false,
            ),
            ("SSH-2.0-OpenSSH\r\n", 0, "", true),
            ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", 0, "", true),
            ("HTTP/1.1 200", 0, "", true),
            ("", 0, "", true),
        ] {
            assert_eq!(read(bytes), (status, body.to_owned(), is_broken), "{bytes}");
        }
    }
}
