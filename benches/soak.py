#!/usr/bin/env python3
"""Twenty minutes of mixed load: does the memory stay where it is, and does every answer make sense?

    cargo build --release && python3 benches/soak.py [--minutes 20]

Clients come and go, each in a session of its own: they create tasks of every demo kind, poll,
wait, list, follow streams and break off, cancel, retry, share, send nonsense. Tasks are cleaned
and idle sessions dropped all the while. Memory is that of the server, in MiB.
"""

import argparse
import http.client
import json
import multiprocessing
import random
import socket
import time

from common import Server

CLIENTS = 12
FINAL = ("completed", "failed", "cancelled")
DEMOS = {
    "sample": lambda: {"delayMs": random.randint(0, 40), "failAt": random.choice([None, 50])},
    "workflow": lambda: {
        "name": "soak",
        "steps": [{"name": f"Step {i}", "durationMs": random.randint(0, 50)} for i in range(8)],
    },
    "batch": lambda: {"items": list(range(random.randint(1, 60))), "itemDelayMs": random.randint(0, 5)},
    "file-processing": lambda: {"filePath": "/data/soak.csv", "processingType": "analyze", "speed": 50},
    "api-call": lambda: {"endpoint": "https://example.com/soak", "method": "GET", "speed": 50},
}
NONSENSE = [
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /api/v1/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n{",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
]


class Client:
    def __init__(self, port):
        self.port = port
        self.headers = {"X-App-Session": f"soak-{random.randrange(10**9)}", "Content-Type": "application/json"}
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def call(self, method, path, body=None, allowed=(200, 201)):
        text = body and json.dumps({k: v for k, v in body.items() if v is not None})
        self.connection.request(method, "/api/v1" + path, text, self.headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status not in allowed:
            raise RuntimeError(f"{method} {path} answered {answer.status}: {text[:200]!r}")
        return json.loads(text) if text else {}

    def follow(self, path, most):
        """Reads a stream for a while, and breaks off or reads to its end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as stream:
            session = self.headers["X-App-Session"]
            stream.sendall(f"GET /api/v1{path} HTTP/1.1\r\nHost: h\r\nX-App-Session: {session}\r\n\r\n".encode())
            for _ in range(most):
                if not (data := stream.recv(4096)) or data.endswith(b"0\r\n\r\n"):
                    return

    def live(self):
        kind = random.choice(list(DEMOS))
        task = self.call("POST", f"/demo/tasks/{kind}", DEMOS[kind]())["task"]["id"]
        what = random.random()
        if what < 0.2:
            self.follow(f"/tasks/{task}/events", random.choice([1, 3, 1_000]))
        elif what < 0.3:
            self.follow(f"/tasks/{task}/watch", 3)
        elif what < 0.4:
            self.follow("/tasks/events", 2)
        elif what < 0.5:
            self.call("POST", f"/tasks/{task}/cancel", allowed=(200, 400, 409))
            self.call("POST", f"/tasks/{task}/retry", allowed=(200, 400, 409))
        elif what < 0.6:
            self.call("POST", f"/tasks/{task}/share", allowed=(200, 201))
            self.call("GET", "/tasks?limit=1000")
        while self.call("GET", f"/tasks/{task}/status?wait=5")["status"] not in FINAL:
            pass
        self.call("GET", f"/tasks/{task}/history")
        self.call("GET", "/tasks/stats")
        if what > 0.9:
            with socket.create_connection(("127.0.0.1", self.port)) as rude:
                rude.sendall(random.choice(NONSENSE))


def run(port, until, done, errors):
    while time.time() < until:
        client = Client(port)
        for _ in range(random.randint(1, 60)):
            try:
                client.live()
                done[0] += 1
            except Exception as error:
                errors.put(repr(error))
                break


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    args = parser.parse_args()
    variables = {"SESSION_TIMEOUT": "20000", "TASK_CLEANUP_INTERVAL": "5000", "AUDIT_LOG": "audit.log"}
    with Server(**variables) as server:
        until = time.time() + args.minutes * 60
        errors = multiprocessing.Queue()
        counts = [multiprocessing.Array("l", 1, lock=False) for _ in range(CLIENTS)]
        clients = [
            multiprocessing.Process(target=run, args=(server.port, until, count, errors), daemon=True)
            for count in counts
        ]
        for client in clients:
            client.start()
        seen = []
        while time.time() < until:
            time.sleep(min(60, max(1, until - time.time())))
            seen.append(server.memory())
            tasks = sum(count[0] for count in counts)
            print(f"{tasks:8} tasks  {seen[-1]:6.1f} MiB  {server.number('Threads')} threads", flush=True)
        for client in clients:
            client.join()
        time.sleep(30)
        print(f"at rest: {server.memory():.1f} MiB, {server.number('Threads')} threads")
        if len(seen) >= 8:
            quarter = len(seen) // 4
            means = [sum(part) / quarter for part in (seen[quarter : 2 * quarter], seen[-quarter:])]
            print(f"second quarter {means[0]:.1f} MiB, last quarter {means[1]:.1f} MiB")
        wrong = []
        while not errors.empty():
            wrong.append(errors.get())
        print(f"answers that made no sense: {len(wrong)}", *wrong[:5], sep="\n  ")


if __name__ == "__main__":
    main()
