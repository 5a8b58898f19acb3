"""What the scripts share that try the Job API from outside: processes, a private PostgreSQL, calls, waiting.

Everything that is started here ends with the script, also after Ctrl-C. BINARY names another binary, WITNESS
another build of `examples/witness.rs`."""

import atexit
import base64
import glob
import hashlib
import hmac
import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(os.environ.get("BINARY", ROOT / "target/release/async-task-system")).resolve()
WITNESS = Path(os.environ.get("WITNESS", ROOT / "target/release/examples/witness")).resolve()
SECRET = "a secret for benchmarks, of 32 bytes or more"
JOBS = "/api/v1/jobs"
TRIVIAL = {"type": "dummy", "arguments": {"delayMinSec": 0, "delayMaxSec": 0}}


def waits(seconds, **more):
    """A job that does nothing for so long."""
    return {"type": "dummy", "arguments": {"delayMinSec": seconds, "delayMaxSec": seconds}, **more}


def bearer(subject="bench", **claims):
    """The header of a user's token; `role="admin"` makes it an admin's."""
    part = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    claims = {"sub": subject, "exp": int(time.time()) + 86_400, **claims}
    text = ".".join(part(json.dumps(data).encode()) for data in ({"alg": "HS256", "typ": "JWT"}, claims))
    return {"Authorization": f"Bearer {text}.{part(hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest())}"}


USER, ADMIN = bearer(), bearer("root", role="admin")

_owned = []


def owned(thing):
    """Closes it with the script, the newest first."""
    _owned.append(thing)
    return thing


def close_all():
    while _owned:
        try:
            _owned.pop().close()
        except Exception as error:  # the others are to be closed all the same
            print(f"not closed: {error}", file=sys.stderr)


atexit.register(close_all)
for _number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(_number, lambda *_: sys.exit(1))


class Folder:
    """A temporary folder that every user may enter."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="jobs-"))
        self.path.chmod(0o755)
        owned(self)

    def close(self):
        shutil.rmtree(self.path, ignore_errors=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(probe, limit, every=0.05):
    """The first true answer, or the last one after `limit` seconds."""
    end = time.monotonic() + limit
    while not (answer := probe()) and time.monotonic() < end:
        time.sleep(every)
    return answer


class Refused(Exception):
    """A program that ended instead of serving; its text is what it said."""


class Server:
    """A program of this library on a port of its own; `wait=False` does not wait until it serves."""

    def __init__(self, variables, program=BINARY, log=None, wait=15, before=()):
        self.port = free_port()
        self.folder = Folder()
        self.log = Path(log or self.folder.path / "log")
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment = {**inherited, "HOST": "127.0.0.1", "PORT": str(self.port), "JWT_SECRET": SECRET, "METRICS": "true"}
        environment |= {"MAX_BODY_BYTES": "8000000", **{name: str(value) for name, value in variables.items()}}
        with open(self.log, "a") as file:
            self.process = subprocess.Popen(
                [*before, str(program)], cwd=self.folder.path, env=environment, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, start_new_session=True,
            )
        owned(self)
        if wait:
            self.serves(wait)

    def serves(self, limit):
        if not until(lambda: self.process.poll() is not None or self.answers(), limit, 0.01):
            self.close()
            raise Refused(f"does not serve after {limit} s: {self.text()[-300:]}")
        if self.process.poll() is not None:
            raise Refused(self.text()[-500:].strip())

    def answers(self):
        try:
            return self.ask("GET", "/api/v1/health", timeout=2)[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body=None, headers=None, timeout=30):
        """Status and JSON (or text) of the answer."""
        status, text, _ = self.exchange(method, path, body, headers, timeout)
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def exchange(self, method, path, body=None, headers=None, timeout=30):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            text = body if body is None or isinstance(body, str) else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        except http.client.HTTPException as error:
            raise OSError(f"no whole answer: {error!r}") from error
        finally:
            connection.close()

    def add(self, count=1, job=TRIVIAL, user=USER, **more):
        """Ids of so many jobs, added at once."""
        status, answer = self.ask("POST", f"{JOBS}/bulk", {"jobs": [{**job, **more}] * count}, user)
        if status != 201:
            raise RuntimeError(f"a bulk was answered {status}: {answer}")
        return [job["id"] for job in answer["jobs"]]

    def stats(self):
        status, answer = self.ask("GET", f"{JOBS}/stats", None, ADMIN)
        if status != 200:
            raise OSError(f"stats answered {status}")
        return answer["stats"]

    def job(self, id):
        return self.ask("GET", f"{JOBS}/{id}", None, ADMIN)[1]

    def metric(self, name):
        """The sum over its labels; 0 where it is not there."""
        text = self.exchange("GET", "/metrics")[1].decode()
        return sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M)))

    def settle(self, limit):
        """The counts when nothing is pending or processing, or after `limit` seconds."""
        seen = {}

        def ended():
            try:
                seen.update(self.stats())
            except OSError:
                return False
            return seen["pending"] + seen["processing"] == 0

        until(ended, limit, 0.2)
        return {name: count for name, count in seen.items() if count}

    def everything(self, user=ADMIN, query=""):
        """Every job that the user may see, by pages."""
        cursor, jobs = "", []
        while cursor is not None:
            status, page = self.ask("GET", f"{JOBS}?limit=500{query}{cursor and '&cursor=' + cursor}", None, user)
            if status != 200:
                raise OSError(f"a list answered {status}: {page}")
            jobs += page["jobs"]
            cursor = page["nextCursor"]
        return jobs

    def text(self):
        return self.log.read_text(errors="replace")

    def warnings(self):
        return [line for line in self.text().splitlines() if "[WARN]" in line or "[ERROR]" in line]

    def rss(self):
        """In MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, limit=15):
        """Seconds that a graceful stop took; nothing where it had to be killed."""
        begun = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(limit)
            return time.monotonic() - begun
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def close(self):
        if self.process.poll() is None:
            self.kill()
        self.folder.close()


