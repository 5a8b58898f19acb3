"""A TCP proxy in front of PostgreSQL whose network fails when told to."""

import socket
import threading

from jobs_common import owned


class Proxy:
    """Forwards; a silent connection stays open and carries nothing more, while new ones are served.

    The database's side of a silent connection is closed after `linger` seconds, where that is given, as its
    keep-alive would do."""

    def __init__(self, target, linger=None):
        self.target, self.linger = target, linger
        self.open, self.lock = [], threading.Lock()
        self.away, self.pattern = False, None
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self.listener.getsockname()[1]
        owned(self)
        threading.Thread(target=self.accept, daemon=True).start()

    def silence_all(self):
        for flow in self.flows():
            flow.silence()

    def silence_one(self, choice):
        """One that `choice` takes from the list."""
        if flows := [flow for flow in self.flows() if not flow.silent]:
            choice(flows).silence()

    def silence_next(self, *pattern):
        """The next connection whose client sends one of these texts; it is held back already."""
        self.pattern = [text.encode().lower() for text in pattern]

    def drop_all(self):
        for flow in self.flows():
            flow.close()

    def leave(self, away=True):
        """Refuses everybody, until called with False."""
        self.away = away
        if away:
            self.drop_all()

    def flows(self):
        with self.lock:
            return list(self.open)

    def is_met(self, data):
        """Each pattern silences a single connection."""
        with self.lock:
            if self.pattern and any(text in data.lower() for text in self.pattern):
                self.pattern = None
                return True
        return False

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                if self.away:
                    client.close()
                    continue
                Flow(self, client, socket.create_connection(("127.0.0.1", self.target)))
            except OSError:
                if self.listener.fileno() < 0:
                    return

    def close(self):
        self.listener.close()
        self.drop_all()


class Flow:
    """One connection: two threads, one for each direction."""

    def __init__(self, proxy, client, server):
        self.proxy, self.ends, self.silent = proxy, (client, server), False
        for end in self.ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with proxy.lock:
            proxy.open.append(self)
        for source, sink in (self.ends, self.ends[::-1]):
            threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    def pump(self, source, sink):
        try:
            while data := source.recv(65_536):
                if source is self.ends[0] and self.proxy.pattern and self.proxy.is_met(data):
                    self.silence()
                if self.silent:
                    return
                sink.sendall(data)
        except OSError:
            pass
        if not self.silent:
            self.close()

    def silence(self):
        self.silent = True
        if self.proxy.linger:
            timer = threading.Timer(self.proxy.linger, shut, [self.ends[1]])
            timer.daemon = True
            timer.start()

    def close(self):
        with self.proxy.lock:
            if self in self.proxy.open:
                self.proxy.open.remove(self)
        for end in self.ends:
            shut(end)
            end.close()


def shut(end):
    """Wakes who waits for it, which `close` alone does not."""
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
