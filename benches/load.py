#!/usr/bin/env python3
"""Requests per second of the release binary, beside a bare socket loop on the same machine.

    cargo build --release && python3 benches/load.py [--binary PATH] [--prefill N]

Needs wrk and rustc on PATH. Compare the ratios, not the rates: the rates are the machine's as much as the server's.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
SESSION = "bench"
HEADERS = {"X-App-Session": SESSION, "Content-Type": "application/json"}
BODY = '{"name":"bench"}'
CREATE_LUA = f"""
wrk.method = "POST"
wrk.body = '{BODY}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-App-Session"] = "{SESSION}"
"""


def default_binary():
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(HERE, "..", "target")
    return os.path.join(target, "release", "async-task-system")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_server(binary, cwd, port):
    env = dict(
        os.environ,
        HOST="127.0.0.1",
        PORT=str(port),
        LOG_LEVEL="warn",
        MAX_TASKS_PER_SESSION="100000000",
        MAX_STORE_BYTES="8589934592",
    )
    server = subprocess.Popen([os.path.realpath(binary)], cwd=cwd, env=env)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and server.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/api/v1/health")
            if connection.getresponse().status == 200:
                connection.close()
                return server
        except OSError:
            time.sleep(0.05)
    stop(server)
    sys.exit("the server did not come up")


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def create(connection):
    connection.request("POST", "/api/v1/tasks", BODY, HEADERS)
    response = connection.getresponse()
    answer = response.read()
    if response.status != 201:
        raise RuntimeError(f"creation answered {response.status}: {answer[:300]!r}")
    return json.loads(answer)["task"]["id"]


def prefill(port, total, connections=8):
    failures = []

    def work(count):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            for _ in range(count):
                create(connection)
        except Exception as failure:
            failures.append(failure)

    shares = [total // connections + (i < total % connections) for i in range(connections)]
    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(f"prefill: {failures[0]}")


def rss(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) * 1024


def wrk(seconds, url, *options):
    command = ["wrk", "-t1", "-c16", f"-d{seconds}s", *options, url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for trouble in ("Non-2xx", "Socket errors"):
        if trouble in out:
            print(f"warning: {url}\n{out}", file=sys.stderr)
            break
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=default_binary(), help="the server (default: the release build)")
    parser.add_argument("--prefill", type=int, default=0, metavar="N", help="create N pending tasks first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="length of each measurement")
    args = parser.parse_args()
    for tool in ("wrk", "rustc"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is not on PATH")
    if not os.path.isfile(args.binary):
        sys.exit(f"no server at {args.binary}: run `cargo build --release` or pass --binary")

    with tempfile.TemporaryDirectory() as work:
        bare_binary = os.path.join(work, "bare_loop")
        source = os.path.join(HERE, "bare_loop.rs")
        subprocess.run(["rustc", "--edition", "2024", "-O", "-o", bare_binary, source], check=True)
        lua = os.path.join(work, "create.lua")
        with open(lua, "w") as file:
            file.write(CREATE_LUA)

        processes = []
        try:
            bare = subprocess.Popen([bare_binary, "0"], stdout=subprocess.PIPE, text=True)
            processes.append(bare)
            bare_url = f"http://127.0.0.1:{int(bare.stdout.readline())}"

            port = free_port()
            server = start_server(args.binary, work, port)
            processes.append(server)
            url = f"http://127.0.0.1:{port}/api/v1/tasks"

            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            task = create(connection)
            connection.close()

            if args.prefill:
                before, began = rss(server.pid), time.monotonic()
                prefill(port, args.prefill)
                took, after = time.monotonic() - began, rss(server.pid)
                print(
                    f"prefill: {args.prefill} pending tasks in {took:.1f} s, "
                    f"RSS {before / 2**20:.1f} -> {after / 2**20:.1f} MiB, "
                    f"{(after - before) / args.prefill:.0f} bytes a task\n"
                )

            session = ("-H", f"X-App-Session: {SESSION}")
            measures = {
                "status polls": lambda: wrk(args.seconds, f"{url}/{task}/status", *session),
                "creations": lambda: wrk(args.seconds, url, "-s", lua),
            }
            bares, rates, ratios = [], {k: [] for k in measures}, {k: [] for k in measures}
            for _ in range(args.rounds):
                for name, measure in measures.items():
                    # Each is held against the bare loop of the same moment, for machines drift.
                    bares.append(wrk(args.seconds, f"{bare_url}/api/v1/tasks/{task}/status", *session))
                    rates[name].append(measure())
                    ratios[name].append(rates[name][-1] / bares[-1])

            print(f"{'':14}{'median/s':>10}{'lowest':>10}{'highest':>10}{'of bare':>10}")
            for name, values in {"bare loop": bares, **rates}.items():
                ratio = statistics.median(ratios.get(name, [1.0]))
                print(f"{name:14}{statistics.median(values):10.0f}{min(values):10.0f}{max(values):10.0f}{ratio:10.2f}")
            print(f"\nRSS at the end: {rss(server.pid) / 2**20:.1f} MiB")
        finally:
            for process in processes:
                stop(process)


if __name__ == "__main__":
    main()
