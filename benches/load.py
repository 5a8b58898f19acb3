#!/usr/bin/env python3
"""Requests per second of the release binary, beside a bare socket loop in the same run: the table of BENCHMARKS.md.

    cargo build --release && python3 benches/load.py [--binary PATH] [--prefill N]

Needs wrk and rustc on PATH, and a machine that does nothing else. Compare the ratios, not the rates: the rates are the
machine's as much as the server's.
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


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def wrk(seconds, pid, url, *options):
    """Requests a second, the 99th percentile of the latency in ms, and what a request cost `pid` in µs of CPU."""
    before = cpu_seconds(pid)
    command = ["wrk", "-t1", "-c16", "--latency", f"-d{seconds}s", *options, url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for trouble in ("Non-2xx", "Socket errors"):
        if trouble in out:
            print(f"warning: {url}\n{out}", file=sys.stderr)
            break
    slowest = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
    unit = {"us": 1e-3, "ms": 1, "s": 1e3}[slowest.group(2)]
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    count = int(re.search(r"(\d+) requests in", out).group(1))
    cost = (cpu_seconds(pid) - before) / count * 1e6
    return float(rate.group(1)), float(slowest.group(1)) * unit, cost


def machine(binary):
    """What the figures were taken on, and of."""

    def first_line(*command):
        out = subprocess.run(command, capture_output=True, text=True)
        return (out.stdout or out.stderr).splitlines()[0].strip()

    with open("/proc/cpuinfo") as cpus:
        model = re.search(r"model name\s*:\s*(.*)", cpus.read())
    wrk_version = first_line("wrk", "-v").split(" [")[0]
    return (
        f"{model.group(1) if model else 'unknown processor'}, {os.cpu_count()} cores, Linux {os.uname().release}; "
        f"{first_line(binary, '--version')}, {first_line('rustc', '--version')}, {wrk_version}; "
        f"load before the run {os.getloadavg()[0]:.1f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=BINARY, help="the server (default: the release build)")
    parser.add_argument("--prefill", type=int, default=0, metavar="N", help="create N pending tasks first")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=2, help="length of each measurement")
    args = parser.parse_args()
    for tool in ("wrk", "rustc"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is not on PATH")

    print(machine(args.binary) + "\n")
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
                measure(args, server, bare, lua)
        finally:
            stop(bare)


def measure(args, server, bare, lua):
    bare_url = f"http://127.0.0.1:{int(bare.stdout.readline())}"
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

    for _ in range(20):
        server.call("POST", "/tasks", BODY)
    session = ("-H", f"X-App-Session: {SESSION}")
    measures = {
        "bare loop": (bare.pid, f"{bare_url}/api/v1/tasks/{task}/status", *session),
        "status polls": (server.pid, f"{url}/{task}/status", *session),
        "lists of 20": (server.pid, f"{url}?limit=20", *session),
        "creations": (server.pid, url, "-s", lua),
    }
    results = {name: [] for name in measures}
    for _ in range(args.rounds):
        # Round by round, for machines drift: each is held against the bare loop of the same round.
        for name, measure in measures.items():
            results[name].append(wrk(args.seconds, *measure))

    print("| | requests/s | of the bare loop | its range | p99, ms | CPU a request, µs |\n|---|--:|--:|--:|--:|--:|")
    for name, measured in results.items():
        rates, p99s, costs = zip(*measured)
        ratios = [rate / bare for rate, (bare, *_) in zip(rates, results["bare loop"])]
        print(
            f"| {name} | {statistics.median(rates):.0f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f}–{max(ratios):.2f} | {statistics.median(p99s):.2f} | {statistics.median(costs):.1f} |"
        )
    print(f"\nMemory at the end: {server.memory():.0f} MiB.")


if __name__ == "__main__":
    main()
