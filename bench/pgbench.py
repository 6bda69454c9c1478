"""One load: one pgbench, or one for each client.  Its arguments, and what its output
and its log say."""

import collections
import glob
import os
import re

import commands
import postgres

PATIENCE = 60                   # seconds beyond a run's end: then clients hang


class Run:
    """A load that has been started; result() waits for it.  To be used in a with
    statement, which leaves neither processes nor files behind."""

    def __init__(self, case, system, seconds):
        self.case = case
        self.seconds = seconds
        self.clients = case.clients_of(system.name)
        self.folder = system.cluster.folder
        self.log_prefix = os.path.join(self.folder, "transactions")
        self.script = os.path.join(self.folder, "script.sql")
        if case.script is not None:
            with open(self.script, "w") as file:
                file.write(case.script)
            commands.give_to_server_user(self.script)
        self.processes = []
        try:
            self.start(system)
        except BaseException:
            self.__exit__()
            raise

    def start(self, system):
        """Start all there is."""
        argv = self.arguments(system)
        environment = {"PGPASSWORD": system.cluster.password}
        for number in range(self.clients if self.case.own_pgbench else 1):
            if self.case.own_names:
                environment["PGAPPNAME"] = f"bench {number}"
            self.processes.append(commands.popen(argv, self.folder, environment))

    def arguments(self, system):
        """The command line."""
        case = self.case
        argv = [system.cluster.installation.program("pgbench"), "-n",
                "-h", system.host(case.transport), "-p", str(system.port),
                "-U", case.user, "-T", str(self.seconds), "-M", case.protocol,
                "-c", str(1 if case.own_pgbench else self.clients),
                "-j", str(self.threads())]
        if case.script is None:
            argv.append("-S")
        else:
            argv += ["-s", str(postgres.SCALE), "-D", "first=1", "-f", self.script]
        if case.reconnect:
            argv.append("-C")
        if case.log_rate():
            argv += ["-l", "--log-prefix", self.log_prefix,
                     "--sampling-rate", str(case.log_rate())]
        return argv + [postgres.DATABASE]

    def threads(self):
        """As many as there are CPUs; but a thread that connects does nothing else
        meanwhile, so clients that connect all the time need one each."""
        if self.case.own_pgbench:
            return 1
        if self.case.reconnect:
            return self.clients
        return min(self.clients, os.cpu_count())

    def result(self):
        """Wait for the end; the figures by name.  Raises if anything failed."""
        figures = collections.Counter()
        for process in self.processes:
            output = commands.finish(process, self.seconds + PATIENCE)
            figures.update(parse_output(output))
        figures = dict(figures)
        if self.case.log_rate():
            figures.update(parse_logs(self.log_prefix, self.clients, self.case))
        return figures

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
        for path in glob.glob(self.log_prefix + ".*") + glob.glob(self.script):
            os.unlink(path)


def parse_output(output):
    """pgbench's summary."""
    failed = number(output, r"number of failed transactions: (\d+)")
    if failed:
        raise commands.CommandError(f"pgbench: {failed:.0f} transactions failed")
    figures = {
        "tps": number(output, r"tps = ([\d.]+)"),
        "transactions": number(output, r"transactions actually processed: (\d+)"),
    }
    if not figures["transactions"]:
        raise commands.CommandError("pgbench: no transaction was processed")
    return figures


def number(output, pattern):
    """The number in a line of the summary."""
    match = re.search(pattern, output)
    if match is None:
        raise commands.CommandError(f"pgbench said nothing like '{pattern}': {output}")
    return float(match.group(1))


def parse_logs(prefix, clients, case):
    """Latencies in ms, and the transactions of the busiest and the idlest client."""
    latencies, counts = [], collections.Counter()
    for path in glob.glob(prefix + ".*"):
        with open(path) as log:
            for line in log:
                client, _, usecs, _ = line.split(" ", 3)
                latencies.append(int(usecs))
                counts[client] += 1
    if not latencies:
        raise commands.CommandError("pgbench logged no transaction")
    latencies.sort()
    figures = {"p50": percentile(latencies, 50) / 1000,
               "p99": percentile(latencies, 99) / 1000}
    if case.fairness:
        fewest = min(counts.values()) if len(counts) == clients else 0
        most = max(counts.values())
        figures.update(fewest=fewest, most=most, fairness=fewest / most)
    return figures


def percentile(ordered, percent):
    """The value below which percent of the values lie."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
