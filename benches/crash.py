#!/usr/bin/env python3
"""Kills and freezes workers of the Job API at random moments, and looks for what was lost or run twice at once.

On the PostgreSQL at DATABASE_URL, whose tables of jobs are dropped, two workers share the queue; one at a time is
killed (SIGKILL), or frozen (SIGSTOP) and woken, often after its leases. Without DATABASE_URL one process does
everything on SQLite, and is killed. All the while jobs are added, and every acknowledged one must come to its end
within its attempts.

Needs `cargo build --release --features jobs --bins --example witness`: the workers are `examples/witness.rs`, where
each step of a job leaves a line, after a report was taken. Two lines of an attempt after the first one of a newer
attempt prove that both ran at once: the older one still held the job when it wrote the first of the two.
"""

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from jobs import ROOT, Postgres, Server, Sqlite

LEASE = 2
STEPS = 20
JOB = {"type": "witness", "arguments": {"steps": STEPS, "stepMs": 15}, "maxAttempts": 20}
WITNESS = ROOT / "target/release/examples/witness"
NAMES = {1: "pending", 2: "processing", 3: "completed", 4: "failed", 5: "cancelled"}


def add(server, acknowledged, stop):
    """Adds jobs until told to stop; a server that is down is tried again."""
    while not stop.is_set():
        current = server()
        try:
            for job in current.ask("/bulk", {"jobs": [JOB] * 5})["jobs"]:
                acknowledged.append(job["id"])
        except (Exception, SystemExit):  # whatever a kill leaves of an answer
            current.http.close()
        time.sleep(0.02)


class Workers:
    """So many processes, of which one at a time is harmed."""

    def __init__(self, start, count):
        self.start = start
        self.all = [start() for _ in range(count)]
        self.frozen = {}

    def kill(self):
        victim = random.choice([n for n in range(len(self.all)) if n not in self.frozen])
        self.all[victim].process.kill()
        self.all[victim].process.communicate()
        self.all[victim] = self.start()

    def freeze(self):
        """Where none is frozen, for half a lease up to two."""
        if len(self.all) == 1 or self.frozen:
            return 0
        victim = random.randrange(len(self.all))
        self.all[victim].process.send_signal(signal.SIGSTOP)
        self.frozen[victim] = time.monotonic() + LEASE * random.uniform(0.5, 2)
        return 1

    def wake(self, even_early=False):
        for victim, until in list(self.frozen.items()):
            if even_early or time.monotonic() > until:
                self.all[victim].process.send_signal(signal.SIGCONT)
                del self.frozen[victim]


def torment(workers, kills):
    """How often one was frozen."""
    freezes = 0
    for _ in range(kills):
        time.sleep(random.uniform(0.05, 0.5))
        workers.kill()
        workers.wake()
        if random.random() < 0.2:
            freezes += workers.freeze()
    workers.wake(even_early=True)
    return freezes


def witnessed(folder):
    """Jobs that two ran at once; attempts that left one line too late; jobs that more than one process began."""
    overlaps, late, shared = [], 0, 0
    for path in folder.iterdir():
        runs = [tuple(map(int, line.split()[:2])) for line in path.read_text().splitlines()]
        newest, after = (0, 0), Counter()
        for run in runs:
            newest = max(newest, run)
            if run[0] < newest[0] or run[0] == newest[0] and run != newest:
                after[run] += 1
        if any(count > 1 for count in after.values()):
            overlaps.append(path.name)
        late += len(after)
        shared += len({pid for _, pid in runs}) > 1
    return overlaps, late, shared


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = os.environ.get("DATABASE_URL")
        database = Postgres(url) if url else Sqlite(folder)
        database.clear()
        lines = Path(folder) / "lines"
        lines.mkdir()
        variables = {**database.variables, "WITNESS_DIR": str(lines), "JOB_LEASE_SECONDS": str(LEASE)}
        start = lambda queue="true": Server(folder, WITNESS, **variables, ENABLE_QUEUE=queue)
        front = start("false") if url else None
        workers = Workers(start, 2 if url else 1)
        acknowledged, stop = [], threading.Event()
        adder = threading.Thread(target=add, args=(lambda: front or workers.all[0], acknowledged, stop))
        adder.start()
        try:
            freezes = torment(workers, options.kills)
            stop.set()
            adder.join()
            patience = time.monotonic() + 90
            while database.rows("SELECT count(*) FROM jobs WHERE status < 3")[0][0] and time.monotonic() < patience:
                time.sleep(0.2)
        finally:
            stop.set()
            for server in workers.all + ([front] if front else []):
                server.process.kill()
                server.process.communicate()
        rows = database.rows("SELECT id, status, attempts, max_attempts FROM jobs")
        database.clear()
        there = {str(row[0]) for row in rows}
        lost = [id for id in acknowledged if id not in there]
        over = [row for row in rows if row[2] > row[3]]
        states = Counter(NAMES[row[1]] for row in rows)
        rerun = sum(row[2] > 1 for row in rows)
        overlaps, late, shared = witnessed(lines)
        print(
            f"{database.name}: {options.kills} kills, {freezes} freezes, {len(acknowledged)} jobs acknowledged, "
            f"{len(lost)} lost, {dict(states)}, {rerun} claimed more than once, {len(over)} beyond their attempts; "
            f"{shared} begun by more than one process, {len(overlaps)} run by two at once, {late} lines too late"
        )
        if lost or over or overlaps or states["pending"] or states["processing"]:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
