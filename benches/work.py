#!/usr/bin/env python3
"""Workers over HTTP: claims and completions a second, what waiting claims cost, and whether kills lose anything.

    cargo build --release && python3 benches/work.py [--binary PATH] [--kills N]

The kills are of worker processes at random moments. Every task must then be completed by one worker, or have failed as
`its worker was lost`; of jobs (`--jobs`, with a binary built with --features jobs) every one must be completed, once.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from common import BINARY, Server

TOKEN = "a-token-of-sixteen-bytes"
SECRET = "a-secret-of-the-benches-of-32-bytes"
TYPES = {"fast": {"remote": True, "leaseMs": 30000}, "kill": {"remote": True, "leaseMs": 1000}}

# A worker that is killed: it claims, works for some milliseconds, completes, and writes down what was taken.
VICTIM = """
import json, random, sys, time, http.client
port, token, log = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def call(path, body):
    c.request("POST", "/api/v1/work/" + path, json.dumps(body), {"Authorization": "Bearer " + token, "Content-Type": "application/json"})
    answer = c.getresponse()
    return answer.status, json.loads(answer.read())
c = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
while True:
    for claim in call("claim", {"types": ["kill"], "limit": 2, "waitMs": 5000})[1]["claims"]:
        time.sleep(random.random() * 0.03)
        status, _ = call(claim["lease"] + "/complete", {"result": claim["lease"]})
        with open(log, "a") as out:
            out.write(f"{claim['id']} {claim['lease']} {status}\\n")
