use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{API, Client, FREE_PORT, Process, Reply, TempDir, TestServer, wait_until};

fn health(session: &str) -> String {
    format!("GET {API}/health HTTP/1.1\r\nHost: h\r\nX-App-Session: {session}\r\n\r\n")
}

/// What comes up to the end of the connection.
fn to_the_end(mut socket: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn past_the_limit_a_connection_is_told_to_come_back() {
    let server = TestServer::start(&[("MAX_CONNECTIONS", "3")]);
    let open: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for (i, mut socket) in open.iter().enumerate() {
        socket
            .write_all(health(&i.to_string()).as_bytes())
            .expect("sent");
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("an answer");
    }
    let answer = to_the_end(server.connect());
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("\"code\":\"too_many_connections\""),
        "{answer}"
    );
    assert!(answer.contains("Retry-After: 1\r\n"), "{answer}");
    assert!(answer.contains("Connection: close\r\n"), "{answer}");
    drop(open);
    wait_until(|| server.get("/health").status == 200);
}

#[test]
fn one_address_cannot_take_every_place_but_this_machine_may() {
    let variables = [("MAX_CONNECTIONS_PER_IP", "2"), ("HOST", "0.0.0.0")];
    let server = TestServer::start(&variables);
    let busy: Vec<_> = (0..5).map(|_| server.connect()).collect();
    server.get("/health").expect(200);
    drop(busy);
    // Another address of this machine, where it has one, is not loopback.
    let Some(address) = own_address() else {
        return eprintln!("skipped: this machine has no address but loopback");
    };
    let elsewhere = Client::new((address, server.addr().port()).into());
    let open: Vec<_> = (0..2).map(|_| elsewhere.connect()).collect();
    for mut socket in &open {
        socket.write_all(health("x").as_bytes()).expect("sent");
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("an answer");
    }
    let answer = to_the_end(elsewhere.connect());
    assert!(
        answer.contains("\"code\":\"too_many_connections\""),
        "{answer}"
    );
    server.get("/health").expect(200);
    drop(open);
    wait_until(|| elsewhere.get("/health").status == 200);
}

/// The address from which this machine would speak to another one; no packet is sent.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn a_head_in_drops_is_cut_off_at_its_deadline_also_on_a_kept_connection() {
    let server = TestServer::start(&[("HEAD_TIMEOUT", "400")]);
    for kept in [false, true] {
        let mut socket = server.connect();
        if kept {
            socket.write_all(health("x").as_bytes()).expect("sent");
            let mut byte = [0];
            socket.read_exact(&mut byte).expect("an answer");
        }
        let start = Instant::now();
        let answer = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut drops = &socket;
                // Each drop comes well within the time; all of them do not.
                for byte in health("y").repeat(20).bytes().take(200) {
                    if byte == b'\r' || drops.write_all(b"G").is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            to_the_end(socket.try_clone().expect("a handle"))
        });
        assert!(start.elapsed() >= Duration::from_millis(400));
        let last = answer.rfind("HTTP/1.1 ").map(|at| &answer[at..]);
        let last = last.unwrap_or_default();
        assert!(last.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}

#[test]
fn a_body_in_drops_is_cut_off_at_the_requests_deadline() {
    let server = TestServer::start(&[("REQUEST_TIMEOUT", "400")]);
    for body in [
        "Content-Length: 100\r\n\r\n{",
        "Content-Length: 5000\r\n\r\n{",
        // What has come would be a body, but it is not whole.
        "Transfer-Encoding: chunked\r\n\r\nff\r\n{\"name\": \"n\"}",
        "Transfer-Encoding: chunked\r\n\r\nf",
    ] {
        // Behind a poll the gate reads, and not the parser.
        for (before, want) in [("", vec!["408"]), (&*health("x"), vec!["200", "408"])] {
            let socket = server.connect();
            let post = "HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n";
            let all = format!("{before}POST {API}/tasks {post}{body}");
            (&socket).write_all(all.as_bytes()).expect("sent");
            let answer = to_the_end(socket);
            let statuses = answer.split("HTTP/1.1 ").skip(1);
            let statuses: Vec<_> = statuses.filter_map(|rest| rest.get(..3)).collect();
            assert_eq!(statuses, want, "{answer}");
        }
    }
}

