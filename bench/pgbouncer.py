"""A private PgBouncer in front of the private cluster.

Configured to be as good as it can be at what is measured: transaction pooling, as
many server connections as the pool has slots, the Unix socket towards the server, no
logging of logins, and the stored SCRAM verifier instead of a password, which it would
have to hash again for each login.
"""

import os
import re
import signal
import subprocess

import commands
import postgres

INI = """\
[databases]
* = host={server_sockets} port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir = {sockets}
auth_type = hba
auth_hba_file = {hba}
auth_file = {users}
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 12000
listen_backlog = 4096
log_connections = 0
log_disconnections = 0
log_pooler_errors = 1
log_stats = 0
"""

PREPARED_STATEMENTS_SINCE = (1, 21)
FETCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "newer-pgbouncer")
FETCH_SECONDS = 300


def program():
    """Debian's pgbouncer, or the one named by PGBOUNCER."""
    return os.environ.get("PGBOUNCER") or commands.find_program("pgbouncer")


def version(path):
    """A PgBouncer's version as a string."""
    out = subprocess.check_output([path, "--version"], text=True)
    return re.search(r"PgBouncer (\S+)", out).group(1)


def has_prepared_statements(path):
    """Whether this PgBouncer can follow protocol-level prepared statements."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version(path))[:2])
    return numbers >= PREPARED_STATEMENTS_SINCE


def program_for_prepared(folder):
    """program(), or if that is too old, a newer Debian's unpacked into a new folder.
    Raises if there is none."""
    if has_prepared_statements(program()):
        return program()
    if os.environ.get("PGBOUNCER") or os.environ.get("SKIP_PACKAGES"):
        raise commands.CommandError("PGBOUNCER or SKIP_PACKAGES is set")
    os.mkdir(folder)
    commands.give_to_server_user(folder)
    return commands.run([FETCH, folder], folder, timeout=FETCH_SECONDS).strip()


class PgBouncer:
    """One PgBouncer process, listening on the cluster's socket directory and on TCP."""

    def __init__(self, cluster, name, port, path):
        self.cluster = cluster
        self.path = path
        self.port = port
        self.folder = cluster.folder
        self.ini = os.path.join(self.folder, name + ".ini")
        self.hba = os.path.join(self.folder, name + ".hba")
        self.users = os.path.join(self.folder, name + ".users")
        self.log = os.path.join(self.folder, name + ".log")
        self.process = None

    def configure(self):
        """Write the three files; the users' needs a filled cluster."""
        text = INI.format(
            server_sockets=self.cluster.sockets, server_port=self.cluster.port,
            sockets=self.cluster.sockets, port=self.port, hba=self.hba,
            users=self.users, pool_size=postgres.POOL_SIZE)
        if has_prepared_statements(self.path):
            text += "max_prepared_statements = 200\n"
        users = "".join(f'"{role}" "{self.cluster.password_verifier(role)}"\n'
                        for role in postgres.ROLES)
        for path, content in ((self.ini, text), (self.hba, postgres.HBA),
                              (self.users, users)):
            with open(path, "w") as file:
                file.write(content)
            commands.give_to_server_user(path)

    def start(self):
        """Start it and wait until a query comes through."""
        self.configure()
        self.process = commands.start_server(
            [self.path, self.ini], self.folder, self.log)
        self.cluster.wait_until_answering(
            self.port, postgres.TRUSTED, postgres.DATABASE, seconds=20)

    def stop(self):
        """SIGTERM is PgBouncer's immediate shutdown."""
        if self.process is not None:
            commands.stop_server(self.process, (signal.SIGTERM, 10))
