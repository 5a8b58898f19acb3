#!/usr/bin/env python3
"""Ten thousand tasks of five seconds at once on four workers: are they late, does the server still answer?

    cargo build --release && python3 benches/burst.py [--binary PATH]
"""

import argparse
import statistics
import sys
import threading
import time

from common import BINARY, Server

DELAY_MS = 5000
CONNECTIONS = 8
BODY = {"delayMs": DELAY_MS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=BINARY, help="the server (default: the release build)")
    parser.add_argument("--tasks", type=int, default=10_000, help="a session takes 10,000 by default")
    args = parser.parse_args()
    # No finished task may go before it is counted.
    with Server(args.binary, WORKER_THREADS="4", TASK_CLEANUP_INTERVAL="3600000") as server:
        run(server, args.tasks)


def run(server, total):
    idle = server.memory()
    failures = []

    def creator(count):
        try:
            connection = server.connect()
            for _ in range(count):
                server.call("POST", "/demo/tasks/sample", BODY, connection)
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
    connection = server.connect()
    while True:
        creating = any(thread.is_alive() for thread in creators)
        if not creating and created_in is None:
            created_in = time.monotonic() - began
        asked = time.perf_counter()
        stats = server.call("GET", "/tasks/stats", connection=connection)["stats"]
        latencies["creating" if creating else "running"].append((time.perf_counter() - asked) * 1000)
        threads = max(threads, server.number("Threads"))
        peak_running = max(peak_running, stats["running"])
        if failures:
            sys.exit(f"creation: {failures[0]}")
        if not creating and stats["completed"] + stats["failed"] + stats["cancelled"] >= total:
            break
        if time.monotonic() - began > 120:
            sys.exit(f"not completed within 120 s: {stats}")
        time.sleep(0.05)
    took = time.monotonic() - began
    peak, memory = server.memory("VmHWM"), server.memory()

    tasks, cursor = [], ""
    while True:
        page = server.call("GET", "/tasks?limit=1000" + cursor, connection=connection)
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
        ("memory", f"idle {idle:.1f}, at the end {memory:.1f}, peak {peak:.1f} MiB"),
        ("threads at most", threads),
    ]
    for name, value in rows:
        print(f"{name:22}{value}")


if __name__ == "__main__":
    main()
