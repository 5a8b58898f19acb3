#!/usr/bin/env python3
"""What counting costs: status polls and creations with METRICS=true beside the same with METRICS=false.

    cargo build --release && python3 benches/metrics.py [--rounds N] [--seconds N]

Needs wrk on PATH. Both servers run all the time and are asked in turns, for machines drift; the one that
counts is scraped every 15 s, as Prometheus would.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
import urllib.request

from common import BINARY, SESSION, Server
from load import BODY, CREATE_LUA, wrk

ROOM = {"MAX_TASKS_PER_SESSION": "100000000", "MAX_STORE_BYTES": "8589934592"}


def scrape(server):
    """Milliseconds that it took."""
    began = time.monotonic()
    urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics").read()
    return 1_000 * (time.monotonic() - began)


def scrape_at_times(server, stopped):
    while not stopped.wait(15):
        scrape(server)


def rate(args, server, url, *options):
    return wrk(args.seconds, server.pid, url, *options)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=BINARY, help="the server (default: the release build)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=3, help="length of each measurement")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, Server(args.binary, METRICS="false", **ROOM) as off, Server(
        args.binary, METRICS="true", **ROOM
    ) as on:
        lua = os.path.join(work, "create.lua")
        with open(lua, "w") as file:
            file.write(CREATE_LUA)
        session = ("-H", f"X-App-Session: {SESSION}")
        urls = {server: f"http://127.0.0.1:{server.port}/api/v1/tasks" for server in (off, on)}
        ids = {server: server.call("POST", "/tasks", BODY)["task"]["id"] for server in (off, on)}
        measures = {
            "status polls": lambda server: rate(args, server, f"{urls[server]}/{ids[server]}/status", *session),
            "creations": lambda server: rate(args, server, urls[server], "-s", lua),
        }
        stopped = threading.Event()
        scraper = threading.Thread(target=scrape_at_times, args=(on, stopped))
        scraper.start()
        try:
            print(f"{'':14}{'off/s':>10}{'on/s':>10}{'on/off':>10}{'lowest':>10}{'highest':>10}")
            for name, measure in measures.items():
                # In turns, each of them as often the first.
                pairs = []
                for i in range(args.rounds):
                    first, second = (off, on) if i % 2 else (on, off)
                    rates = {first: measure(first), second: measure(second)}
                    pairs.append((rates[off], rates[on]))
                ratios = [there / without for without, there in pairs]
                middle = [statistics.median(side) for side in zip(*pairs)]
                print(
                    f"{name:14}{middle[0]:10.0f}{middle[1]:10.0f}{statistics.median(ratios):10.3f}"
                    f"{min(ratios):10.3f}{max(ratios):10.3f}"
                )
        finally:
            stopped.set()
            scraper.join()
        tasks = on.call("GET", "/tasks/stats")["stats"]["total"]
        print(f"\na scrape over {tasks} tasks: {statistics.median(scrape(on) for _ in range(5)):.1f} ms")


if __name__ == "__main__":
    main()
