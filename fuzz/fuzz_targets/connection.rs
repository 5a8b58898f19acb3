//! Any bytes on a connection to a real server: it answers with HTTP or not at all, and lives on.
#![no_main]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use async_task_system::{Config, ExecutorRegistry, Server};

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let pairs = [("PORT", "0"), ("MAX_TASKS_PER_SESSION", "100"), ("MAX_ACTIVE_TASKS", "100")];
    let config = Config::from_pairs(pairs).expect("a valid configuration");
    Server::start(config, ExecutorRegistry::new()).expect("the server starts")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let socket = TcpStream::connect(SERVER.local_addr()).expect("the server accepts");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    // The server may refuse, and close, before it has all.
    let _ = (&socket).write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = (&socket).read_to_end(&mut answer) {
        let reset = error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(reset, "no end within 20 s: {error}");
    }
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "));
});
