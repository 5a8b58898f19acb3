#!/usr/bin/env python3
"""Kills workers of the Job API at random moments, and looks for what was lost.

On the PostgreSQL at DATABASE_URL, whose tables of jobs are dropped, two workers share the queue and one of
them is killed (SIGKILL) at a time; without DATABASE_URL one process does everything on SQLite. All the while
jobs are added, and every acknowledged one must come to its end within its attempts.
"""

import argparse
import os
import random
import tempfile
import threading
import time
from collections import Counter

from jobs import Postgres, Server, Sqlite

LEASE = "2"
JOB = {"type": "dummy", "arguments": {"delayMinSec": 0, "delayMaxSec": 0.3}, "maxAttempts": 20}


def add(server, acknowledged, stop):
    """Adds jobs until told to stop; a server that is down is tried again."""
    while not stop.is_set():
        try:
            for job in server().ask("/bulk", {"jobs": [JOB] * 5})["jobs"]:
                acknowledged.append(job["id"])
        except (OSError, SystemExit, ValueError, KeyError, AttributeError) as _:
            try:
                server().http.close()
            except AttributeError:
                pass
        except Exception:  # an answer that was cut off by the kill
            server().http.close()
        time.sleep(0.02)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = os.environ.get("DATABASE_URL")
        database = Postgres(url) if url else Sqlite(folder)
        database.clear()
        start = lambda queue: Server(folder, **database.variables, ENABLE_QUEUE=queue, JOB_LEASE_SECONDS=LEASE)
        front = start("false") if url else None
        workers = [start("true") for _ in range(2 if url else 1)]
        acknowledged, stop = [], threading.Event()
        adder = threading.Thread(target=add, args=(lambda: front or workers[0], acknowledged, stop))
        adder.start()
        for _ in range(options.kills):
            time.sleep(random.uniform(0.05, 0.5))
            victim = random.randrange(len(workers))
            workers[victim].process.kill()
            workers[victim].process.communicate()
            workers[victim] = start("true")
        stop.set()
        adder.join()
        patience = time.monotonic() + 60
        while database.rows("SELECT count(*) FROM jobs WHERE status < 3")[0][0] and time.monotonic() < patience:
            time.sleep(0.2)
        rows = database.rows("SELECT id, status, attempts, max_attempts FROM jobs")
        there = {str(row[0]) for row in rows}
        lost = [id for id in acknowledged if id not in there]
        over = [row for row in rows if row[2] > row[3]]
        names = {1: "pending", 2: "processing", 3: "completed", 4: "failed", 5: "cancelled"}
        states = Counter(names[row[1]] for row in rows)
        rerun = sum(row[2] > 1 for row in rows)
        for server in workers + ([front] if front else []):
            server.stop()
        database.clear()
        print(
            f"{database.name}: {options.kills} kills, {len(acknowledged)} jobs acknowledged, {len(lost)} lost, "
            f"{dict(states)}, {rerun} run more than once, {len(over)} beyond their attempts"
        )
        if lost or over or states["pending"] or states["processing"]:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
