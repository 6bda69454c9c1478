"""Requests that come all at once, each with a connection of its own.

A wave is so many requests: all connect at the same moment, each logs in (trust), runs
one query and leaves.  When the last one has its answer or its error, the next wave
comes.  A request that is refused has failed and is not tried again, as with an
application that has no pool.

As a program: bursts.py SOCKET-PATH USER DATABASE REQUESTS SECONDS QUERY
It prints the figures by name, as JSON.
"""

import json
import math
import os
import selectors
import socket
import struct
import subprocess
import sys
import time

import commands
import postgres
from idle_clients import query_message, startup_packet

PATIENCE = 60                   # seconds beyond a run's end: then requests hang
TERMINATE = b"X\0\0\0\4"


def run(case, system, seconds):
    """The figures of waves of case.clients requests, by name."""
    if system.name == "direct":
        system.cluster.wait_until_unused()      # slots count as connections too
    argv = [sys.executable, "-B", os.path.abspath(__file__), system.address(), case.user,
            postgres.DATABASE, str(case.clients), str(seconds),
            "SELECT abalance FROM pgbench_accounts WHERE aid = 1"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    return json.loads(commands.finish(process, seconds + PATIENCE))


class Request:
    """One request from connect() to its end."""

    def __init__(self, path, startup, query):
        self.begin = time.monotonic()
        self.seconds = None             # until it was served; None if it was not
        self.query = query
        self.readies = 0
        self.received = b""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.sendall(startup)

    def advance(self):
        """Read what came; return True when this request has ended."""
        try:
            data = self.socket.recv(8192)
        except ConnectionError:
            data = b""
        self.received += data
        while len(self.received) >= 5:
            kind, length = struct.unpack("!ci", self.received[:5])
            if len(self.received) < 1 + length:
                break
            self.received = self.received[1 + length:]
            if kind == b"E":
                return True
            if kind == b"Z" and self.ready():
                return True
        return not data

    def ready(self):
        """The server waits for what comes next: the query, then the end."""
        self.readies += 1
        if self.readies == 1:
            self.socket.sendall(self.query)
            return False
        self.seconds = time.monotonic() - self.begin
        self.socket.sendall(TERMINATE)
        return True


def wave(path, startup, query, count):
    """Send count requests at once; return them when all have ended."""
    requests, busy = [], selectors.DefaultSelector()
    for _ in range(count):
        request = Request(path, startup, query)
        busy.register(request.socket, selectors.EVENT_READ, request)
        requests.append(request)
    while busy.get_map():
        for key, _ in busy.select():
            if key.data.advance():
                busy.unregister(key.data.socket)
                key.data.socket.close()
    return requests


def figures_of(requests, elapsed):
    """What the tables show."""
    served = sorted(r.seconds for r in requests if r.seconds is not None)
    if not served:
        raise commands.CommandError("no request was served")
    return {
        "tps": len(served) / elapsed,
        "p50": served[len(served) // 2] * 1000,
        "p99": served[math.ceil(len(served) * 0.99) - 1] * 1000,
        "served": 100 * len(served) / len(requests),
    }


def main():
    """Wave after wave, until the time is over."""
    path, user, database, count, seconds, query = sys.argv[1:]
    startup, query = startup_packet(user, database), query_message(query)
    requests, begin = [], time.monotonic()
    while time.monotonic() < begin + float(seconds):
        requests += wave(path, startup, query, int(count))
    print(json.dumps(figures_of(requests, time.monotonic() - begin)))


if __name__ == "__main__":
    main()
