"""One measurement: one case on one system, once."""

import contextlib
import time

import bursts
import pgbench
import postgres
import processes
from commands import CommandError
from idle_clients import IdleClients
from systems import say

SETTLE = 0.3                    # seconds between idle clients' arrival and the load


def measure(case, system, seconds):
    """The figures of one run, by name.  Raises if anything in it failed."""
    if case.bursts:
        return bursts.run(case, system, seconds)
    with idle_clients(system, case.idle_clients), \
            pgbench.Run(case, system, seconds) as run:
        usage = cpu_share(system, seconds) if case.cpu else None
        figures = run.result()
    if usage is not None:
        figures["cpu"] = usage / figures["tps"] * 1e6
    return figures


def cpu_share(system, seconds):
    """CPU seconds that a system uses per second of a run that has just been started.

    Looked at in the middle of the run, when all clients are there and none has left,
    so that logins are not counted as transactions.
    """
    time.sleep(seconds / 3)
    begin, before = time.monotonic(), processes.cpu_seconds(system.roots())
    time.sleep(seconds / 2)
    after, end = processes.cpu_seconds(system.roots()), time.monotonic()
    return (after - before) / (end - begin)


@contextlib.contextmanager
def idle_clients(system, count):
    """Hold count idle clients of a system; afterwards wait until it has let them go."""
    if count == 0:
        yield
        return
    pid = system.pooler_pid()
    files = processes.open_files(pid)
    with IdleClients(system.address(), postgres.TRUSTED, postgres.DATABASE, count):
        time.sleep(SETTLE)
        yield
    deadline = time.monotonic() + 10
    while processes.open_files(pid) > files + 10:
        if time.monotonic() > deadline:
            say(f"warning: {system.name} still holds {processes.open_files(pid)} open "
                f"files 10 s after its idle clients have left, {files} before")
            break
        time.sleep(0.05)


def measure_idle_memory(system, count):
    """Bytes per idle client.  To be called when the pooler has not had many clients
    yet: memory that was used and freed would not grow again."""
    pooler = system.pooler_pid()
    before = read_memory(system, pooler)
    with idle_clients(system, count):
        after = read_memory(system, pooler)
    return {name: round((after[name] - before[name]) / count) for name in before}


def read_memory(system, pooler):
    """Memory of the pooler's own, of the other processes, and what is shared by them."""
    parts = {member.pid: processes.memory(member.pid)
             for member in processes.family(system.roots())}
    if not parts.get(pooler):
        raise CommandError(f"the pooler's process {pooler} is gone")
    return {
        "idle_private": parts[pooler]["Anonymous"],
        "idle_others": sum(part.get("Anonymous", 0)
                           for pid, part in parts.items() if pid != pooler),
        "idle_shared": sum(part.get("Pss_Shmem", 0) for part in parts.values()),
    }