#[test]
fn a_server_that_was_halted_does_not_blame_its_clients() {
    let dir = TempDir::new();
    let limits = [("HEAD_TIMEOUT", "1000"), ("REQUEST_TIMEOUT", "1000")];
    let process = Process::start(&dir, &[&limits[..], &[FREE_PORT]].concat());
    let request = health("halted");
    let (start, rest) = request.split_at(20);
    let mut socket = process.client.connect();
    socket.write_all(start.as_bytes()).expect("sent");
    process.signal("STOP");
    // Three times as long as a request may take.
    std::thread::sleep(Duration::from_secs(3));
    process.signal("CONT");
    socket.write_all(rest.as_bytes()).expect("sent");
    Reply::read(&mut BufReader::new(&socket), "GET").expect(200);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let server = TestServer::start(&[("KEEP_ALIVE_TIMEOUT", "300"), ("HEAD_TIMEOUT", "300")]);
    let silent = server.connect();
    assert_eq!(to_the_end(silent), "");
    let mut kept = server.connect();
    kept.write_all(health("x").as_bytes()).expect("sent");
    let answer = to_the_end(kept);
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.ends_with("}\n"), "{answer}");
}

#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    let variables = [("REQUEST_TIMEOUT", "2000"), ("MAX_CONNECTIONS", "8")];
    let server = TestServer::start(&variables);
    let client = server.session("big");
    for _ in 0..120 {
        let text = "x".repeat(60_000);
        client.create(serde_json::json!({ "name": "n", "metadata": { "text": text } }));
    }
    let deaf: Vec<_> = (0..8)
        .map(|_| {
            let mut socket = server.connect();
            let request =
                format!("GET {API}/tasks?limit=1000&session=big HTTP/1.1\r\nHost: h\r\n\r\n");
            socket.write_all(request.as_bytes()).expect("sent");
            socket
        })
        .collect();
    // Seven megabytes each, which no socket takes in: their places come back nonetheless.
    wait_until(|| client.get("/health").status == 200);
    drop(deaf);
}

#[test]
fn an_endless_head_or_chunk_costs_no_memory() {
    let server = TestServer::start(&[]);
    for start in [
        "GET / HTTP/1.1\r\nX: ".to_owned(),
        "GET /".to_owned(),
        format!("POST {API}/tasks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ] {
        let socket = server.connect();
        (&socket).write_all(start.as_bytes()).expect("sent");
        let flood = [b'1'; 64 * 1024];
        let mut sent = 0_usize;
        // A peer that does not read would stop us at some megabytes; one that closes, earlier.
        while sent < 64 << 20 && (&socket).write_all(&flood).is_ok() {
            sent += flood.len();
        }
        assert!(sent < 64 << 20, "{start:?}: it took all of {sent} bytes");
    }
    server.get("/health").expect(200);
}

#[test]
fn a_polite_client_does_not_notice_hundreds_of_hostile_ones() {
    let server = TestServer::start(&[("HEAD_TIMEOUT", "60000")]);
    let starts = [
        "",
        "G",
        "GET / HTTP/1.1\r\nHost",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{",
    ];
    let hostile: Vec<_> = (0..600)
        .map(|i| {
            let mut socket = server.connect();
            socket
                .write_all(starts[i % starts.len()].as_bytes())
                .expect("sent");
            socket
        })
        .collect();
    let id = server.create(serde_json::json!({ "name": "polite" }));
    for _ in 0..100 {
        server.get(&format!("/tasks/{id}/status")).expect(200);
    }
    drop(hostile);
    wait_until(|| server.get("/health").status == 200);
}

/// A new connection is found among all descriptors; nobody takes an old one for it.
#[test]
fn nobody_gets_the_connection_of_one_who_has_just_left() {
    let server = TestServer::start(&[]);
    let ask = || {
        for _ in 0..500 {
            server.get("/health").expect(200);
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
        // Takes the descriptor that the next connection is expected to have.
        while !clients.iter().all(|client| client.is_finished()) {
            let _ = std::fs::File::open("/dev/null");
        }
    });
}
