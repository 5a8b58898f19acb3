#!/usr/bin/env python3
"""Starts a task, follows it live, prints its result. Python's standard library only.

    python3 clients/follow.py [http://localhost:3000]
"""
import json
import sys
import urllib.error
import urllib.request
import uuid

API = (sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000") + "/api/v1"
SESSION = f"python-{uuid.uuid4()}"
BATCH = {"items": ["one", "two", "three", "four"], "itemDelayMs": 500}


def call(method, path, body=None, **headers):
    headers |= {"X-App-Session": SESSION, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API + path, data, headers, method=method)
    return urllib.request.urlopen(request, timeout=60)


try:
    # With a key of its own, the request can be sent again without a second task.
    once = {"Idempotency-Key": str(uuid.uuid4())}
    task = json.load(call("POST", "/demo/tasks/batch", BATCH, **once))["task"]
    # One line of JSON a change; an empty one every 15 s keeps the connection awake.
    for line in call("GET", f"/tasks/{task['id']}/events", Accept="application/x-ndjson"):
        if line.strip():
            now = json.loads(line)
            print(f"{now['progress']:>3} %  {now.get('currentStep', now['status'])}", flush=True)
    task = json.load(call("GET", f"/tasks/{task['id']}"))["task"]
    print(task["status"], json.dumps(task.get("result") or task["error"]))
    sys.exit(task["status"] != "completed")
except urllib.error.HTTPError as refusal:
    sys.exit(json.load(refusal)["message"])
except OSError as error:
    sys.exit(f"{API}: {error}")
