#!/usr/bin/env python3
"""Faults of every kind at random moments, mixed, and what becomes of the jobs: chaos.py [--minutes 10] [sqlite|pg]

A front end and three workers (two on SQLite) share a database; clients add, cancel and retry all the while. Workers are
killed, frozen and stopped; PostgreSQL, private and behind a proxy, is restarted, frozen, locked and cut off. At the end
everything heals, and each acknowledged job has a minute and a lease to end. Ends with 1 where a promise is broken.

Needs `cargo build --release --features jobs --example witness`; every process is that program. KEEP_LOGS names a folder
for the logs of a run that failed."""

import argparse
import contextlib
import os
import random
import re
import resource
import signal
import threading
import time
from collections import Counter

from chaos_clients import Clients
from jobs_common import WITNESS, Folder, Postgres, Refused, Server, Sqlite, Always, overlaps, send, until, witnessed
from proxy import Proxy

LEASE = 5
FAULTS_A_MINUTE = 20
SLOW = 12
RECOVERY = 20
STOP = 5
LINES = 200


class Worker:
    """A process that is started again whenever it has ended, as a service manager does."""

    def __init__(self, variables, log):
        self.variables, self.log = variables, log
        self.server, self.frozen, self.lock = None, False, threading.Lock()
        self.start()

    def start(self):
        try:
            self.server = Server(self.variables, WITNESS, self.log, wait=0)
        except Refused:
            pass

    def kill(self):
        with self.lock:
            self.server.kill()
            self.start()

    def terminate(self, seen):
        with self.lock:
            took = self.server.stop(STOP + 5)
            seen.stops.append(took if took is not None else 99)
            self.start()

    def freeze(self, seconds):
        with self.lock:
            self.server.signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.server.signal(signal.SIGCONT)

    def revive(self):
        """Looks again after a second."""
        with self.lock:
            if self.server.process.poll() is not None:
                self.start()
        time.sleep(1)


class Seen:
    """What the faults brought to light."""

    def __init__(self):
        self.faults, self.stops, self.lines = Counter(), [], []


def worker_faults(workers, seen, chance):
    """One fault of a worker at a random moment; at most one is frozen at a time."""
    time.sleep(chance.expovariate(FAULTS_A_MINUTE / 2 / 60))
    kind = chance.choices(["kill", "freeze", "terminate"], [45, 35, 20])[0]
    free = [worker for worker in workers if not worker.lock.locked()]
    if not free or kind == "freeze" and len(free) < len(workers):
        return
    worker = chance.choice(free)
    seen.faults[f"worker: {kind}"] += 1
    if kind == "kill":
        worker.kill()
    elif kind == "terminate":
        threading.Thread(target=worker.terminate, args=(seen,), daemon=True).start()
    else:
        seconds = chance.uniform(0.5, 3) * LEASE
        threading.Thread(target=worker.freeze, args=(seconds,), daemon=True).start()


def frozen_backend(database, chance):
    if backends := database.backends():
        pid = chance.choice(backends)
        send(pid, signal.SIGSTOP)
        try:
            time.sleep(chance.uniform(2, 6))
        finally:
            send(pid, signal.SIGCONT)


def frozen_cluster(database, chance):
    thaw = database.freeze()
    try:
        time.sleep(chance.uniform(2, 8))
    finally:
        thaw()


def database_faults(database, proxy, chance):
    if database.name == "sqlite":
        return {"lock": lambda: database.lock(chance.uniform(2, 8))}
    return {
        "all silent": proxy.silence_all,
        "one silent": lambda: proxy.silence_one(chance.choice),
        "dropped": proxy.drop_all,
        "fast restart": database.restart,
        "immediate restart": lambda: database.restart(signal.SIGQUIT),
        "backend frozen": lambda: frozen_backend(database, chance),
        "all frozen": lambda: frozen_cluster(database, chance),
        "lock": lambda: database.lock(chance.uniform(2, 6)),
        "terminated": database.terminate,
    }


def harm_database(faults, clients, seen, logs, chance, begun_lines):
    """One fault of the database; the next comes after a pause."""
    time.sleep(chance.uniform(0.3, 120 / FAULTS_A_MINUTE * 0.8))
    seen.lines.append(count_lines(logs) - begun_lines[0])
    begun_lines[0] = count_lines(logs)
    kind = chance.choice(list(faults))
    clients.outage_begins()
    try:
        faults[kind]()
        seen.faults[f"database: {kind}"] += 1
    except RuntimeError as error:
        seen.faults[f"database: {kind}: {str(error).splitlines()[-1][:60]}"] += 1
    clients.outage_ends(kind)


def count_lines(logs):
    return sum(len(re.findall(r"\[(?:WARN|ERROR)\]", log.read_text(errors="replace"))) for log in logs if log.exists())


