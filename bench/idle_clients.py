"""Thousands of idle clients, held by a process of their own.

Each one logs in (trust), runs one query, as a client in a framework's pool has done,
and then says nothing any more.  The process sleeps while it holds them.

As a program: idle_clients.py SOCKET-PATH USER DATABASE COUNT
It prints `ready` when all are idle, holds them until its standard input ends, and then
prints `kept`, or fails if one of them was closed or sent something meanwhile.
"""

import os
import selectors
import socket
import struct
import subprocess
import sys
import threading

AT_ONCE = 32                    # logins in flight
PROTOCOL_3_0 = 196608
LOGIN_TIMEOUT = 60              # seconds, for all of them together


class HoldError(Exception):
    """The idle clients could not be opened, or did not stay."""


class IdleClients:
    """The holder seen from the harness; use it in a with statement."""

    def __init__(self, path, user, database, count):
        self.argv = [sys.executable, "-B", os.path.abspath(__file__),
                     path, user, database, str(count)]
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True)
        watchdog = threading.Timer(LOGIN_TIMEOUT, self.process.kill)
        watchdog.start()
        try:
            if self.process.stdout.readline().strip() != "ready":
                _, err = self.process.communicate()
                raise HoldError("idle clients: "
                                + (err.strip() or f"no login within {LOGIN_TIMEOUT} s"))
        finally:
            watchdog.cancel()
        return self

    def __exit__(self, kind, error, trace):
        out, err = self.process.communicate()
        if kind is None and "kept" not in out:
            raise HoldError("idle clients: " + err.strip())


class Client:
    """One connection on its way to idleness."""

    def __init__(self, path, user, database):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LOGIN_TIMEOUT)
        self.socket.connect(path)
        self.received = b""
        self.readies = 0
        self.socket.sendall(startup_packet(user, database))

    def advance(self):
        """Read what came; return True once the client has become idle."""
        data = self.socket.recv(8192)
        if not data:
            raise HoldError("closed by the server at login")
        self.received += data
        while len(self.received) >= 5:
            kind, length = struct.unpack("!ci", self.received[:5])
            if len(self.received) < 1 + length:
                break
            if kind == b"E":
                raise HoldError(error_text(self.received[5:1 + length]))
            self.received = self.received[1 + length:]
            if kind == b"Z":
                self.readies += 1
                if self.readies == 1:
                    self.socket.sendall(query_message("SELECT 1"))
        return self.readies == 2


def startup_packet(user, database):
    """The first packet of a connection."""
    names = ("user", user, "database", database)
    body = b"".join(name.encode() + b"\0" for name in names) + b"\0"
    return struct.pack("!ii", 8 + len(body), PROTOCOL_3_0) + body


def query_message(sql):
    """A simple query."""
    body = sql.encode() + b"\0"
    return b"Q" + struct.pack("!i", 4 + len(body)) + body


def error_text(body):
    """The human part of an ErrorResponse."""
    fields = {part[:1]: part[1:].decode(errors="replace")
              for part in body.split(b"\0") if part}
    return fields.get(b"M", "error without a message")


def open_all(path, user, database, count):
    """Open count clients, at most AT_ONCE of them logging in at a time."""
    idle, busy = [], selectors.DefaultSelector()
    while len(idle) < count:
        while len(busy.get_map()) < AT_ONCE and len(busy.get_map()) + len(idle) < count:
            client = Client(path, user, database)
            busy.register(client.socket, selectors.EVENT_READ, client)
        for key, _ in busy.select():
            if key.data.advance():
                busy.unregister(key.data.socket)
                idle.append(key.data.socket)
    return idle


def disturbed(idle):
    """How many of the idle sockets have something to read: an error or their end."""
    poll = selectors.PollSelector()
    for sock in idle:
        poll.register(sock, selectors.EVENT_READ)
    return len(poll.select(timeout=0))


def main():
    """Hold the clients until standard input ends."""
    path, user, database, count = sys.argv[1:]
    try:
        idle = open_all(path, user, database, int(count))
        print("ready", flush=True)
        sys.stdin.read()
        lost = disturbed(idle)
        if lost:
            raise HoldError(f"{lost} of {count} were closed or sent to while idle")
        print("kept", flush=True)
    except (HoldError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
