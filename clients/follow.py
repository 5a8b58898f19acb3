#!/usr/bin/env python3
"""Starts a task, follows it live, prints its result: python3 clients/follow.py [http://localhost:3000]"""
import json
import sys
import uuid
from urllib.error import HTTPError
from urllib.request import Request, urlopen

API = (sys.argv[1:] or ["http://localhost:3000"])[0] + "/api/v1"
SESSION = f"python-{uuid.uuid4()}"


def call(path, body=None, **headers):
    headers |= {"X-App-Session": SESSION, "Content-Type": "application/json"}
    return urlopen(Request(API + path, body and json.dumps(body).encode(), headers), timeout=60)


try:
    batch = {"items": ["one", "two", "three", "four"], "itemDelayMs": 500}
    # With a key of its own, the request can be sent again without a second task.
    task = json.load(call("/demo/tasks/batch", batch, **{"Idempotency-Key": SESSION}))["task"]
    # One line of JSON a change; an empty one every 15 s keeps the connection awake.
    for line in filter(bytes.strip, call(f"/tasks/{task['id']}/events", Accept="application/x-ndjson")):
        now = json.loads(line)
        print(f"{now['progress']:>3} %  {now.get('currentStep', now['status'])}", flush=True)
    task = json.load(call(f"/tasks/{task['id']}"))["task"]
    print(task["status"], json.dumps(task.get("result") or task["error"]))
    sys.exit(task["status"] != "completed")
except OSError as error:
    sys.exit(json.load(error)["message"] if isinstance(error, HTTPError) else f"{API}: {error}")
