#!/usr/bin/env python3
"""Ten thousand tasks of five seconds at once on four workers: are they late, does the server still answer?

    cargo build --release && python3 benches/burst.py [--binary PATH]
"""

import argparse
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
DELAY_MS = 5000
CONNECTIONS = 8
BODY = json.dumps({"delayMs": DELAY_MS})
HEADERS = {"X-App-Session": "burst", "Content-Type": "application/json"}


def default_binary():
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(HERE, "..", "target")
    return os.path.join(target, "release", "async-task-system")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_server(binary, cwd, port):
    env = dict(os.environ, HOST="127.0.0.1", PORT=str(port), LOG_LEVEL="warn", WORKER_THREADS="4")
    env["TASK_CLEANUP_INTERVAL"] = "3600000"  # no finished task may go before it is counted
    server = subprocess.Popen([os.path.realpath(binary)], cwd=cwd, env=env)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if ask(connect(port), "GET", "/api/v1/health")[0] == 200:
                return server
        except OSError:
            time.sleep(0.05)
    stop(server)
    sys.exit("the server did not come up")


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def connect(port):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def ask(connection, method, path, body=None):
    connection.request(method, path, body, HEADERS)
    response = connection.getresponse()
    return response.status, response.read()


def ask_json(connection, method, path, body=None, expected=200):
    status, answer = ask(connection, method, path, body)
    if status != expected:
        raise RuntimeError(f"{method} {path} answered {status}: {answer[:300]!r}")
    return json.loads(answer)


def proc(pid, name):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(rf"^{name}:\s+(\d+)", status.read(), re.M).group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=default_binary(), help="the server (default: the release build)")
    parser.add_argument("--tasks", type=int, default=10_000, help="a session takes 10,000 by default")
    args = parser.parse_args()
    if not os.path.isfile(args.binary):
        sys.exit(f"no server at {args.binary}: run `cargo build --release` or pass --binary")

    with tempfile.TemporaryDirectory() as work:
        port = free_port()
        server = start_server(args.binary, work, port)
        try:
            run(server.pid, port, args.tasks)
        finally:
            stop(server)


def run(pid, port, total):
    idle_rss = proc(pid, "VmRSS")
    failures = []

    def creator(count):
        try:
            connection = connect(port)
            for _ in range(count):
                ask_json(connection, "POST", "/api/v1/demo/tasks/sample", BODY, expected=201)
            connection.close()
        except Exception as failure:
            failures.append(failure)

    shares = [total // CONNECTIONS + (i < total % CONNECTIONS) for i in range(CONNECTIONS)]
    creators = [threading.Thread(target=creator, args=(share,)) for share in shares]
    began = time.monotonic()
    for thread in creators:
        thread.start()

    # During the creation this script itself is busy, which its latencies show; so the two phases stand apart.
    latencies = {"creating": [], "running": []}
    created_in, threads, peak_running = None, 0, 0
    connection = connect(port)
    while True:
        creating = any(thread.is_alive() for thread in creators)
        if not creating and created_in is None:
            created_in = time.monotonic() - began
        asked = time.perf_counter()
        stats = ask_json(connection, "GET", "/api/v1/tasks/stats")["stats"]
        latencies["creating" if creating else "running"].append((time.perf_counter() - asked) * 1000)
        threads = max(threads, proc(pid, "Threads"))
        peak_running = max(peak_running, stats["running"])
        if failures:
            sys.exit(f"creation: {failures[0]}")
        if not creating and stats["completed"] + stats["failed"] + stats["cancelled"] >= total:
            break
        if time.monotonic() - began > 120:
            sys.exit(f"not completed within 120 s: {stats}")
        time.sleep(0.05)
    took = time.monotonic() - began
    peak, rss = proc(pid, "VmHWM"), proc(pid, "VmRSS")

    tasks, cursor = [], ""
    while True:
        page = ask_json(connection, "GET", "/api/v1/tasks?limit=1000" + cursor)
        tasks += page["tasks"]
        if not page["nextCursor"]:
            break
        cursor = f"&cursor={page['nextCursor']}"
    connection.close()
    completed = [t for t in tasks if t["status"] == "completed"]
    distinct = len({t["id"] for t in completed})
    if distinct != total:
        sys.exit(f"{distinct} distinct completed tasks listed, not {total}")
    lateness = [t["completedAt"] - t["createdAt"] - DELAY_MS for t in completed]

    def worst(values):
        return f"median {statistics.median(values):.1f}, max {max(values):.1f} ms ({len(values)} polls)" if values else "-"

    rows = [
        ("tasks", f"{total} of {DELAY_MS} ms"),
        ("created in", f"{created_in:.2f} s over {CONNECTIONS} connections"),
        ("all completed after", f"{took:.2f} s, at most {peak_running} running at once"),
        ("lateness", f"median {statistics.median(lateness):.0f}, min {min(lateness)}, max {max(lateness)} ms"),
        ("stats while creating", worst(latencies["creating"])),
        ("stats after that", worst(latencies["running"])),
        ("memory", f"idle {idle_rss / 1024:.1f}, at the end {rss / 1024:.1f}, peak {peak / 1024:.1f} MiB"),
        ("threads at most", threads),
    ]
    for name, value in rows:
        print(f"{name:22}{value}")


if __name__ == "__main__":
    main()
