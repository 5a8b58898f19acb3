//! The yardstick of `load.py`: one thread per connection that reads whatever came and writes a fixed answer of 300
//! bytes. It parses nothing, so it marks what sockets and threads alone cost on a machine.
//!
//! `bare_loop [PORT]` listens on the loopback address (port 0 picks a free one) and prints the port.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 228\r\n\r\n";
const LENGTH: usize = 300;

fn serve(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; 4096];
    while stream.read(&mut request)? > 0 {
        stream.write_all(answer)?;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let port = match std::env::args().nth(1) {
        Some(text) => text.parse().map_err(io::Error::other)?,
        None => 0,
    };
    let mut answer = HEAD.as_bytes().to_vec();
    answer.resize(LENGTH, b' ');
    let answer: &'static [u8] = answer.leak();

    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("{}", listener.local_addr()?.port());
    for stream in listener.incoming() {
        let stream = stream?;
        // A client that hangs up ends its own thread, nothing else.
        thread::spawn(move || serve(stream, answer));
    }
    Ok(())
}
