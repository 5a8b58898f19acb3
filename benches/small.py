#!/usr/bin/env python3
"""What the server takes on a small machine: the table of docs/deploy.md.

    cargo build --release && python3 benches/small.py [--binary PATH] [--cgroup FOLDER]

With `--cgroup` the server runs in that control group, whose limits stand for a small machine's, such as
`mkdir /sys/fs/cgroup/small; echo 512M >/sys/fs/cgroup/small/memory.max` (version 2) or, as systemd does it,
`systemd-run --scope -p MemoryMax=512M`. Needs wrk on PATH.
"""

import argparse
import os
import socket
import subprocess
import tempfile
import threading
import time

from common import BINARY, Server
from load import cpu_seconds

RUNNING, STREAMS = 10_000, 1_000
RUN_SECONDS = 20

# Small tasks weigh most for what they hold; spread, for a session holds 10,000 of them.
FILL_LUA = """
request = function()
  local headers = { ["Content-Type"] = "application/json", ["X-App-Session"] = "s" .. math.random(900) }
  return wrk.format("POST", nil, headers, '{"name":"a small task","metadata":{"order":12345}}')
end
"""


def start_tasks(server, count, threads=8):
    """Starts workflows that move every second."""
    steps = [{"name": f"Step {i}", "durationMs": 1_000} for i in range(RUN_SECONDS)]

    def share(mine):
        connection = server.connect()
        for _ in range(mine):
            server.call("POST", "/demo/tasks/workflow", {"name": "one of many", "steps": steps}, connection)

    runners = [threading.Thread(target=share, args=(count // threads,)) for _ in range(threads)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()


class Table:
    def __init__(self, server):
        self.server = server
        print("| | memory, MiB | threads | CPU, % of a core |\n|---|--:|--:|--:|")

    def row(self, what, seconds=3):
        """Memory as it is, and the processor's time over the next seconds."""
        before = cpu_seconds(self.server.pid)
        time.sleep(seconds)
        busy = (cpu_seconds(self.server.pid) - before) / seconds * 100
        threads = self.server.number("Threads")
        print(f"| {what} | {self.server.memory():.0f} | {threads} | {busy:.1f} |", flush=True)


def open_streams(server, count):
    streams = []
    for _ in range(count):
        stream = socket.create_connection(("127.0.0.1", server.port))
        stream.sendall(b"GET /api/v1/tasks/events?session=quiet HTTP/1.1\r\nHost: h\r\n\r\n")
        streams.append(stream)
    for stream in streams:
        assert stream.recv(65536).startswith(b"HTTP/1.1 200"), "a stream was refused"
    return streams


def fill(server):
    """Creates small tasks until the store is full."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(FILL_LUA)
        script.flush()
        url = f"http://127.0.0.1:{server.port}/api/v1/tasks"
        command = ["wrk", "-t1", "-c16", "-d60s", "-s", script.name, url]
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while load.poll() is None and not is_full(server):
                time.sleep(0.5)
        finally:
            load.kill()
            load.wait()


def is_full(server):
    try:
        server.call("POST", "/tasks", {"name": "one more"})
        return False
    except RuntimeError as refusal:
        return "store_full" in str(refusal)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=BINARY)
    parser.add_argument("--cgroup", help="folder of a control group to run the server in")
    args = parser.parse_args()
    with Server(args.binary) as server:
        if args.cgroup:
            with open(os.path.join(args.cgroup, "cgroup.procs"), "w") as group:
                group.write(str(server.pid))
        table = Table(server)
        table.row("idle")
        start_tasks(server, RUNNING)
        table.row(f"{RUNNING} tasks that move once a second", 10)
        while server.call("GET", "/tasks/stats")["stats"]["running"]:
            time.sleep(0.5)
        table.row("when they have ended")
        streams = open_streams(server, STREAMS)
        table.row(f"with {STREAMS} open streams besides")
        for stream in streams:
            stream.close()
        fill(server)
        table.row("with a full store")
        server.call("GET", "/health")
        print(f"\nHighest: {server.memory('VmHWM'):.0f} MiB. It still answers.")


if __name__ == "__main__":
    main()
