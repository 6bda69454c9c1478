"""What /proc says about processes: families, CPU time, memory, open files."""

import os

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Process:
    """The part of /proc/PID/stat that we need.

    CPU time includes children that were waited for, so that the sum over a family
    loses nothing when a member exits.
    """

    def __init__(self, pid):
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        self.pid = pid
        self.parent = int(fields[1])
        self.cpu_seconds = sum(int(n) for n in fields[11:15]) / TICKS_PER_SECOND


def all_processes():
    """Every process that can be read just now, by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found[int(name)] = Process(int(name))
            except (FileNotFoundError, ProcessLookupError):
                pass
    return found


def family(roots):
    """The processes with these pids and all their descendants."""
    processes = all_processes()
    members = {pid for pid in roots if pid in processes}
    grew = True
    while grew:
        children = {p.pid for p in processes.values() if p.parent in members}
        grew = not children <= members
        members |= children
    return [processes[pid] for pid in members]


def cpu_seconds(roots):
    """User and system time of whole families, so far."""
    return sum(process.cpu_seconds for process in family(roots))


def title(pid):
    """The command line, which servers rewrite to say who they are."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def open_files(pid):
    """How many descriptors a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid):
    """/proc/PID/smaps_rollup in bytes, by name; empty if the process is gone.

    It is exact, unlike /proc/PID/status, whose counters lag behind by CPU.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            lines = file.read().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(rest.split()[0]) * 1024
            for name, _, rest in (line.partition(":") for line in lines)}
