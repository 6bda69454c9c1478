"""What is compared: the server itself, the pool inside it, PgBouncer before it.

start_systems() brings all of them up in one throw-away folder; stop() ends them.
"""

import os
import re
import socket
import sys
import time

import commands
import pgbouncer
import postgres
import processes

NAMES = ("direct", "pool", "pgbouncer")


class System:
    """One way to reach the same database."""

    def __init__(self, name, port, cluster, pooler=None):
        self.name = name
        self.port = port
        self.cluster = cluster
        self.pooler = pooler            # a PgBouncer, or None

    def host(self, transport):
        """libpq's host for a transport."""
        return self.cluster.sockets if transport == "unix" else "127.0.0.1"

    def address(self):
        """The path of the Unix socket."""
        return os.path.join(self.cluster.sockets, f".s.PGSQL.{self.port}")

    def roots(self):
        """The processes whose families do this system's work."""
        roots = [self.cluster.process.pid]
        if self.pooler is not None:
            roots.append(self.pooler.process.pid)
        return roots

    def pooler_pid(self):
        """The process that holds the idle clients; None if there is no such thing."""
        if self.pooler is not None:
            return self.pooler.process.pid
        if self.name == "direct":
            return None
        for member in processes.family([self.cluster.process.pid]):
            if re.match(r"postgres: (\S+: )?pool worker\b", processes.title(member.pid)):
                return member.pid
        raise commands.CommandError("the server has no process 'pool worker'")


class Systems:
    """Everything that was started, in the order of starting."""

    def __init__(self):
        self.servers = []
        self.by_name = {}
        self.for_prepared = None        # the PgBouncer of cases that need a newer one
        self.of_small_server = {}       # by name, for cases with bursts

    def stop(self):
        """End everything, the last first."""
        while self.servers:
            self.servers.pop().stop()

    def of(self, case, name):
        """The system that a case is put on, None if there is none."""
        if case.bursts:
            return self.of_small_server.get(name)
        if name == "pgbouncer" and case.needs_prepared:
            return self.for_prepared
        return self.by_name[name]

    def complaints(self, count=15):
        """The last lines of every server's log, for a report of failure."""
        for server in self.servers:
            if os.path.exists(server.log):
                with open(server.log, errors="replace") as file:
                    lines = file.read().splitlines()[-count:]
                yield f"--- end of {os.path.basename(server.log)}"
                yield from lines


def start_systems(systems, folder, wanted, cases, stand_in=False):
    """Start what is wanted into systems; the server always.  If a case needs it, also a
    PgBouncer that follows prepared statements, if there is one, and the small server
    for bursts, if the pool is in it.  With stand_in a
    second PgBouncer plays the pool's part, by which the harness can be tried without
    the extension."""
    extension = "pool" in wanted and not stand_in
    if extension and not os.environ.get("PW_BINDIR"):
        say("building")
    installation = postgres.Installation(os.path.join(folder, "build"), extension)
    if extension and not installation.has_pool_worker():
        raise commands.CommandError(
            f"pool_worker is not installed in {installation.bindir}: install it there, "
            "unset PW_BINDIR, or leave out the pool with --systems direct,pgbouncer")
    say("creating a cluster with a pgbench database of scale %d" % postgres.SCALE)
    cluster = start_cluster(systems, installation, folder, extension)
    if extension and any(case.bursts for case in cases):
        start_small_server(systems, installation, folder)
    add(systems, System("direct", cluster.port, cluster))
    if extension:
        cluster.wait_until_answering(
            cluster.pool_port, postgres.TRUSTED, postgres.DATABASE, seconds=20)
        add(systems, System("pool", cluster.pool_port, cluster))
    elif "pool" in wanted:
        add(systems, start_pgbouncer(systems, cluster, "pool"))
    if "pgbouncer" in wanted:
        add(systems, start_pgbouncer(systems, cluster, "pgbouncer"))
        if any(case.needs_prepared for case in cases):
            systems.for_prepared = find_for_prepared(systems, cluster)


def start_small_server(systems, installation, folder):
    """A server with few connections, and the pool in it."""
    say("creating a second cluster, with few connections")
    cluster = start_cluster(systems, installation, folder, True, "small-",
                            postgres.SMALL_SERVER)
    cluster.wait_until_answering(
        cluster.pool_port, postgres.TRUSTED, postgres.DATABASE, seconds=20)
    systems.of_small_server = {
        name: System(name, port, cluster)
        for name, port in (("direct", cluster.port), ("pool", cluster.pool_port))}


def start_cluster(systems, installation, folder, extension, name="", more_settings=None):
    """A PostgreSQL server, with or without the pool, and its data."""
    sockets = os.path.join(folder, "s")
    os.makedirs(sockets, exist_ok=True)
    commands.give_to_server_user(sockets)
    cluster = postgres.Cluster(installation, folder, sockets, free_port(),
                               free_port() if extension else None, name, more_settings)
    cluster.create()
    systems.servers.append(cluster)
    cluster.start()
    cluster.fill()
    return cluster


def find_for_prepared(systems, cluster):
    """A PgBouncer that follows prepared statements; None, and a word, without one."""
    folder = os.path.join(cluster.folder, "newer-pgbouncer")
    try:
        path = pgbouncer.program_for_prepared(folder)
    except commands.CommandError as error:
        say(f"PgBouncer {pgbouncer.version(pgbouncer.program())} does not follow prepared "
            f"statements, and there is no newer one: nothing to compare with in the rows "
            f"about them ({error})")
        return None
    if path == pgbouncer.program():
        return systems.by_name["pgbouncer"]
    return start_pgbouncer(systems, cluster, "pgbouncer", path)


def start_pgbouncer(systems, cluster, name, path=None):
    """A PgBouncer under a system's name."""
    path = path or pgbouncer.program()
    port = free_port()
    pooler = pgbouncer.PgBouncer(cluster, f"{name}-{port}", port, path)
    systems.servers.append(pooler)
    pooler.start()
    return System(name, port, cluster, pooler)


def add(systems, system):
    """Make a running system known."""
    systems.by_name[system.name] = system


ports_given_out = set()


def free_port():
    """A TCP port that nobody has just now, below the range of outgoing connections."""
    start = 20000 + (os.getpid() * 7 + int(time.time())) % 10000
    for port in range(start, start + 2000):
        if port in ports_given_out:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports_given_out.add(port)
        return port
    raise commands.CommandError("no free TCP port was found")


def say(text):
    """Progress, for the one who waits."""
    print(text, file=sys.stderr, flush=True)
