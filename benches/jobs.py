#!/usr/bin/env python3
"""The Job API on SQLite, or on the PostgreSQL at DATABASE_URL, whose schema `public` is emptied.

Prints how fast jobs are added and worked off, how long a single one takes on an idle system, and what a
worker process holds. Needs `cargo build --release --features jobs`, wrk, and psql for PostgreSQL. BINARY measures another binary.
"""

import argparse
import json
import os
import re
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(os.environ.get("BINARY", ROOT / "target/release/async-task-system")).resolve()
SECRET = "a secret for benchmarks, of 32 bytes or more"
TRIVIAL = {"type": "dummy", "arguments": {"delayMinSec": 0, "delayMaxSec": 0}}


class Server:
    """The release binary, or another program of this library, on a free port."""

    def __init__(self, folder, program=BINARY, **variables):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        # A line for each job would cost more than the job.
        environment = {**os.environ, "PORT": str(self.port), "LOG_LEVEL": "warn", "JWT_SECRET": SECRET, "MAX_BODY_BYTES": "8000000"}
        environment.update(variables)
        self.process = subprocess.Popen([program], cwd=folder, env=environment)
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    raise SystemExit("the server does not start") from None
                time.sleep(0.02)
        token = [BINARY, "token", "--sub", "bench", "--role", "admin"]
        self.token = subprocess.run(token, env=environment, cwd=folder, capture_output=True, text=True).stdout.strip()
        self.http = HTTPConnection("127.0.0.1", self.port)

    def ask(self, path, body=None):
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        method, text = ("GET", None) if body is None else ("POST", json.dumps(body))
        self.http.request(method, f"/api/v1/jobs{path}", text, headers)
        answer = self.http.getresponse()
        data = json.loads(answer.read())
        if answer.status >= 400:
            raise SystemExit(f"{path}: {data}")
        return data

    def rss(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def stop(self):
        self.process.terminate()
        self.process.communicate()


class Raw:
    """A client that costs little itself."""

    def __init__(self, server):
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.head = f"Host: x\r\nAuthorization: Bearer {server.token}\r\nContent-Type: application/json\r\n"

    def ask(self, method, path, body=""):
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.socket.sendall(f"{method} /api/v1/jobs{path} HTTP/1.1\r\n{self.head}{length}\r\n{body}".encode())
        answer = b""
        while True:
            answer += self.socket.recv(65_536)
            head, end, rest = answer.partition(b"\r\n\r\n")
            if end and len(rest) >= int(re.search(rb"Content-Length: (\d+)", head)[1]):
                return rest


class Sqlite:
    name = "SQLite"

    def __init__(self, folder):
        self.path = Path(folder) / "jobs.db"
        self.variables = {"STORAGE": "sqlite", "DATABASE_URL": f"sqlite://{self.path}"}

    def rows(self, sql):
        with sqlite3.connect(self.path) as database:
            return database.execute(sql).fetchall()

    def clear(self):
        for path in self.path.parent.glob("jobs.db*"):
            path.unlink()

    def connections(self):
        return "-"


class Postgres:
    name = "PostgreSQL"

    def __init__(self, url):
        self.url = url
        self.variables = {"STORAGE": "postgres", "DATABASE_URL": url}

    def rows(self, sql):
        command = ["psql", "-qAtX", "-F,", self.url, "-c", sql]
        text = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PGOPTIONS": "--client-min-messages=warning"}).stdout
        return [tuple(int(x) if x.isdigit() else x for x in line.split(",")) for line in text.splitlines()]

    def clear(self):
        self.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    def connections(self):
        return self.rows("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")[0][0] - 1


def bulk(server, count, size=2_000):
    client = Raw(server)
    body = json.dumps({"jobs": [TRIVIAL] * size})
    begun = time.monotonic()
    for _ in range(count // size):
        if b'"count"' not in client.ask("POST", "/bulk", body)[-30:]:
            raise SystemExit("a bulk of jobs was refused")
    return count / (time.monotonic() - begun)


def add_and_work_off(database, folder, count):
    database.clear()
    server = Server(folder, **database.variables, ENABLE_QUEUE="false")
    added = bulk(server, count)
    server.stop()
    server = Server(folder, **database.variables, ENABLE_QUEUE="true")
    while database.rows("SELECT count(*) FROM jobs WHERE status = 3")[0][0] < count:
        time.sleep(0.5)
    (first, last), = database.rows("SELECT min(started_at), max(completed_at) FROM jobs")
    server.stop()
    return added, count / ((last - first) / 1_000)


def latency(database, folder, rounds):
    database.clear()
    server = Server(folder, **database.variables, ENABLE_QUEUE="true")
    time.sleep(1.5)
    rss, connections = server.rss(), database.connections()
    times = []
    client = Raw(server)
    body = json.dumps(TRIVIAL)
    for _ in range(rounds):
        begun = time.monotonic()
        added = client.ask("POST", "", body)
        id = re.search(rb'"id":"([^"]+)"', added)[1].decode()
        while b'"completed"' not in client.ask("GET", f"/{id}"):
            pass
        times.append((time.monotonic() - begun) * 1_000)
        time.sleep(0.02)
    server.stop()
    return statistics.median(times), sorted(times)[int(rounds * 0.95)], rss, connections


KEYED = """
local count = 0
request = function()
    count = count + 1
    wrk.headers["Idempotency-Key"] = count
    return wrk.format()
end
"""


def one_by_one(database, folder, seconds, more=""):
    database.clear()
    server = Server(folder, **database.variables, ENABLE_QUEUE="false")
    script = Path(folder) / "post.lua"
    script.write_text(
        'wrk.method = "POST"\n'
        f"wrk.body = '{json.dumps(TRIVIAL)}'\n"
        'wrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["Authorization"] = "Bearer {server.token}"\n{more}'
    )
    url = f"http://127.0.0.1:{server.port}/api/v1/jobs"
    command = ["wrk", "-t1", "-c16", f"-d{seconds}s", "-s", script, url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    server.stop()
    if "Non-2xx" in output:
        raise SystemExit(output)
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        databases = [Sqlite(folder)]
        if url := os.environ.get("DATABASE_URL"):
            databases.append(Postgres(url))
        print("| database | bulk, rows/s | worked off, jobs/s | 16 clients one by one, jobs/s | with idempotency keys | add to done, median / 95 % ms | idle worker, MiB / connections |")
        print("|---|---|---|---|---|---|---|")
        for database in databases:
            added, worked = add_and_work_off(database, folder, options.jobs)
            single = one_by_one(database, folder, 5)
            keyed = one_by_one(database, folder, 5, KEYED)
            median, slow, rss, connections = latency(database, folder, 200)
            print(
                f"| {database.name} | {added:,.0f} | {worked:,.0f} | {single:,.0f} | {keyed:,.0f} | {median:.1f} / {slow:.1f} "
                f"| {rss:.1f} / {connections} |",
                flush=True,
            )
            database.clear()


if __name__ == "__main__":
    main()
