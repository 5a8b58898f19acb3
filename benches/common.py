"""What the measuring scripts share: the server as a process, calls to it, numbers about both."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
TARGET = os.environ.get("CARGO_TARGET_DIR") or os.path.join(HERE, "..", "target")
BINARY = os.path.join(TARGET, "release", "async-task-system")
SESSION = "bench"
HEADERS = {"X-App-Session": SESSION, "Content-Type": "application/json"}


class Server:
    """The release binary on a free port, for the length of a `with`."""

    def __init__(self, binary=BINARY, **variables):
        if not os.path.isfile(binary):
            sys.exit(f"no server at {binary}: run `cargo build --release`")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = tempfile.TemporaryDirectory()
        environment = dict(os.environ, HOST="127.0.0.1", PORT=str(self.port), LOG_LEVEL="error")
        environment.update(variables)
        self.process = subprocess.Popen([os.path.realpath(binary)], cwd=self.folder.name, env=environment)
        self.pid = self.process.pid

    def __enter__(self):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.call("GET", "/health")
                return self
            except OSError:
                time.sleep(0.02)
        self.stop()
        sys.exit("the server did not come up")

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        stop(self.process)
        self.folder.cleanup()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def call(self, method, path, body=None, connection=None):
        """The answer's JSON; an error where it is one."""
        once = connection or self.connect()
        once.request(method, "/api/v1" + path, body and json.dumps(body), HEADERS)
        answer = once.getresponse()
        text = answer.read()
        if not connection:
            once.close()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path} answered {answer.status}: {text[:300]!r}")
        return json.loads(text)

    def memory(self, name="VmRSS"):
        """In MiB."""
        return self.number(name) / 1024

    def number(self, name):
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(rf"^{name}:\s+(\d+)", status.read(), re.M).group(1))


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
