"""Running programs.

Everything that is a server, and every pgbench, runs as an unprivileged user: the
caller's own, or SERVER_USER when the caller is root (PostgreSQL refuses to run as
root).  The harness itself stays who it is, so that it may read /proc and write its
results where it was told to.
"""

import os
import pwd
import resource
import shutil
import signal
import subprocess

SERVER_USER = os.environ.get("RUN_USER") or "postgres"


class CommandError(Exception):
    """A program could not be run, failed, or took too long."""


def raise_open_file_limit(needed):
    """Raise the limit on open files for us and all our children.

    The hard limit is what we take; root may raise that one too.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed and os.geteuid() == 0:
        hard = needed
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise CommandError(
            f"{needed} open files are needed, the hard limit is {hard}: raise it "
            "(ulimit -Hn), run as root, or choose smaller cases with --cases")


def unprivileged():
    """Popen's arguments for running as the server user."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam(SERVER_USER)
    except KeyError:
        raise CommandError(
            f"there is no user {SERVER_USER}: install PostgreSQL, or name another "
            "unprivileged user in RUN_USER") from None
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def give_to_server_user(path):
    """Make path the server user's own."""
    who = unprivileged()
    if who:
        os.chown(path, who["user"], who["group"])


def environment(extra=None):
    """Our environment without anything that would redirect a libpq client."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    env.update({"LC_ALL": "C"}, **(extra or {}))
    return env


def find_program(name, *folders):
    """The path of a program, sought in folders first, then on the PATH."""
    for folder in folders:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return path
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise CommandError(f"the program {name} was not found")
    return path


def run(argv, cwd, env=None, timeout=120, stdin=None):
    """Run to the end as the server user; return its output.  Raises on failure."""
    process = popen(argv, cwd, env)
    return finish(process, timeout, stdin)


def popen(argv, cwd, env=None):
    """Start a program whose output will be collected by finish()."""
    return subprocess.Popen(
        argv, cwd=cwd, env=environment(env), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **unprivileged())


def finish(process, timeout, stdin=None):
    """Wait for a program that popen() started; return its standard output."""
    name = os.path.basename(process.args[0])
    try:
        out, err = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise CommandError(f"{name} did not end within {timeout} s") from None
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise CommandError(f"{name} ended with {process.returncode}: {last_lines(err)}")
    return out


def start_server(argv, cwd, log_path):
    """Start a server in the background, in a session of its own, so that Control-C
    reaches only the harness and the order of stopping is ours."""
    with open(log_path, "ab") as log:
        return subprocess.Popen(
            argv, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True, **unprivileged())


def stop_server(process, *steps):
    """End a server: each step is (signal, seconds to wait); the last resort is KILL."""
    for number, seconds in (*steps, (signal.SIGKILL, 10)):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass


def last_lines(text, count=5):
    """The end of a program's complaint, on one line."""
    return " / ".join(text.strip().splitlines()[-count:])
