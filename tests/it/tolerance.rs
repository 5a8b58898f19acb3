use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use async_task_system::{Config, ExecutorRegistry, Server};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::protocol::converse;
use crate::support::{API, Reply, TestServer, wait_until};

const HEALTH: &str = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\n\r\n";

/// A request that creates a task of session `s`.
fn create(headers: &str) -> String {
    format!(
        "POST {API}/tasks HTTP/1.1\r\nHost: h\r\nX-App-Session: s\r\n\
         Content-Type: application/json\r\n{headers}\r\n"
    )
}

#[test]
fn what_real_clients_send_is_answered() {
    let server = TestServer::start(&[]);
    let post = create("Content-Length: 12\r\n") + "{\"name\":\"x\"}";
    let chunked = create("Transfer-Encoding: chunked\r\n") + "c\r\n{\"name\":\"x\"}\r\n0\r\n\r\n";
    let get = |header: &[u8]| {
        let start = b"GET /api/v1/health HTTP/1.1\r\nHost: h\r\n";
        [start, header, b"\r\n\r\n"].concat()
    };
    for (bytes, want) in [
        // Cookies and names of other applications, in UTF-8 and Latin-1.
        (get("Cookie: city=Zürich".as_bytes()), vec![200]),
        (get(b"User-Agent: caf\xe9"), vec![200]),
        (get(b"User-Agent: a\tb"), vec![200]),
        // Empty lines before a request and behind a body.
        (format!("\r\n\r\n{HEALTH}").into(), vec![200]),
        (format!("{post}\r\n{HEALTH}").into(), vec![201, 200]),
        // What follows a body is the next request.
        (format!("{post}{HEALTH}{post}").into(), vec![201, 200, 201]),
        (format!("{chunked}{HEALTH}").into(), vec![201, 200]),
        (
            get(b"Connection: x-closed, upgrade\r\nUpgrade: h2c"),
            vec![200],
        ),
        (HEALTH.replace("/api", "HTTP://h/api").into(), vec![200]),
        // Nobody waits for a 100 in HTTP/1.0.
        (
            post.replace("HTTP/1.1", "HTTP/1.0")
                .replace("Host", "Expect: 100-continue\r\nHost")
                .into(),
            vec![201],
        ),
    ] {
        let answers = converse(&server, &bytes).unwrap_or_default();
        assert_eq!(answers, want, "{:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_kept_connection_says_for_how_long() {
    let server = TestServer::start(&[("KEEP_ALIVE_TIMEOUT", "7000")]);
    let mut socket = server.connect();
    socket.write_all(HEALTH.as_bytes()).expect("sent");
    let reply = Reply::read(&mut BufReader::new(&socket), "GET").expect(200);
    assert_eq!(reply.header("Keep-Alive"), Some("timeout=7"));
    let reply = server.call("GET", "/health").header("Connection", "close");
    assert_eq!(reply.send().expect(200).header("Keep-Alive"), None);
}

#[test]
fn who_waits_for_a_100_is_refused_without_one() {
    let server = TestServer::start(&[("ALLOWED_HOSTS", "h"), ("MAX_BODY_BYTES", "100")]);
    let expect = "Expect: 100-continue\r\nContent-Length: 12\r\n";
    let large = "Expect: 100-continue\r\nContent-Length: 101\r\n";
    let gzip = format!("Content-Encoding: gzip\r\n{expect}");
    for (request, want) in [
        (create(expect).replace("/tasks", "/nowhere"), 404),
        (create(expect).replace("POST", "PATCH"), 405),
        (create(expect).replace("Host: h", "Host: other"), 421),
        (create(&format!("Origin: http://evil\r\n{expect}")), 403),
        (create(expect).replace(": s\r\n", ": s p\r\n"), 400),
        (create(large), 413),
        (create(expect).replace("100-c", "200-c"), 417),
    ] {
        let answers = converse(&server, request.as_bytes()).expect("answers");
        assert_eq!(answers, [want], "{request}");
    }
    // The type is judged with the body, which is asked for.
    let answers = converse(&server, create(&gzip).as_bytes()).expect("answers");
    assert_eq!(answers, [100, 400]);
}

#[test]
fn a_compressed_body_is_refused_with_what_is_taken() {
    let server = TestServer::start(&[]);
    let call = server
        .call("POST", "/tasks")
        .header("Content-Encoding", "gzip");
    let call = call
        .header("Content-Type", "application/json")
        .body("\u{1f}");
    let reply = call.send().expect_problem(415, "unsupported_media_type");
    assert_eq!(reply.header("Accept-Encoding"), Some("identity"));
}

#[test]
fn a_refusal_is_a_response_like_any_other() {
    let origin = "http://a.example";
    let server = TestServer::start(&[
        ("CORS_ALLOWED_ORIGINS", origin),
        ("REQUEST_TIMEOUT", "1000"),
    ]);
    for (headers, status) in [
        ("Content-Length: 20000000\r\n", 413),
        ("Expect: magic\r\nContent-Length: 1\r\n", 417),
        ("Content-Length: 9\r\n", 408),
        ("Transfer-Encoding: gzip\r\n", 501),
    ] {
        let mut socket = server.connect();
        let request = create(&format!("Origin: {origin}\r\n{headers}"));
        socket.write_all(request.as_bytes()).expect("sent");
        let reply = Reply::read(&mut BufReader::new(&socket), "POST").expect(status);
        assert_eq!(reply.header("X-App-Session"), Some("s"), "{status}");
        let allowed = reply.header("Access-Control-Allow-Origin");
        assert_eq!(allowed, Some(origin), "{status}");
        assert_eq!(reply.header("Connection"), Some("close"), "{status}");
    }
}

/// Sends a head and a large body, and only then reads, as many clients do.
fn send_all_then_read(server: &TestServer, length: usize) -> Reply {
    let mut socket = server.connect();
    let head = create(&format!("Content-Length: {length}\r\n"));
    socket.write_all(head.as_bytes()).expect("sent");
    for part in vec![b' '; length].chunks(64 * 1024) {
        socket.write_all(part).expect("somebody reads it");
    }
    Reply::read(&mut BufReader::new(&socket), "POST")
}

#[test]
fn who_sends_everything_first_sees_the_refusal() {
    let server = TestServer::start(&[]);
    for _ in 0..20 {
        send_all_then_read(&server, 8_000_000).expect_problem(413, "body_too_large");
    }
    send_all_then_read(&server, 20_000_000).expect_problem(413, "body_too_large");
}

#[test]
fn at_capacity_who_sends_a_body_sees_the_refusal() {
    let server = TestServer::start(&[("MAX_CONNECTIONS", "2")]);
    let held = [server.connect(), server.connect()];
    for socket in &held {
        let mut socket = socket;
        socket.write_all(HEALTH.as_bytes()).expect("sent");
        Reply::read(&mut BufReader::new(socket), "GET").expect(200);
    }
    for _ in 0..20 {
        send_all_then_read(&server, 1_000_000).expect_problem(503, "too_many_connections");
    }
}

#[test]
fn a_slow_reader_gets_all_of_a_large_answer() {
    let server = TestServer::start(&[("REQUEST_TIMEOUT", "1000")]);
    let client = server.session("s");
    for _ in 0..100 {
        client.create(json!({ "name": "n", "metadata": { "x": "x".repeat(40_000) } }));
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .set_recv_buffer_size(32 * 1024)
        .expect("a small buffer");
    socket.connect(&client.addr().into()).expect("a connection");
    let mut socket = TcpStream::from(socket);
    let list = format!(
        "GET {API}/tasks?limit=100 HTTP/1.1\r\nHost: h\r\nX-App-Session: s\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(list.as_bytes()).expect("sent");
    let (begun, mut length) = (Instant::now(), 0);
    let mut part = vec![0; 256 * 1024];
    loop {
        let read = socket.read(&mut part).expect("the answer goes on");
        length += read;
        if read == 0 {
            break;
        }
        // Slower than the time for one part would allow for all of them.
        let due = Duration::from_millis(length as u64 / 2_000);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    assert!(length > 4_000_000, "{length}");
    assert!(begun.elapsed() > Duration::from_secs(1));
}

#[test]
fn a_streams_client_that_sends_no_more_goes_on_reading() {
    let server = TestServer::start(&[]);
    let client = server.session("s");
    let mut socket = server.connect();
    let stream = format!("GET {API}/tasks/events HTTP/1.1\r\nHost: h\r\nX-App-Session: s\r\n\r\n");
    socket.write_all(stream.as_bytes()).expect("sent");
    socket.shutdown(Shutdown::Write).expect("half closed");
    let mut seen = String::new();
    let mut see = |what: &str| {
        wait_until(|| {
            let mut part = [0; 4_096];
            let length = socket.read(&mut part).expect("the stream goes on");
            assert_ne!(length, 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&part[..length]));
            seen.contains(what)
        });
    };
    // The question whether anybody is there comes and goes.
    see(": still here");
    let id = client.create(json!({ "name": "later" }));
    see(&id);
}

/// A connection from this port of ours to an address.
fn from_port(port: u16, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.set_reuse_address(true).ok()?;
    let from = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.bind(&from.into()).ok()?;
    socket.connect(&to.into()).ok()?;
    Some(socket.into())
}

#[test]
fn one_port_of_a_client_may_meet_several_of_our_addresses() {
    let server = TestServer::start(&[("HOST", "0.0.0.0")]);
    let port = server.addr().port();
    let addresses = [1, 2, 3].map(|last| SocketAddr::from(([127, 0, 0, last], port)));
    let first = from_port(0, addresses[0]).expect("a connection");
    let own = first.local_addr().expect("an address").port();
    let others = addresses[1..].iter().filter_map(|to| from_port(own, *to));
    let all: Vec<_> = [first].into_iter().chain(others).collect();
    assert!(all.len() > 1, "this machine has but one loopback address");
    for mut socket in all {
        socket.write_all(HEALTH.as_bytes()).expect("sent");
        Reply::read(&mut BufReader::new(&socket), "GET").expect(200);
    }
}

#[test]
fn two_servers_of_one_program_on_one_port_keep_their_clients_apart() {
    let start = |host, port: &str, session| {
        let pairs = [
            ("HOST", host),
            ("PORT", port),
            ("AUTO_MAP_SESSION_BY_IP", "false"),
            ("DEFAULT_SESSION", session),
        ];
        let config = Config::from_pairs(pairs).expect("a valid configuration");
        Server::start(config, ExecutorRegistry::new()).ok()
    };
    let first = start("127.0.0.1", "0", "first").expect("it starts");
    let port = first.local_addr().port().to_string();
    let Some(second) = start("::1", &port, "second") else {
        return eprintln!("skipped: this machine has no IPv6");
    };
    for round in 0..200 {
        let (server, session) = match round % 2 {
            0 => (&first, "first"),
            _ => (&second, "second"),
        };
        let mut socket = TcpStream::connect(server.local_addr()).expect("a connection");
        socket.write_all(HEALTH.as_bytes()).expect("sent");
        let reply = Reply::read(&mut BufReader::new(&socket), "GET").expect(200);
        assert_eq!(reply.header("X-App-Session"), Some(session));
    }
    drop(second);
    drop(first);
}
