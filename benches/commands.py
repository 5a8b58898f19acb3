"""Commands: how fast they start, what many cost, and whether any process is ever left.

    cargo build --release && python3 benches/commands.py [speed] [many] [idle] [cancel] [chaos [ROUNDS]]
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

from common import Server, percentile

TREE = "sh -c 'sh -c \"echo \\$\\$ >> pids; sleep 1000 & wait\" & echo $$ >> pids; wait' & echo $$ >> pids; wait"
TALK = "n=0; while :; do n=$(((n + 7) % 100)); echo $n% Talking; sleep 2; done"
TYPES = {
    "true": {"command": ["/bin/true"], "concurrency": 4},
    "sleep": {"command": ["sleep", "1000"], "concurrency": 1000},
    "talk": {"command": TALK, "concurrency": 1000},
    "tree": {"command": TREE, "graceMs": 500, "concurrency": 1000},
    "deaf-tree": {"command": "trap '' TERM HUP; " + TREE, "graceMs": 500, "concurrency": 1000},
    "short": {"command": "echo $$ >> pids; sleep 0.0$((TASK_ATTEMPT + 1)); echo 100%", "concurrency": 8},
    "fails": {"command": "echo $$ >> pids; (sleep 1000 & echo no >&2); exit 1", "concurrency": 8},
}


class Commands(Server):
    """A server whose commands run in a folder of their own."""

    def __init__(self, folder, **variables):
        path = os.path.join(folder, "executors.json")
        with open(path, "w") as file:
            json.dump(TYPES, file)
        super().__init__(EXECUTORS=path, MAX_COMPLETED_TASKS="100000", **variables)

    def start(self, kind, connection=None):
        body = {"name": kind, "type": kind, "start": True}
        return self.call("POST", "/tasks", body, connection)["task"]["id"]

    def count(self, status):
        return self.call("GET", "/tasks/stats")["stats"][status]

    def wait(self, status, count):
        while self.count(status) < count:
            time.sleep(0.01)

    def cpu(self):
        with open(f"/proc/{self.pid}/stat") as stat:
            words = stat.read().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def pids(folder):
    try:
        with open(os.path.join(folder, "pids")) as file:
            return [int(line) for line in file.read().split()]
    except OSError:
        return []


def alive(folder):
    return [pid for pid in pids(folder) if is_alive(pid)]


def gone(folder, within):
    """Whether all processes are gone within so many seconds."""
    deadline = time.monotonic() + within
    while alive(folder) and time.monotonic() < deadline:
        time.sleep(0.005)
    return not alive(folder)


def speed(folder):
    ratios = []
    for _ in range(3):
        begun = time.monotonic()
        subprocess.run("seq 1000 | xargs -P4 -n1 /bin/true", shell=True, check=True)
        by_xargs = time.monotonic() - begun
        with Commands(folder) as server:
            connection = server.connect()
            begun = time.monotonic()
            for _ in range(1000):
                server.start("true", connection)
            server.wait("completed", 1000)
            took = time.monotonic() - begun
        ratios.append(took / by_xargs)
        print(f"/bin/true 1,000 times, 4 at once: {took:.2f} s, xargs -P4 {by_xargs:.2f} s, {took / by_xargs:.2f} times")
    print(f"median {percentile(ratios, 0.5):.2f} times")


def many(folder):
    with Commands(folder) as server:
        before = server.memory()
        for _ in range(200):
            server.start("sleep")
        server.wait("running", 200)
        time.sleep(1)
        threads, memory = server.number("Threads"), server.memory()
        print(f"200 commands at once: {threads} threads, {memory:.1f} MiB (before: {before:.1f})")


def idle(folder):
    with Commands(folder, WORKER_THREADS="4") as server:
        for _ in range(300):
            server.start("talk")
        server.wait("running", 300)
        time.sleep(3)
        used, begun = server.cpu(), time.monotonic()
        time.sleep(10)
        share = (server.cpu() - used) / (time.monotonic() - begun)
        threads, memory = server.number("Threads"), server.memory()
        print(f"300 commands that print every 2 s: {100 * share:.1f} % of a core, {threads} threads, {memory:.1f} MiB")
    with Commands(folder, WORKER_THREADS="4") as server:
        for _ in range(300):
            server.start("sleep")
        server.wait("running", 300)
        used = server.cpu()
        time.sleep(5)
        print(f"300 silent ones: {20 * (server.cpu() - used):.2f} % of a core")


def cancel(folder):
    for kind, grace in (("tree", 0), ("deaf-tree", 0.5)):
        took = []
        with Commands(folder) as server:
            for _ in range(20):
                known = len(pids(folder))
                task = server.start(kind)
                while len(pids(folder)) < known + 3:
                    time.sleep(0.005)
                begun = time.monotonic()
                server.call("POST", f"/tasks/{task}/cancel")
                assert gone(folder, 10), alive(folder)
                took.append(time.monotonic() - begun - grace)
        print(f"cancel of {kind}: gone {1000 * percentile(took, 0.5):.0f} ms (at most {1000 * max(took):.0f}) after the grace")


def chaos(folder, rounds):
    """Random cancels, stops and kills. After each end of the server no process may be left."""
    done, ends = 0, {"TERM": 0, "KILL": 0}
    while done < rounds:
        with Commands(folder) as server:
            stop_at = random.randint(5, 40)
            running = []
            for step in range(stop_at):
                kind = random.choice(["tree", "deaf-tree", "short", "fails", "true"])
                running.append(server.start(kind))
                if random.random() < 0.6:
                    task = running.pop(random.randrange(len(running)))
                    try:
                        server.call("POST", f"/tasks/{task}/cancel")
                        done += 1
                    except RuntimeError:
                        pass  # It has ended.
                if random.random() < 0.2:
                    time.sleep(random.random() / 20)
            how = random.choice(["TERM", "KILL"])
            busy = threading.Thread(target=hurry, args=(server,))
            busy.start()
            time.sleep(random.random() / 10)
            server.process.send_signal(getattr(signal, "SIG" + how))
            server.process.wait(10)
            busy.join()
            done, ends[how] = done + 1, ends[how] + 1
            if not gone(folder, 2):
                sys.exit(f"left after SIG{how}: {alive(folder)}")
        os.unlink(os.path.join(folder, "pids"))
    print(f"{done} cancels, stops and kills ({ends['TERM']} SIGTERM, {ends['KILL']} SIGKILL): no process left")


def hurry(server):
    """Starts commands until the server is gone."""
    try:
        while True:
            server.start(random.choice(["short", "tree", "deaf-tree"]))
    except (OSError, RuntimeError, ValueError):
        pass


def main():
    words = sys.argv[1:] or ["speed", "many", "idle", "cancel", "chaos"]
    rounds = int(words.pop()) if words[-1].isdigit() else 1000
    for word in words:
        with tempfile.TemporaryDirectory() as folder:
            arguments = [rounds] if word == "chaos" else []
            globals()[word](folder, *arguments)


if __name__ == "__main__":
    main()
