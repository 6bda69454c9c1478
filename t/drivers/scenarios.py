# Copyright (c) pool_worker contributors

"""What the Python programs in this folder share.

A program is a list of functions, each marked with @scenario(name), and ends
with run().  Each fact becomes a line of TAP, "scenario: fact"; what the
environment says is described in t/060_drivers.pl.
"""

import asyncio
import os
import time
import traceback

CLIENTS = int(os.environ["DRIVER_CLIENTS"])
ROUNDS = int(os.environ["DRIVER_ROUNDS"])
SWITCHES = os.environ["DRIVER_SWITCHES"] == "1"
TIMEOUT = float(os.environ["DRIVER_TIMEOUT"])

# What a session says about itself, and what another says of its backend.
WHO_AM_I = """SELECT current_setting('application_name'), current_setting('work_mem'),
    current_setting('drivers.mine'), pg_backend_pid()"""
LONG_SLEEP = f"SELECT pg_sleep({2 * TIMEOUT})"
SLEEPERS = """SELECT count(*) FROM pg_stat_activity
    WHERE state = 'active' AND wait_event = 'PgSleep' AND application_name = 'sleeper'"""

_scenarios = []
_current = None
_count = 0


def scenario(name):
    """Register a function, which may be a coroutine function."""

    def register(function):
        _scenarios.append((name, function))
        return function

    return register


def true(fact, holds):
    global _count

    _count += 1
    print(f"{'ok' if holds else 'not ok'} {_count} - {_current}: {fact}", flush=True)
    return holds


def same(fact, got, expected):
    if not true(fact, got == expected):
        print(f"# got      {got!r}\n# expected {expected!r}", flush=True)


def fails(fact, error, function, *args, **kwargs):
    """The call raises this class of exception."""
    try:
        function(*args, **kwargs)
    except error:
        true(fact, True)
    else:
        true(f"{fact}: no error", False)


def moved(fact, *clients):
    """At least one client, each given as a list of backends, has had several."""
    if SWITCHES:
        true(fact, any(len(set(backends)) > 1 for backends in clients))


def until(function):
    """Call a function until it returns true."""
    deadline = time.monotonic() + TIMEOUT
    while not function():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.01)


def run(empty_table):
    """Run all scenarios.  One that raises has failed, and the next one is run."""
    global _current

    for _current, function in _scenarios:
        try:
            _call(empty_table)
            _call(function)
        except Exception:
            true("no unexpected error", False)
            for line in traceback.format_exc().splitlines():
                print(f"# {line}", flush=True)
    print(f"1..{_count}")


def _call(function):
    if asyncio.iscoroutinefunction(function):
        asyncio.run(function())
    else:
        function()
