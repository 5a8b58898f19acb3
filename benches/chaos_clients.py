"""The clients of `chaos.py`: what they ask for, what they were told, and how long it took."""

import contextlib
import json
import random
import threading
import time
import uuid
from collections import Counter

from jobs_common import JOBS, Always, bearer

CROWD, KEYS, REPEATS = bearer("crowd"), bearer("keys"), bearer("repeats")
KEY_COUNT = 12


def witness(chance, **more):
    """A short job mostly, a long one (up to 12 s) now and then."""
    steps, pause = chance.choice([(0, 0), (5, 20), (20, 20), (40, 50), (120, 100)])
    attempts = chance.choice([1, 3, 20])
    return {"type": "witness", "arguments": {"steps": steps, "stepMs": pause}, "maxAttempts": attempts, **more}


class Clients:
    """Counts and remembers, from several threads."""

    def __init__(self, front, seed):
        self.front, self.seed, self.lock = front, seed, threading.Lock()
        self.acknowledged, self.recent = set(), []
        self.cancelled, self.retried, self.unsure = set(), set(), set()
        self.answers, self.times = Counter(), []
        self.doubled_keys = set()
        self.sent_keys, self.answered_keys, self.differing = set(), {}, 0
        self.healed_at, self.in_outage, self.after, self.recoveries = None, False, "-", []

    def running(self):
        """All of them, for the length of a `with`."""
        stack = contextlib.ExitStack()
        for kind, count in (("single", 2), ("bulk", 1), ("keyed", 2), ("repeat", 2), ("meddle", 2), ("look", 1)):
            for number in range(count):
                chance = random.Random(f"{self.seed} {kind} {number}")
                stack.enter_context(Always(lambda kind=kind, chance=chance: self.once(kind, chance)))
        return stack

    def once(self, kind, chance):
        getattr(self, kind)(chance)
        time.sleep(chance.uniform(0.05, 0.4))

    def ask(self, method, path, body=None, headers=None):
        """Status and answer; no status where none came."""
        begun = time.monotonic()
        try:
            status, answer = self.front.ask(method, JOBS + path, body, headers, timeout=40)
        except OSError:
            status, answer = None, None
        with self.lock:
            self.times.append(time.monotonic() - begun)
            self.answers[status] += 1
            if method == "POST" and status == 201:
                self.added(begun)
        return status, answer

    def added(self, begun):
        if self.healed_at is not None and begun >= self.healed_at:
            self.recovered()

    def recovered(self):
        self.recoveries.append((time.monotonic() - self.healed_at, self.after))
        self.healed_at = None

    def outage_begins(self):
        """What has not recovered for long enough counts, too, whatever comes now."""
        with self.lock:
            if self.healed_at is not None and time.monotonic() - self.healed_at > 20:
                self.recovered()
            self.healed_at = None

    def outage_ends(self, kind):
        with self.lock:
            self.healed_at, self.after = time.monotonic(), kind

    def has_recovered(self):
        return self.healed_at is None

    def acknowledge(self, jobs):
        with self.lock:
            ids = [job["id"] for job in jobs]
            self.acknowledged.update(ids)
            self.recent = (self.recent + ids)[-60:]

    def single(self, chance):
        more = {"delaySec": chance.randint(1, 15)} if chance.random() < 0.3 else {}
        status, answer = self.ask("POST", "", witness(chance, **more), CROWD)
        if status == 201:
            self.acknowledge([answer])

    def bulk(self, chance):
        jobs = [witness(chance) for _ in range(chance.randint(1, 20))]
        status, answer = self.ask("POST", "/bulk", {"jobs": jobs}, CROWD)
        if status == 201:
            self.acknowledge(answer["jobs"])

    def keyed(self, chance):
        """Jobs of few keys: most additions find the one that is there."""
        job = witness(chance, uniqueKey=f"key {chance.randrange(KEY_COUNT)}")
        status, answer = self.ask("POST", "", job, KEYS)
        if status in (200, 201):
            with self.lock:
                self.acknowledged.add(answer["id"])

    def look(self, chance):
        """No two living jobs have one key: a page is one moment's truth."""
        status, page = self.ask("GET", "?status=pending,processing&limit=100", None, KEYS)
        if status != 200:
            return
        keys = Counter(job.get("uniqueKey", job["id"]) for job in page["jobs"])
        doubled = [key for key, count in keys.items() if count > 1]
        self.doubled_keys.update(doubled + ["too many"] * (len(page["jobs"]) > KEY_COUNT))

    def repeat(self, chance):
        """Sends one request until it is answered, and once more then."""
        key = str(uuid.UUID(int=chance.getrandbits(128)))
        body, headers = json.dumps(witness(chance)), {**REPEATS, "Idempotency-Key": key}
        self.sent_keys.add(key)
        answers = []
        for _ in range(10):
            status, answer = self.ask("POST", "", body, headers)
            if status == 201:
                answers.append(answer)
            if len(answers) == 2:
                break
            time.sleep(chance.uniform(0.1, 1))
        with self.lock:
            if answers:
                self.acknowledged.add(answers[0]["id"])
                self.answered_keys[key] = answers[0]["id"]
            self.differing += len(answers) == 2 and answers[0]["id"] != answers[1]["id"]

    def broken_repeats(self, jobs):
        """Answers that differ, and jobs that no key, or two of one key, account for."""
        there = sum(job["userId"] == "repeats" for job in jobs)
        beyond = max(0, there - len(self.sent_keys)) + max(0, len(self.answered_keys) - there)
        return self.differing + beyond

    def meddle(self, chance):
        """Cancels a job of the last seconds, and often retries it."""
        with self.lock:
            id = chance.choice(self.recent) if self.recent else None
        if id is None or chance.random() < 0.5:
            return
        status, _ = self.ask("POST", f"/{id}/cancel", {}, CROWD)
        if status == 200:
            self.cancelled.add(id)
        if status is None or chance.random() < 0.5:
            time.sleep(chance.choice([0, 0.1, 2]))
            self.unsure.add(id)
            self.retried.add(id)
            self.ask("POST", f"/{id}/retry", {}, CROWD)