class Sqlite:
    """A file in a folder of its own."""

    name = "sqlite"

    def __init__(self):
        self.folder = Folder()
        self.fresh()

    def fresh(self, _name="jobs"):
        """A new file, for the next servers."""
        self.path = self.folder.path / f"{time.monotonic_ns()}.db"
        self.variables = {"STORAGE": "sqlite", "DATABASE_URL": f"sqlite://{self.path}"}
        return self.variables

    def connect(self):
        return sqlite3.connect(self.path, timeout=20, isolation_level=None, check_same_thread=False)

    def rows(self, sql):
        connection = self.connect()
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    execute = rows

    def lock(self, seconds):
        """Nobody else writes meanwhile."""
        connection = self.connect()
        try:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
        finally:
            connection.close()


def as_postgres():
    """PostgreSQL does not run as root."""
    if os.geteuid():
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


class Postgres:
    """A cluster of its own of the installed PostgreSQL."""

    name = "pg"

    def __init__(self, *settings):
        self.bin = Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        self.folder, self.port, self.settings = Folder(), free_port(), settings
        self.data = self.folder.path / "data"
        self.data.mkdir()
        if not os.geteuid():
            shutil.chown(self.data, "postgres", "postgres")
        command = [self.bin / "initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D", self.data]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **as_postgres())
        self.process = None
        owned(self)
        self.start()
        self.fresh()

    def start(self):
        options = ["max_connections=400", "listen_addresses=127.0.0.1", "unix_socket_directories=", *self.settings]
        command = [self.bin / "postgres", "-D", self.data, "-p", str(self.port), *sum((["-c", option] for option in options), [])]
        with open(self.folder.path / "log", "a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True, **as_postgres())
        if not until(self.answers, 30):
            raise RuntimeError("PostgreSQL does not start")

    def answers(self):
        try:
            return self.sql("SELECT 1", "postgres") == "1"
        except RuntimeError:
            return False

    def stop(self, number=signal.SIGINT):
        """SIGINT is a fast stop, SIGQUIT an immediate one."""
        self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(20)

    def restart(self, number=signal.SIGINT):
        self.stop(number)
        self.start()

    def psql(self, database=None):
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database or self.database]
        return ["psql", *address, "-XAtq", "-v", "ON_ERROR_STOP=1"]

    def sql(self, text, database=None):
        ran = subprocess.run([*self.psql(database), "-c", text], capture_output=True, text=True, start_new_session=True)
        if ran.returncode:
            raise RuntimeError(ran.stderr.strip())
        return ran.stdout.strip()

    def rows(self, sql):
        text = self.sql(sql)
        return [tuple(line.split("|")) for line in text.splitlines()]

    def execute(self, sql):
        self.sql(sql)

    def fresh(self, name="jobs", options=""):
        """A new database, for the next servers."""
        self.database = name
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", "postgres")
        self.sql(f"CREATE DATABASE {name} {options}", "postgres")
        self.variables = {"STORAGE": "postgres", "DATABASE_URL": self.url()}
        return self.variables

    def url(self, port=None):
        return f"postgres://postgres@127.0.0.1:{port or self.port}/{self.database}?sslmode=disable"

    def through(self, proxy):
        return {**self.variables, "DATABASE_URL": self.url(proxy.port)}

    def lock(self, seconds):
        """Nobody else touches the jobs meanwhile."""
        self.sql(f"SET statement_timeout = 0; BEGIN; LOCK TABLE jobs; SELECT pg_sleep({seconds}); COMMIT")

    def backends(self, where="true"):
        """Processes of the clients' connections, without that of this question."""
        ours = "backend_type = 'client backend' AND pid <> pg_backend_pid() AND datname = current_database()"
        return [int(row[0]) for row in self.rows(f"SELECT pid FROM pg_stat_activity WHERE {ours} AND ({where})")]

    def terminate(self):
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")

    def all_processes(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]

    def freeze(self):
        """Every process stands still, until the returned function is called."""
        stopped = self.all_processes()
        for pid in stopped:
            send(pid, signal.SIGSTOP)
        stopped += [pid for pid in self.all_processes() if pid not in stopped]
        return lambda: [send(pid, signal.SIGCONT) for pid in stopped]

    def close(self):
        if self.process and self.process.poll() is None:
            for pid in self.all_processes():
                send(pid, signal.SIGCONT)
            self.stop(signal.SIGQUIT)


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def together(*functions):
    """Runs each in a thread of its own; returns when all have ended."""
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Always:
    """Calls a function over and over in so many threads, for the length of a `with`."""

    def __init__(self, function, count=1):
        self.over = threading.Event()
        self.function = function
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(count)]

    def run(self):
        while not self.over.is_set():
            self.function()

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()


def witnessed(folder):
    """Runs of each job that has begun, line by line: (attempt, process, run)."""
    lines = lambda path: [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
    return {path.name: lines(path) for path in Path(folder).iterdir()}


def overlaps(steps):
    """Whether two runs each left two lines after the first one of the other (see `examples/witness.rs`)."""
    after = lambda one, other: steps[steps.index(other):].count(one)
    runs = list(dict.fromkeys(steps))
    pairs = ((one, other) for one in runs for other in runs if one != other)
    return any(after(one, other) > 1 and after(other, one) > 1 for one, other in pairs)
