#!/usr/bin/env python3
"""Does a polite client notice a thousand hostile ones?

    cargo build --release && python3 benches/hostile.py [--seconds 30]

While one client polls a task's status, on a kept connection and on new ones in turn, another
process holds a thousand connections open that do what no client should: say nothing, send a
head or a body a byte at a time, ask for a large list and never read it. Those that the server
cuts off come again. Then a single client sends a head without an end as fast as it can, again
and again, and the server's memory is looked at.
"""

import argparse
import multiprocessing
import random
import selectors
import socket
import statistics
import time

from common import SESSION, Server, percentile

HEAD = f"Host: h\r\nX-App-Session: {SESSION}\r\n".encode()
STARTS = {
    "silent": b"",
    "slow head": b"GET /api/v1/tasks HTTP/1.1\r\n" + HEAD + b"X: ",
    "slow body": b"POST /api/v1/tasks HTTP/1.1\r\n" + HEAD
    + b"Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n{",
    "slow reader": (b"GET /api/v1/tasks?limit=1000 HTTP/1.1\r\n" + HEAD + b"\r\n") * 20,
}


def attack(port, count, counts):
    """Keeps `count` hostile connections open."""
    selector = selectors.DefaultSelector()
    kinds = list(STARTS)

    def enter():
        kind = random.choice(kinds)
        client = socket.create_connection(("127.0.0.1", port))
        if kind == "slow reader":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        try:
            client.send(STARTS[kind])
        except OSError:
            pass
        # A slow reader reads nothing, so only its end may wake us.
        if kind != "slow reader":
            selector.register(client, selectors.EVENT_READ, kind)
        return kind, client, time.monotonic()

    clients = [enter() for _ in range(count)]
    while True:
        gone = set()
        for key, _ in selector.select(0.2):
            try:
                ended = not key.fileobj.recv(65536)
            except OSError:
                ended = True
            if ended:
                gone.add(key.fileobj)
        for place, (kind, client, since) in enumerate(clients):
            if kind.startswith("slow ") and kind != "slow reader" and random.random() < 0.2:
                try:
                    client.send(b"x")
                except OSError:
                    gone.add(client)
            # The server cuts a slow reader off unseen.
            if kind == "slow reader" and time.monotonic() - since > 15:
                gone.add(client)
            if client in gone:
                if kind != "slow reader":
                    selector.unregister(client)
                client.close()
                clients[place] = enter()
                counts[1] += 1
        counts[0] = len(clients)


def poll(server, task, seconds):
    delays, kept = [], server.connect()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for connection in (kept, None):
            begun = time.perf_counter()
            server.call("GET", f"/tasks/{task}/status", connection=connection)
            delays.append((time.perf_counter() - begun) * 1_000)
            time.sleep(0.005)
    return delays


def tell(name, delays):
    print(
        f"{name:28}{len(delays):6} polls: median {statistics.median(delays):.2f} ms,"
        f" 99 % {percentile(delays, 0.99):.2f} ms, worst {max(delays):.2f} ms"
    )


def flood(server, rounds=20):
    worst = sent = 0
    for _ in range(rounds):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.settimeout(5)
            try:
                client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nX: ")
                for _ in range(500):
                    client.sendall(b"y" * 65536)
                    sent += 65536
            except OSError:
                pass
        worst = max(worst, server.memory())
    return worst, sent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--hostile", type=int, default=1_000)
    args = parser.parse_args()
    with Server() as server:
        for _ in range(1_000):
            server.call("POST", "/tasks", {"name": "n", "description": "x" * 300})
        task = server.call("POST", "/demo/tasks/sample", {"delayMs": 3_600_000})["task"]["id"]
        before = server.memory()
        tell("alone", poll(server, task, min(args.seconds, 10)))
        counts = multiprocessing.Array("i", 2)
        attacker = multiprocessing.Process(target=attack, args=(server.port, args.hostile, counts), daemon=True)
        attacker.start()
        while counts[0] < args.hostile:
            time.sleep(0.05)
        delays = poll(server, task, args.seconds)
        tell(f"beside {counts[0]} hostile ones", delays)
        print(f"  {counts[1]} of them were cut off and came again; {server.number('Threads')} threads")
        held = server.memory()
        attacker.kill()
        attacker.join()
        while server.number("Threads") > 40:
            time.sleep(0.1)
        worst, sent = flood(server)
        print(
            f"memory: {before:.1f} MiB before, {held:.1f} with all of them, {server.memory():.1f} after;"
            f" at most {worst:.1f} while a head without an end was sent ({sent / 2**20:.0f} MiB taken)"
        )


if __name__ == "__main__":
    main()
