"""What is to be reached: one row each.

A target compares a result of the pool in one case with another result (of another
system, or in another case) or with a plain number.
"""

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Target:
    """One promise."""
    case: str                           # the case in which the pool is looked at
    words: str                          # what it is compared with, for the table
    at_least: Optional[float] = None    # one of these two
    at_most: Optional[float] = None
    against_system: Optional[str] = None    # None: no ratio, the result itself
    against_case: Optional[str] = None      # None: the same case
    metric: str = "tps"
    unit: str = ""

    def text(self):
        """The target as the table shows it."""
        sign, bound = (("≥", self.at_least) if self.at_least is not None
                       else ("≤", self.at_most))
        return f"{sign} {bound:g}{self.unit} {self.words}".rstrip()

    def missed_percent(self, value):
        """By how much a value misses; 0 or less if it does not."""
        if self.at_least is not None:
            return (1 - value / self.at_least) * 100
        return (value / self.at_most - 1) * 100

    def verdict(self, value):
        """The word for the last column."""
        if value is None:
            return "not measured"
        missed = self.missed_percent(value)
        return "yes" if missed <= 0 else f"missed by {missed:.1f} %"


def against(system, case, at_least, words=None):
    """A ratio of throughputs in one case."""
    return Target(case, words or "× " + system, at_least=at_least,
                  against_system=system)


TARGETS = (
    against("direct", "unix-1", 0.95),
    against("direct", "unix-4", 0.95),
    against("direct", "unix-64", 1.3, "× 64 direct"),
    against("pgbouncer", "unix-64", 2.0),
    against("direct", "unix-1000", 0.9, "× 4 direct"),
    against("pgbouncer", "unix-1000", 2.0),

    against("direct", "tcp-1", 0.95),
    against("direct", "tcp-4", 0.95),
    against("direct", "tcp-64", 1.3, "× 64 direct"),
    against("pgbouncer", "tcp-64", 2.0),
    against("direct", "tcp-1000", 0.9, "× 4 direct"),
    against("pgbouncer", "tcp-1000", 2.0),

    against("direct", "reconnect-trust", 12),
    against("pgbouncer", "reconnect-trust", 1.0),
    # With 4096 iterations pgbench's own key derivation is the limit for everybody; what
    # the pool can do for a password login shows with one iteration.
    against("direct", "reconnect-scram", 12),
    against("pgbouncer", "reconnect-scram", 1.0),
    against("direct", "reconnect-scram-1", 12),
    against("pgbouncer", "reconnect-scram-1", 1.0),

    Target("limits-on-4", "× no limit", at_least=0.98, against_system="pool",
           against_case="limits-off-4"),
    Target("limits-on-64", "× no limit", at_least=0.98, against_system="pool",
           against_case="limits-off-64"),

    against("direct", "bursts-100", 9),
    Target("bursts-100", "× direct", at_most=0.059, metric="p99", against_system="direct"),
    Target("bursts-100", "", at_least=100, metric="served", unit=" %"),
    Target("bursts-150", "", at_least=100, metric="served", unit=" %"),

    Target("idle-5000", "× none idle", at_least=0.95, against_system="pool",
           against_case="idle-0"),
    against("direct", "prepared-4", 0.95),
    against("pgbouncer", "prepared-64", 2.5),
    Target("sessions-own", "× equal sessions", at_least=0.6, against_system="pool",
           against_case="sessions-equal"),

    Target("idle-5000", "", at_most=2048, metric="idle_private", unit=" B"),
)
