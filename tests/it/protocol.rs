use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::support::{API, Reply, TestServer, wait_until};

/// Sends `bytes` over one connection and reads every answer up to its end. `Err`: it was reset.
pub(crate) fn converse(server: &TestServer, bytes: &[u8]) -> Result<Vec<u16>, std::io::Error> {
    let mut socket = server.connect();
    // The server may have closed before it has read all of it.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    // A message may name the version too, but no status behind it.
    let statuses = text
        .match_indices("HTTP/1.1 ")
        .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok());
    Ok(statuses.collect())
}

pub(crate) fn statuses(server: &TestServer, request: &str) -> Vec<u16> {
    converse(server, request.as_bytes()).unwrap_or_default()
}

#[test]
fn ambiguous_lengths_are_refused_and_end_the_connection() {
    let server = TestServer::start(&[]);
    // Were the body taken for a request, it would be answered too.
    let smuggled = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\n\r\n";
    for (headers, want) in [
        ("Content-Length: 5\r\nContent-Length: 6", 400),
        ("Content-Length: 5\r\nContent-Length: 5", 400),
        ("Content-Length: 5, 5", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            400,
        ),
        ("Transfer-Encoding: xchunked", 501),
        ("Transfer-Encoding : chunked", 400),
        ("Transfer-Encoding:\u{b}chunked", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: 1e1", 400),
        ("Content-Length: 18446744073709551616", 413),
        ("Content-Length: 9223372036854775807", 413),
    ] {
        let request =
            format!("POST {API}/tasks HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n{smuggled}");
        let answers = statuses(&server, &request);
        assert!(
            answers == [want] || answers.is_empty(),
            "{headers}: {answers:?}"
        );
    }
}

#[test]
fn chunks_are_read_or_refused() {
    let server = TestServer::start(&[("MAX_BODY_BYTES", "200")]);
    let head = format!(
        "POST {API}/tasks HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
         X-App-Session: chunks\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    for (chunks, want) in [
        ("e\r\n{\"name\": \"one\"\r\n1\r\n}\r\n0\r\n\r\n", 201),
        ("E;ext=1\r\n{\"name\": \"two\"\r\n01\r\n}\r\n0\r\n\r\n", 201),
        ("f\r\n{\"name\": \"six\"}\r\n0\r\nChecksum: 1\r\n\r\n", 201),
        ("zz\r\n{}\r\n0\r\n\r\n", 400),
        ("-1\r\n{}\r\n0\r\n\r\n", 400),
        ("3\r\n{}\r\n0\r\n\r\n", 400),
        ("ffffffffffffffff\r\n{}\r\n0\r\n\r\n", 413),
        ("fffffffffffffffff\r\n{}\r\n0\r\n\r\n", 413),
        ("+2\r\n{}\r\n0\r\n\r\n", 400),
        ("2\n{}\n0\n\n", 400),
        ("\n2\r\n{}\r\n0\r\n\r\n", 400),
        ("2;a\nb\r\n{}\r\n0\r\n\r\n", 400),
        // Broken off: within a chunk, behind it, before it.
        ("20\r\n{\"name\": \"n\"}", 400),
        ("20\r\n", 400),
        ("2\r\n{}", 400),
        ("2\r\n{}\r\n", 400),
        ("", 400),
    ] {
        let answers = statuses(&server, &format!("{head}{chunks}"));
        assert_eq!(answers, [want], "{chunks:?}");
    }
    let big = format!("{head}c8\r\n{}\r\n1\r\n \r\n0\r\n\r\n", " ".repeat(200));
    assert_eq!(statuses(&server, &big), [413]);
    assert_eq!(server.session("chunks").total(), 3);
    let name = "e\r\n{\"name\": \"six\"\r\n1\r\n}\r\n0\r\n\r\n";
    for headers in [
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding:\tchunked\t",
    ] {
        let other = head.replace("Transfer-Encoding: chunked", headers);
        assert_eq!(
            statuses(&server, &format!("{other}{name}")),
            [201],
            "{headers}"
        );
    }
    let upgrade = head.replace("Host", "Connection: upgrade\r\nUpgrade: h2c\r\nHost");
    assert_eq!(statuses(&server, &format!("{upgrade}{name}")), [201]);
    let expect = head.replace("Host", "Expect: 100-continue\r\nHost");
    // Who sends the body at once need not be told to.
    assert_eq!(statuses(&server, &format!("{expect}{name}")), [201]);
    // What follows the last chunk is the next request.
    let behind =
        format!("{head}2\r\n{{}}\r\n0\r\n\r\nGET /api/v1/health HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(statuses(&server, &behind), [400, 200]);
}

#[test]
fn a_close_in_any_connection_header_is_heard() {
    let server = TestServer::start(&[]);
    let get = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\n";
    let close = "Connection: keep-alive\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&server, &format!("{get}{close}{get}\r\n")), [200]);
}

#[test]
fn a_target_that_names_its_host_outweighs_the_header() {
    let server = TestServer::start(&[("ALLOWED_HOSTS", "mine.example")]);
    for (target, host, want) in [
        ("/", "mine.example", 200),
        ("http://mine.example/", "evil.example", 200),
        ("http://evil.example/", "mine.example", 421),
        ("http://evil.example", "mine.example", 421),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(statuses(&server, &request), [want], "{target} {host}");
    }
}

#[test]
fn odd_bytes_in_a_head_are_refused() {
    let server = TestServer::start(&[]);
    for head in [
        &b"GET /api/v1/health HTTP/1.1\nHost: h\n\n"[..],
        b"GET /api/v1/health HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
        b"GET /api/v1/health HTTP/1.1\r\nHost: h\rX: y\r\n\r\n",
        b"GET /api/v1/health HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n",
        b"GET /api/v1/health\0 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /api/v1/\xc3\xbc HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /api/v1/health HTTP/1.1\r\nHost: h\r\nX-App-Session: \xff\r\n\r\n",
        b"GET /api/v1/health HTTP/1.1\r\nHost: h\r\nX-App-Session: a\x7fb\r\n\r\n",
        b"GET /api/v1/health HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
        b"GET /api/v1/health HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n",
        b"GET /api/v1/health\r\nHost: h\r\n\r\n",
        b"GET /api/v1/health  HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /api/v1/health HTTP/1.1\r\n\r\n",
        b"GET /api/v1/health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /api/v1/health HTTP/1.1\r\nHost: a, b\r\n\r\n",
        b"GET /api/v1/health HTTP/1.1\r\nHost: me@h\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let answers = converse(&server, head).unwrap_or_default();
        assert_eq!(answers, [400], "{:?}", String::from_utf8_lossy(head));
    }
    assert_eq!(statuses(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), [505]);
}

#[test]
fn a_later_request_of_an_unknown_version_is_refused_like_a_first_one() {
    let server = TestServer::start(&[("MAX_CONNECTIONS", "3")]);
    for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/1.2", "HTTP/9.9"] {
        let first = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\n\r\n";
        let second = format!("GET /api/v1/health {version}\r\nHost: h\r\n\r\n");
        for _ in 0..3 {
            assert_eq!(statuses(&server, &format!("{first}{second}")), [200, 505]);
        }
    }
    // None of them keeps its place.
    wait_until(|| server.get("/health").status == 200);
}

#[test]
fn heads_have_a_size_and_a_number_of_headers() {
    let server = TestServer::start(&[]);
    let with = |headers: &str| {
        format!("GET /api/v1/health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n")
    };
    assert_eq!(statuses(&server, &with(&"A: b\r\n".repeat(98))), [200]);
    assert_eq!(statuses(&server, &with(&"A: b\r\n".repeat(99))), [431]);
    let room = 16 * 1024 - with("").len() - "X: \r\n".len();
    assert_eq!(
        statuses(&server, &with(&format!("X: {}\r\n", "y".repeat(room)))),
        [200]
    );
    assert_eq!(
        statuses(&server, &with(&format!("X: {}\r\n", "y".repeat(room + 1)))),
        [431]
    );
    assert_eq!(
        statuses(&server, &format!("GET /{}", "y".repeat(100_000))),
        [431]
    );
}

#[test]
fn targets_in_every_form_lead_where_they_say_and_nowhere_else() {
    let server = TestServer::start(&[]);
    for (target, want) in [
        ("http://h/api/v1/health", 200),
        ("https://h:99/api/v1/health", 200),
        ("http://h", 200),
        ("/api/v1/health/", 200),
        ("/api/v1/health?session=%6de", 200),
        ("/api/v1/health?x=%00%ff&&=", 400),
        ("/api/v1/health#fragment", 200),
        ("/api/v1/%68ealth", 404),
        ("/api/v1/../v1/health", 404),
        ("/api/v1/tasks/../../../../etc/passwd", 404),
        ("/api/v1/tasks/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("//api/v1/health", 404),
        ("/api/v1//health", 404),
        ("/%", 404),
        ("/%00", 404),
        ("api/v1/health", 404),
        ("*", 404),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        assert_eq!(statuses(&server, &request), [want], "{target}");
    }
    let connect = "CONNECT evil.example:443 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&server, connect), [404]);
}

#[test]
fn a_headers_name_may_have_every_sign_also_where_the_parser_knows_fewer() {
    let server = TestServer::start(&[]);
    let poll = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\n\r\n";
    let close = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    for sign in "!#$%&'*+-.^_`|~".chars() {
        let post = format!(
            "POST {API}/tasks HTTP/1.1\r\nHost: h\r\nX-{sign}: 1\r\nContent-Type: application/json\r\n\
             X-App-Session: signs\r\nContent-Length: 12\r\n\r\n{{\"name\":\"n\"}}"
        );
        let (first, second) = (format!("{post}{close}"), format!("{poll}{post}{close}"));
        assert_eq!(statuses(&server, &first), [201, 200], "{sign}");
        assert_eq!(statuses(&server, &second), [200, 201, 200], "{sign}");
    }
}

#[test]
fn a_body_that_breaks_off_creates_nothing() {
    let server = TestServer::start(&[]);
    let poll = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\n\r\n";
    // A whole task, in a body that was said to be longer.
    let post = format!(
        "POST {API}/tasks HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
         X-App-Session: short\r\nContent-Length: 13\r\n\r\n{{\"name\":\"n\"}}"
    );
    assert_eq!(statuses(&server, &post), [400]);
    assert_eq!(statuses(&server, &format!("{poll}{post}")), [200, 400]);
    assert_eq!(server.session("short").total(), 0);
}

#[test]
fn an_old_client_is_served_once_or_as_long_as_it_asks() {
    let server = TestServer::start(&[]);
    let old = "GET /api/v1/health HTTP/1.0\r\n\r\n";
    assert_eq!(statuses(&server, &format!("{old}{old}")), [200]);
    let kept = "GET /api/v1/health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(statuses(&server, &format!("{kept}{old}")), [200, 200]);
}

#[test]
fn an_upgrade_is_not_taken_up() {
    let server = TestServer::start(&[]);
    let upgrade = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let frame = "\u{1}\u{1}x";
    assert_eq!(statuses(&server, &format!("{upgrade}{frame}")), [200, 400]);
    let h2c = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n\
               Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
    assert_eq!(statuses(&server, &format!("{h2c}{h2c}")), [200, 200]);
}

#[test]
fn who_expects_is_told_to_continue_or_not_to() {
    let server = TestServer::start(&[("MAX_BODY_BYTES", "100")]);
    let ask = |length: usize, polls: bool| {
        let socket = server.connect();
        if polls {
            let poll = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\n\r\n";
            (&socket).write_all(poll.as_bytes()).expect("sent");
            Reply::read(&mut BufReader::with_capacity(1, &socket), "GET").expect(200);
        }
        let head = format!(
            "POST {API}/tasks HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
             Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        );
        (&socket).write_all(head.as_bytes()).expect("sent");
        socket
    };
    for polls in [false, true] {
        let mut socket = ask(12, polls);
        let mut start = [0; 25];
        socket.read_exact(&mut start).expect("an interim answer");
        assert_eq!(&start, b"HTTP/1.1 100 Continue\r\n\r\n");
        socket.write_all(b"{\"name\":\"n\"}").expect("sent");
        let mut rest = String::new();
        socket.shutdown(Shutdown::Write).expect("half closed");
        socket.read_to_string(&mut rest).expect("an answer");
        assert!(rest.contains("HTTP/1.1 201 Created"), "{rest}");
    }
    let refused: TcpStream = ask(101, false);
    Reply::read(&mut BufReader::new(refused), "POST").expect(413);
    assert_eq!(
        statuses(
            &server,
            "GET / HTTP/1.1\r\nHost: h\r\nExpect: the-inquisition\r\n\r\n"
        ),
        [417]
    );
}
