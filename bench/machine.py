"""On what all this was measured."""

import os
import platform
import re
import time

import pgbouncer
import postgres


def describe(systems, wanted, rounds, seconds):
    """Facts by name, in the order in which they are printed."""
    cluster = systems.by_name["direct"].cluster
    facts = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": first_match("/proc/cpuinfo", r"model name\s*: (.*)"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "load before the run": "%.2f" % os.getloadavg()[0],
        "PostgreSQL": cluster.installation.version(),
    }
    if "pool" in wanted:
        is_stand_in = systems.by_name["pool"].pooler is not None
        facts["pool_worker"] = ("NOT MEASURED, a second PgBouncer stands in for it"
                                if is_stand_in else cluster.pool_version())
    if "pgbouncer" in wanted:
        facts["PgBouncer"] = pgbouncer.version(pgbouncer.program())
        if systems.for_prepared not in (None, systems.by_name["pgbouncer"]):
            path = systems.for_prepared.pooler.path
            facts["PgBouncer for prepared statements"] = pgbouncer.version(path)
    facts["server settings"] = ", ".join(
        f"{name} = {value}" for name, value in cluster.settings().items()
        if not name.endswith((".port", ".listen_addresses"))) + ", otherwise defaults"
    facts["server connections"] = f"{postgres.POOL_SIZE} for the pool and for PgBouncer"
    if systems.of_small_server:
        facts["server for requests all at once"] = "another one, with " + ", ".join(
            f"{name} = {value}" for name, value in postgres.SMALL_SERVER.items())
    facts["load"] = f"pgbench -S, scale {postgres.SCALE}, on the same machine"
    facts["figures"] = f"medians of {rounds} interleaved rounds of {seconds} s"
    return facts


def memory():
    """The machine's memory, in words."""
    kilobytes = int(first_match("/proc/meminfo", r"MemTotal: *(\d+)"))
    return f"{kilobytes / 1024 / 1024:.0f} GB"


def first_match(path, pattern):
    """The first group of a pattern in a file, '?' if it is not there."""
    with open(path) as file:
        match = re.search(pattern, file.read())
    return match.group(1).strip() if match else "?"
