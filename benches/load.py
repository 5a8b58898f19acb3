#!/usr/bin/env python3
"""Requests per second of the release binary, beside a bare socket loop on the same machine.

    cargo build --release && python3 benches/load.py [--binary PATH] [--prefill N]

Needs wrk and rustc on PATH. Compare the ratios, not the rates: the rates are the machine's as much as the server's.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from common import BINARY, HERE, SESSION, Server, stop

BODY = {"name": "bench"}
CREATE_LUA = f"""
wrk.method = "POST"
wrk.body = '{{"name":"bench"}}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-App-Session"] = "{SESSION}"
"""


def prefill(server, total, connections=8):
    failures = []

    def work(count):
        try:
            connection = server.connect()
            for _ in range(count):
                server.call("POST", "/tasks", BODY, connection)
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
    parser.add_argument("--binary", default=BINARY, help="the server (default: the release build)")
    parser.add_argument("--prefill", type=int, default=0, metavar="N", help="create N pending tasks first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="length of each measurement")
    args = parser.parse_args()
    for tool in ("wrk", "rustc"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is not on PATH")

    with tempfile.TemporaryDirectory() as work:
        bare_binary = os.path.join(work, "bare_loop")
        source = os.path.join(HERE, "bare_loop.rs")
        subprocess.run(["rustc", "--edition", "2024", "-O", "-o", bare_binary, source], check=True)
        lua = os.path.join(work, "create.lua")
        with open(lua, "w") as file:
            file.write(CREATE_LUA)

        bare = subprocess.Popen([bare_binary, "0"], stdout=subprocess.PIPE, text=True)
        try:
            with Server(args.binary, MAX_TASKS_PER_SESSION="100000000", MAX_STORE_BYTES="8589934592") as server:
                measure(args, server, int(bare.stdout.readline()), lua)
        finally:
            stop(bare)


def measure(args, server, bare_port, lua):
    bare_url = f"http://127.0.0.1:{bare_port}"
    url = f"http://127.0.0.1:{server.port}/api/v1/tasks"
    task = server.call("POST", "/tasks", BODY)["task"]["id"]
    if args.prefill:
        before, began = server.memory(), time.monotonic()
        prefill(server, args.prefill)
        took, after = time.monotonic() - began, server.memory()
        print(
            f"prefill: {args.prefill} pending tasks in {took:.1f} s, RSS {before:.1f} -> {after:.1f} MiB, "
            f"{(after - before) * 2**20 / args.prefill:.0f} bytes a task\n"
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
    print(f"\nRSS at the end: {server.memory():.1f} MiB")


if __name__ == "__main__":
    main()
