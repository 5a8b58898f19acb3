#!/usr/bin/env python3
"""Measures live streams: how soon events arrive, and what idle streams cost.

    cargo build --release && python3 benches/streams.py

Starts the release binary on a free port. Needs Python 3.8 and nothing else.

- 500 streams watch one task that moves twice a second: from the moment that the history
  gives an event to its arrival at each stream. Both clocks are this machine's, in
  milliseconds, and the reading client shares the machine with the server.
- 1,000 idle streams: the server's resident memory before and with them.
- 200 long polls: from just before a cancel is sent to the poll's answer.
"""

import selectors
import socket
import statistics
import threading
import time

from common import SESSION, Server, percentile

WATCHERS, STEPS, STEP_MS, IDLE, POLLS = 500, 20, 500, 1_000, 200


def open_stream(server, path):
    stream = socket.create_connection(("127.0.0.1", server.port))
    request = f"GET /api/v1{path} HTTP/1.1\r\nHost: h\r\nX-App-Session: {SESSION}\r\n\r\n"
    stream.sendall(request.encode())
    return stream


def fan_out(server):
    steps = [{"name": f"Step {i}", "durationMs": STEP_MS} for i in range(1, STEPS + 1)]
    body = {"name": "watched", "metadata": {"type": "workflow", "steps": steps}}
    task = server.call("POST", "/tasks", body)["task"]["id"]
    selector = selectors.DefaultSelector()
    for _ in range(WATCHERS):
        stream = open_stream(server, f"/tasks/{task}/events")
        selector.register(stream, selectors.EVENT_READ, bytearray())
    # Each has told the state now before the task begins to move.
    ready = set()
    while len(ready) < WATCHERS:
        for key, _ in selector.select(10):
            key.data.extend(key.fileobj.recv(65536))
            if b"event: created" in key.data:
                ready.add(key.fileobj)
                key.data.clear()
    server.call("POST", f"/tasks/{task}/start")
    arrivals = []
    while selector.get_map():
        for key, _ in selector.select(10):
            bytes_ = key.fileobj.recv(65536)
            now = time.time() * 1_000
            for line in bytes_.splitlines():
                if line.startswith(b"id: "):
                    arrivals.append((int(line[4:]), now))
            if b"\r\n0\r\n\r\n" in bytes_ or not bytes_:
                selector.unregister(key.fileobj)
                key.fileobj.close()
    history = server.call("GET", f"/tasks/{task}/history")["history"]
    at = {entry["seq"]: entry["at"] for entry in history}
    wanted = WATCHERS * (len(history) - 1)
    delays = [now - at[seq] for seq, now in arrivals]
    print(f"{WATCHERS} streams, {len(history) - 1} events each: {len(arrivals)} of {wanted} arrived")
    print(
        f"  delay: median {statistics.median(delays):.1f} ms, 99 % {percentile(delays, 0.99):.1f} ms,"
        f" worst {max(delays):.1f} ms"
    )


def idle(server):
    before = server.memory()
    task = server.call("POST", "/tasks", {"name": "idle"})["task"]["id"]
    streams = [open_stream(server, f"/tasks/{task}/events") for _ in range(IDLE)]
    for stream in streams:
        seen = b""
        while b"event: created" not in seen:
            seen += stream.recv(4096)
    with_them = server.memory()
    cost = with_them - before
    print(f"{IDLE} idle streams: {before:.1f} MiB before, {with_them:.1f} MiB with them")
    print(f"  {cost:.1f} MiB in all, {cost * 1024 / IDLE:.1f} KiB each")
    for stream in streams:
        stream.close()


def long_polls(server):
    delays = []
    for _ in range(POLLS):
        task = server.call("POST", "/tasks", {"name": "polled"})["task"]["id"]
        answered = []

        def poll():
            status = server.call("GET", f"/tasks/{task}/status?wait=30")["status"]
            answered.append((time.perf_counter(), status))

        waiting = threading.Thread(target=poll)
        waiting.start()
        time.sleep(0.02)
        begun = time.perf_counter()
        server.call("POST", f"/tasks/{task}/cancel")
        waiting.join()
        (end, status), = answered
        assert status == "cancelled", status
        delays.append((end - begun) * 1_000)
    print(
        f"{POLLS} long polls: answered after median {statistics.median(delays):.1f} ms,"
        f" worst {max(delays):.1f} ms, the cancel's own request included"
    )


def main():
    with Server(MAX_CONNECTIONS="2000") as server:
        idle(server)
        long_polls(server)
        fan_out(server)


if __name__ == "__main__":
    main()
