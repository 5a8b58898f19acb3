#!/usr/bin/env python3
"""Whether the Job API gets slower with the rows it has: rows.py [sqlite|pg] [--rows 300000]

Times lists, counts and working off at a thousand ended jobs and at many, lets 40 clients list beside additions, and claims past
due jobs of a type that nobody here runs. Ends with 1 where a promise is broken.

Needs `cargo build --release --features jobs`; PostgreSQL is a private cluster of the installed one."""

import argparse
import statistics
import time

from jobs_common import ADMIN, JOBS, TRIVIAL, USER, Always, Postgres, Server, Sqlite, bearer, until

NOBODY = bearer("nobody")
FAILS = {"type": "sample", "arguments": {"delayMs": 0, "failAt": 0}, "maxAttempts": 1}
FEW = 1_000
BATCH = 20_000
LISTERS = 40
SECONDS = 10

QUERIES = {
    "newest": ("?limit=50", ADMIN),
    "completed": ("?limit=50&status=completed", ADMIN),
    "failed": ("?limit=50&status=failed", ADMIN),
    "pending": ("?limit=50&status=pending", ADMIN),
    "of a type": ("?limit=50&type=dummy", ADMIN),
    "completed of a type": ("?limit=50&status=completed&type=sample", ADMIN),
    "of a user": ("?limit=50", USER),
    "failed of a user": ("?limit=50&status=failed", USER),
    "of a user without jobs": ("?limit=50", NOBODY),
    "counts": ("/stats", ADMIN),
    "counts of a user": ("/stats", USER),
}


def timed(server, path, user):
    """The median of some, in ms."""
    times = []
    for _ in range(15):
        begun = time.monotonic()
        status, answer = server.ask("GET", JOBS + path, None, user)
        times.append((time.monotonic() - begun) * 1_000)
        assert status == 200, answer
    return statistics.median(times)


def oldest_page(server):
    """A page near the first job."""
    return f"?limit=50&cursor={server.oldest}"


def look(server):
    queries = {**QUERIES, "oldest": (oldest_page(server), ADMIN)}
    return {name: timed(server, *query) for name, query in queries.items()}


def add(server, count, job=TRIVIAL):
    for _ in range(count // 2_000 or 1):
        server.add(min(count, 2_000), job)


def ended(server):
    return sum(count for name, count in server.stats().items() if name not in ("pending", "processing", "total"))


def work_off(database, variables, front, count=BATCH):
    """Jobs a second, of a worker that finds them all there."""
    before = ended(front)
    add(front, count)
    worker = Server({**variables, "ENABLE_QUEUE": "true"})
    first = until(lambda: ended(front) > before and time.monotonic(), 30, 0.002)
    begun_at = ended(front)
    last = until(lambda: ended(front) >= before + count and time.monotonic(), 300, 0.01)
    worker.stop()
    return (before + count - begun_at) / (last - first)


def fill(variables, front, rows):
    worker = Server({**variables, "ENABLE_QUEUE": "true"})
    while (missing := rows - ended(front)) > 0:
        add(front, min(missing, 20_000) * 39 // 40 or 1)
        add(front, min(missing, 20_000) // 40 or 1, FAILS)
        front.settle(120)
    worker.stop()


def crowd(front):
    """40 clients list, one adds: refusals, and the slowest addition in seconds."""
    refused, times, queries = [], [], list(QUERIES.values())
    turn = iter(range(10**9))

    def lists():
        path, user = queries[next(turn) % len(queries)]
        status, _ = front.ask("GET", JOBS + path, None, user, timeout=60)
        if status != 200:
            refused.append(status)

    def adds():
        begun = time.monotonic()
        status, _ = front.ask("POST", JOBS, TRIVIAL, USER, timeout=60)
        times.append(time.monotonic() - begun)
        if status != 201:
            refused.append(status)
        time.sleep(0.02)

    with Always(lists, LISTERS), Always(adds):
        time.sleep(SECONDS)
    return len(refused), max(times), next(turn) / SECONDS


def foreign(database, variables, front):
    """Jobs a second without, and with many due jobs of a type that no worker here runs before them."""
    without = work_off(database, variables, front, 5_000)
    add(front, 100_000, {**FAILS, "priority": 10})
    database.execute("UPDATE jobs SET kind = 'foreign' WHERE status = 1")
    return work_off(database, variables, front, 5_000) / without


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", nargs="?", default="sqlite", choices=["sqlite", "pg"])
    parser.add_argument("--rows", type=int, default=300_000)
    options = parser.parse_args()
    database = Postgres() if options.database == "pg" else Sqlite()
    variables = database.variables
    front = Server({**variables, "ENABLE_QUEUE": "false"})
    fill(variables, front, FEW)
    front.oldest = front.everything()[-40]["id"]
    few, rate = look(front), work_off(database, variables, front)
    fill(variables, front, options.rows)
    many, then = look(front), work_off(database, variables, front)
    print(f"{options.database}: {ended(front):,} ended jobs")
    for name in few:
        print(f"  {name:24} {few[name]:6.1f} ms at {FEW:,}  {many[name]:6.1f} ms now")
    print(f"  worked off {rate:,.0f}/s, then {then:,.0f}/s ({then / rate:.2f})")
    refused, slowest, lists = crowd(front)
    rss = front.rss()
    print(f"  {LISTERS} clients read {lists:,.0f} pages a second; {refused} refused, slowest addition {slowest * 1000:.0f} ms, {rss:.0f} MiB")
    share = foreign(database, variables, front)
    print(f"  behind 100,000 due jobs of another type: {share:.2f} of the rate")
    slow = [name for name in few if many[name] > max(20, 4 * few[name])]
    broken = [f"{name} is slow" for name in slow]
    broken += ["working off is slower"] * (then < 0.8 * rate) + ["refused"] * (refused > 0)
    broken += ["additions wait"] * (slowest > 0.5) + ["memory"] * (rss > 64) + ["foreign jobs are in the way"] * (share < 0.5)
    print("held" if not broken else f"FAILS: {', '.join(broken)}")
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    main()