"""


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def create(server, kind, count):
    connection = server.connect()
    body = {"name": "work", "type": kind, "start": True}
    return [server.call("POST", "/tasks", body, connection)["task"]["id"] for _ in range(count)]


def request(path, body):
    text = json.dumps(body)
    return (f"POST /api/v1/work/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}").encode()


def answer(connection):
    """The body of an answer that says its length."""
    read = b""
    while b"\r\n\r\n" not in read:
        read += connection.recv(65536)
    head, _, body = read.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), read
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return body


def work_off(port):
    """One connection of a worker that does nothing but claim and complete, with as little Python as it takes."""
    claim, count = request("claim", {"types": ["fast"], "limit": 20}), 0
    begin, end = request("LEASE/complete", {}).split(b"LEASE")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while True:
            connection.sendall(claim)
            leases = [part[:36] for part in answer(connection).split(b'"lease":"')[1:]]
            if not leases:
                return count
            for lease in leases:
                connection.sendall(begin + lease + end)
                answer(connection)
            count += len(leases)


def work_off_all(port, connections, done):
    with concurrent.futures.ThreadPoolExecutor(connections) as pool:
        done.put(sum(pool.map(work_off, [port] * connections)))


def throughput(server, total, connections=16, processes=2):
    create(server, "fast", total)
    done = multiprocessing.Queue()
    arguments = (server.port, connections // processes, done)
    workers = [multiprocessing.Process(target=work_off_all, args=arguments) for _ in range(processes)]
    before, begun = cpu_seconds(server.pid), time.monotonic()
    [worker.start() for worker in workers]
    counts = [done.get() for _ in workers]
    took, spent = time.monotonic() - begun, cpu_seconds(server.pid) - before
    [worker.join() for worker in workers]
    assert sum(counts) == total, counts
    print(f"{total} claims and completions over {connections} connections: {total / took:,.0f} a second; "
          f"{spent / total * 1e6:.0f} µs of the server's CPU for each (the client, in Python, takes the rest)")


def waiting(server, count=1000, seconds=10):
    body = json.dumps({"types": ["fast"], "waitMs": 60000})
    held = []
    for _ in range(count):
        connection = server.connect()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        connection.request("POST", "/api/v1/work/claim", body, headers)
        held.append(connection)
    time.sleep(2)
    before = cpu_seconds(server.pid)
    time.sleep(seconds)
    share = (cpu_seconds(server.pid) - before) / seconds * 100
    print(f"{count} waiting claims: {share:.1f} % of a core, {server.number('Threads')} threads, {server.memory():.0f} MiB")
    [connection.close() for connection in held]


def victims(server, kills, folder, is_over):
    """Runs four workers, and kills one at a random moment, again and again, until all is over."""
    log = os.path.join(folder, "taken")
    script = [sys.executable, "-c", VICTIM, str(server.port), TOKEN, log]
    start = lambda: subprocess.Popen(script, stderr=subprocess.DEVNULL)
    workers, killed = [start() for _ in range(4)], 0
    while killed < kills or not is_over():
        time.sleep(random.random() * 0.1)
        if killed < kills:
            victim = random.randrange(4)
            workers[victim].send_signal(signal.SIGKILL)
            workers[victim].wait()
            workers[victim] = start()
            killed += 1
    for worker in workers:
        worker.kill()
        worker.wait()
    with open(log) as lines:
        return [line.split() for line in lines]


def check(taken):
    completed = {}
    for task, lease, status in taken:
        if status == "200":
            assert task not in completed, f"{task} was completed by {completed[task]} and {lease}"
            completed[task] = lease
    return completed


def kill_workers_of_tasks(server, kills, folder):
    ids = create(server, "kill", kills * 10)
    stats = lambda: server.call("GET", "/tasks/stats")["stats"]
    taken = victims(server, kills, folder, lambda: stats()["pending"] + stats()["running"] == 0)
    completed, lost = check(taken), 0
    for task in ids:
        now = server.call("GET", f"/tasks/{task}")["task"]
        if now["status"] == "failed":
            assert now["error"] == "its worker was lost" and task not in completed, now
            lost += 1
        else:
            assert now["status"] == "completed" and completed.get(task, now["result"]) == now["result"], now
    print(f"{kills} kills of workers, {len(ids)} tasks: {lost} failed as lost, the others were completed by one worker each")


def kill_workers_of_jobs(server, kills, folder, token):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def call(method, path, body=None):
        connection = server.connect()
        connection.request(method, "/api/v1" + path, body and json.dumps(body), headers)
        return json.loads(connection.getresponse().read())

    count = kills * 10
    ids = []
    for _ in range(count // 100):
        jobs = [{"type": "kill", "maxAttempts": 1}] * 100
        ids += [job["id"] for job in call("POST", "/jobs/bulk", {"jobs": jobs})["jobs"]]
    stats = lambda: call("GET", "/jobs/stats")["stats"]
    is_over = lambda: (now := stats())["pending"] + now["processing"] == 0
    completed = check(victims(server, kills, folder, is_over))
    end = stats()
    assert end["completed"] == len(ids), end
    for job in ids:
        result = call("GET", f"/jobs/{job}")["result"]
        assert completed.get(job, result) == result, job
    print(f"{kills} kills of workers, {len(ids)} jobs: all completed, each by one worker")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--binary", default=BINARY)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--jobs", action="store_true")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "executors.json")
        with open(file, "w") as out:
            json.dump(TYPES, out)
        variables = {"EXECUTORS": file, "WORKER_TOKEN": TOKEN, "MAX_CONNECTIONS": "2000",
                     "MAX_TASKS_PER_SESSION": "200000", "MAX_COMPLETED_TASKS": "200000", "MAX_FAILED_TASKS": "200000"}
        if options.jobs:
            variables |= {"STORAGE": "sqlite", "ENABLE_QUEUE": "true", "JWT_SECRET": SECRET, "JOB_LEASE_SECONDS": "2"}
            environment = dict(os.environ, **variables)
            token = subprocess.run([options.binary, "token", "--sub", "bench"], env=environment, cwd=folder,
                                   capture_output=True, text=True, check=True).stdout.strip()
            with Server(options.binary, **variables) as server:
                kill_workers_of_jobs(server, options.kills, folder, token)
            return
        with Server(options.binary, **variables) as server:
            throughput(server, 20_000)
            waiting(server)
            kill_workers_of_tasks(server, options.kills, folder)


if __name__ == "__main__":
    main()
