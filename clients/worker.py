"""A worker: claims tasks and jobs of one type, and runs them: WORKER_TOKEN=… python3 worker.py http://localhost:3000 count"""
import json, os, socket, sys, threading, time, urllib.error, urllib.request
api, kind = sys.argv[1] + "/api/v1/work/", sys.argv[2]

class LeaseOver(Exception): """Cancelled, timed out, or taken by another worker: stop working on it."""

def call(path, body, wait=10):  # Posts until the server answers: it may be restarted meanwhile.
    headers = {"Authorization": "Bearer " + os.environ["WORKER_TOKEN"], "Content-Type": "application/json"}
    request = urllib.request.Request(api + path, json.dumps(body).encode(), headers)
    while True:
        try:
            return json.load(urllib.request.urlopen(request, timeout=wait))
        except urllib.error.HTTPError as refusal:
            said = json.load(refusal)
            if refusal.code == 410: raise LeaseOver(said["reason"])
            if refusal.code < 500 or said["code"] == "workers_disabled": sys.exit(said["message"])
        except OSError as error:
            print("waiting for the server:", error, file=sys.stderr)
        time.sleep(1)

def work(task, report):
    """Yours: the input is task["input"]; report as often as you like; what you return is the result."""
    given = task["input"] or {}
    steps = given.get("steps", 10)
    for step in range(steps):
        report(progress=step * 100 // steps, step=f"Step {step + 1} of {steps}", log=f"did {step + 1}")
        time.sleep(given.get("delayMs", 500) / 1000)
    return {"steps": steps}
while True:
    for task in call("claim", {"types": [kind], "worker": socket.gethostname(), "waitMs": 30000}, 40)["claims"]:
        lease, done = task["lease"], threading.Event()
        def beat():
            while not done.wait(task["leaseMs"] / 3000):  # An empty report keeps the lease while the work is silent.
                try: call(lease + "/progress", {})
                except LeaseOver: return
        threading.Thread(target=beat, daemon=True).start()
        try: call(lease + "/complete", {"result": work(task, lambda **said: call(lease + "/progress", said))})
        except LeaseOver as why: print("stopped:", why, file=sys.stderr)
        except Exception as error: call(lease + "/fail", {"error": str(error) or repr(error)})
        done.set()
