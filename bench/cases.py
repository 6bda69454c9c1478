"""The cases: one row each.  A new case is a new row here and, if something is to be
reached, a row in targets.py.
"""

from dataclasses import dataclass
from typing import Optional

import postgres
import scripts
from systems import NAMES

UNIX = "Throughput, Unix socket (transactions per second)"
TCP = "Throughput, TCP (transactions per second)"
RECONNECT = "A new connection for each transaction (transactions per second)"
IDLE = "Idle clients beside busy ones, Unix socket (transactions per second)"
PREPARED = "Prepared statements, pgbench -M prepared, Unix socket (transactions per second)"
EXTENDED = "Extended protocol, pgbench -M extended, Unix socket (transactions per second)"
SESSIONS = "Sessions with state of their own, Unix socket (transactions per second)"
LIMITS = "Time limits, Unix socket (transactions per second)"
BURSTS = "Requests all at once, a connection each (requests served per second)"

POOLERS = ("pool", "pgbouncer")
WITH_SESSIONS = ("direct", "pool")      # PgBouncer has none in transaction mode
OF_SMALL_SERVER = ("direct", "pool")


@dataclass(frozen=True)
class Case:
    """One load, and how it is put on each system."""
    name: str                           # what --cases matches
    table: str                          # heading of the table it is a row of
    label: str                          # its name in the table
    transport: str                      # "unix" or "tcp"
    clients: int
    direct_clients: Optional[int] = None    # if direct is compared with fewer
    systems: tuple = NAMES              # who takes part
    user: str = postgres.TRUSTED
    protocol: str = "simple"            # pgbench -M
    script: Optional[str] = None        # text of a pgbench script, else -S
    own_pgbench: bool = False           # a pgbench for each client
    own_names: bool = False             # and for each of them an application_name
    reconnect: bool = False             # pgbench -C
    idle_clients: int = 0               # held beside the load
    cpu: bool = False                   # CPU time per transaction is a result
    fairness: bool = False              # so are transactions per client: logs all of them
    latency: bool = True                # so are p50 and p99
    needs_prepared: bool = False        # a PgBouncer that follows prepared statements
    bursts: bool = False                # requests in waves, at a server of its own

    def clients_of(self, system_name):
        """How many clients this case has on a system."""
        if system_name == "direct" and self.direct_clients is not None:
            return self.direct_clients
        return self.clients

    def log_rate(self):
        """The share of transactions that pgbench logs, the same for every system;
        0 for no log."""
        if self.fairness:
            return 1.0
        return 0.2 if self.latency else 0


CASES = (
    Case("unix-1", UNIX, "1 client", "unix", 1),
    Case("unix-4", UNIX, "4 clients", "unix", 4),
    Case("unix-64", UNIX, "64 clients", "unix", 64, cpu=True),
    Case("unix-1000", UNIX, "1000 clients", "unix", 1000, direct_clients=4,
         fairness=True),

    Case("tcp-1", TCP, "1 client", "tcp", 1),
    Case("tcp-4", TCP, "4 clients", "tcp", 4),
    Case("tcp-64", TCP, "64 clients", "tcp", 64, cpu=True),
    Case("tcp-1000", TCP, "1000 clients", "tcp", 1000, direct_clients=4,
         fairness=True),

    Case("reconnect-trust", RECONNECT, "4 at once, trust, Unix socket", "unix", 4,
         reconnect=True, latency=False),
    Case("reconnect-scram", RECONNECT, "4 at once, SCRAM, TCP", "tcp", 4,
         user=postgres.WITH_PASSWORD, reconnect=True, latency=False),
    Case("reconnect-scram-1", RECONNECT, "4 at once, SCRAM of 1 iteration, TCP", "tcp",
         4, user=postgres.WITH_CHEAP_PASSWORD, reconnect=True, latency=False),

    Case("idle-0", IDLE, "4 busy, none idle", "unix", 4, systems=POOLERS),
    Case("idle-5000", IDLE, "4 busy beside 5000 idle", "unix", 4, systems=POOLERS,
         idle_clients=5000),

    Case("prepared-4", PREPARED, "4 clients, prepared", "unix", 4, protocol="prepared",
         needs_prepared=True),
    Case("prepared-64", PREPARED, "64 clients, prepared", "unix", 64,
         protocol="prepared", needs_prepared=True, cpu=True),

    Case("extended-4", EXTENDED, "4 clients, extended", "unix", 4, protocol="extended"),
    Case("extended-64", EXTENDED, "64 clients, extended", "unix", 64,
         protocol="extended", cpu=True),

    Case("sessions-equal", SESSIONS, "64 clients, equal settings and 20 equal statements",
         "unix", 64, systems=WITH_SESSIONS, script=scripts.sessions("7")),
    Case("sessions-own", SESSIONS, "64 clients, each its own settings and 20 statements",
         "unix", 64, systems=WITH_SESSIONS, script=scripts.sessions(":client_id")),
    Case("startup-equal", SESSIONS, "64 clients, equal startup packets", "unix", 64,
         own_pgbench=True, latency=False),
    Case("startup-own", SESSIONS, "64 clients, each its own application_name", "unix", 64,
         own_pgbench=True, own_names=True, latency=False),

    Case("limits-off-4", LIMITS, "4 clients, no limit", "unix", 4, systems=("pool",),
         user=postgres.UNLIMITED),
    Case("limits-on-4", LIMITS, "4 clients, all limits", "unix", 4, systems=("pool",),
         user=postgres.LIMITED),
    Case("limits-off-64", LIMITS, "64 clients, no limit", "unix", 64, systems=("pool",),
         user=postgres.UNLIMITED),
    Case("limits-on-64", LIMITS, "64 clients, all limits", "unix", 64, systems=("pool",),
         user=postgres.LIMITED),

    Case("bursts-100", BURSTS, "100 at once, 20 slots", "unix", 100,
         systems=OF_SMALL_SERVER, bursts=True),
    Case("bursts-150", BURSTS, "150 at once, 20 slots", "unix", 150,
         systems=OF_SMALL_SERVER, bursts=True),
    Case("bursts-400", BURSTS, "400 at once, 20 slots", "unix", 400,
         systems=OF_SMALL_SERVER, bursts=True),
)