def wreak(database, proxy, workers, clients, seen, logs, options):
    """All faults for so many minutes."""
    chance = random.Random(f"{options.seed} database")
    faults = database_faults(database, proxy, chance)
    other, lines = random.Random(f"{options.seed} workers"), [0]
    harmed = Always(lambda: worker_faults(workers, seen, other))
    with harmed, Always(lambda: harm_database(faults, clients, seen, logs, chance, lines)):
        time.sleep(options.minutes * 60)
    for worker in workers:
        with worker.lock:
            pass


def judge(front, clients, seen, lines):
    """The report, and what of it breaks a promise."""
    jobs = {job["id"]: job for job in front.everything()}
    runs = witnessed(lines)
    failed = [job for job in jobs.values() if job["status"] == "failed"]
    never = [job for job in failed if job["id"] not in runs]
    told = Counter((job["maxAttempts"], (job["error"] or {}).get("message")) for job in failed)
    unlike_losses = {what: count for what, count in told.items() if "lost" not in str(what[1])}
    doubled = [id for id, of_job in runs.items() if overlaps(of_job)]
    unended = Counter(job["status"] for job in jobs.values() if job["status"] in ("pending", "processing"))
    went_on = [id for id in clients.cancelled - clients.unsure if jobs.get(id, {}).get("status") != "cancelled"]
    print("faults:", sum(seen.faults.values()), dict(seen.faults))
    print("jobs:", dict(Counter(job["status"] for job in jobs.values())), "clients' answers:", dict(clients.answers))
    print("failed, by (maxAttempts, message):", dict(told))
    print(f"doubled only after a client's cancel and retry: {len([id for id in doubled if id in clients.retried])}")
    slowest, recovery = max(clients.times, default=0), max(clients.recoveries, default=(0, "-"))
    print(f"slowest request {slowest:.1f} s, slowest recovery {recovery[0]:.1f} s after: {recovery[1]}, "
          f"slowest stop {max(seen.stops, default=0):.1f} s, most lines of an outage {max(seen.lines, default=0)}")
    return {
        "lost": len(clients.acknowledged - jobs.keys()),
        "stuck": sum(unended.values()),
        "run by two at once": len([id for id in doubled if id not in clients.retried]),
        "failed, never run": len(never),
        "failed, but not for a loss": sum(unlike_losses.values()),
        "cancelled, but went on": len(went_on),
        "unique keys violated": len(clients.doubled_keys),
        "idempotency broken": clients.broken_repeats(jobs.values()),
        f"requests slower than {SLOW} s": sum(time > SLOW for time in clients.times),
        f"additions refused for {RECOVERY} s after healing": sum(took > RECOVERY for took, _ in clients.recoveries),
        f"stops slower than {STOP} s": sum(took > STOP for took in seen.stops),
        f"outages with more than {LINES} warnings": sum(count > LINES for count in seen.lines),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", nargs="?", default="sqlite", choices=["sqlite", "pg"])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"{options.database}, seed {options.seed}", flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    lines, logs = Folder().path, Folder().path
    database = Postgres() if options.database == "pg" else Sqlite()
    proxy = Proxy(database.port, linger=30) if options.database == "pg" else None
    variables = {**(database.through(proxy) if proxy else database.variables), "WITNESS_DIR": lines}
    variables |= {"JOB_LEASE_SECONDS": LEASE, "WORKER_THREADS": 4}
    front = Server({**variables, "ENABLE_QUEUE": "false"}, WITNESS, logs / "front")
    names = [f"worker-{number}" for number in range(3 if proxy else 2)]
    workers = [Worker({**variables, "ENABLE_QUEUE": "true"}, logs / name) for name in names]
    clients, seen = Clients(front, options.seed), Seen()
    with contextlib.ExitStack() as revivers:
        for worker in workers:
            revivers.enter_context(Always(worker.revive))
        with clients.running():
            wreak(database, proxy, workers, clients, seen, [logs / name for name in [*names, "front"]], options)
            until(clients.has_recovered, RECOVERY + 5)
        counts = front.settle(60 + LEASE)
    print("at the end:", counts, flush=True)
    unended = database.rows("SELECT ready, losses, count(*) FROM jobs WHERE status < 3 GROUP BY 1, 2 ORDER BY 1, 2")
    if unended:
        print("not ended, (lane, losses, jobs):", unended, flush=True)
    faults = judge(front, clients, seen, lines)
    for what, count in faults.items():
        print(f"{'FAILS' if count else 'held '} {count} {what}")
    if any(faults.values()):
        if keep := os.environ.get("KEEP_LOGS"):
            os.system(f"cp -r {logs} {keep}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
