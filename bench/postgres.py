"""A private, throw-away PostgreSQL cluster with a pgbench database.

Five roles exist for the load: `bench`, `bench_limited` and `bench_unlimited`, who are
trusted, and two who must prove a password over TCP.  On the Unix socket all are trusted,
because that is the way by which the pool's slots and PgBouncer's server connections come
in.

Of the latter, `bench_scram` is what a user gets: 4096 rounds of key derivation, which
cost the client more than the whole login costs anybody else, so that pgbench is what
is measured.  `bench_scram_1` has a verifier with one round: the same exchange, and the
time is the server's.

`bench_limited` is held to every time limit that the pool has; none is ever reached.
`bench_unlimited` is held to none, not even those that are in force by default.
"""

import base64
import hashlib
import hmac
import os
import secrets
import signal
import subprocess
import time

import commands

HERE = os.path.dirname(os.path.abspath(__file__))
DATABASE = "bench"
TRUSTED = "bench"
WITH_PASSWORD = "bench_scram"
WITH_CHEAP_PASSWORD = "bench_scram_1"
LIMITED = "bench_limited"
UNLIMITED = "bench_unlimited"
ROLES = (TRUSTED, LIMITED, UNLIMITED, WITH_PASSWORD, WITH_CHEAP_PASSWORD)
LIMITS = {
    "statement_timeout": "5s",
    "transaction_timeout": "10s",
    "idle_in_transaction_timeout": "10s",
    "client_idle_timeout": "1min",
    "log_min_duration": "5s",
}
NO_LIMITS = {name: "-1" if name == "log_min_duration" else "0" for name in LIMITS}
SCALE = 10
POOL_SIZE = 4

HBA = f"""\
# TYPE  DATABASE  USER  ADDRESS        METHOD
local   all       all                  trust
host    all       {WITH_PASSWORD}  127.0.0.1/32  scram-sha-256
host    all       {WITH_CHEAP_PASSWORD}  127.0.0.1/32  scram-sha-256
host    all       all   127.0.0.1/32   trust
"""

# What differs from the server's defaults; it is printed with the results.
SETTINGS = {
    "shared_buffers": "512MB",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
}

# A server as it comes, where requests come all at once: more of them than it has
# connections.  Slots that nobody uses go, and leave theirs to direct clients.
SMALL_SERVER = {
    "max_connections": "100",
    "pool_worker.pool_size": "20",
    "pool_worker.slot_idle_timeout": "1s",
}


def find_bindir():
    """Where the system's PostgreSQL is: what PG_CONFIG or Debian's pg_config says."""
    pg_config = subprocess.check_output(
        ["bash", "-c", '. "$1" && find_pg_config', "bash",
         os.path.join(HERE, "..", "dev", "lib.sh")], text=True).strip()
    return subprocess.check_output([pg_config, "--bindir"], text=True).strip()


def build_private_installation(folder):
    """Build this tree into a private copy of PostgreSQL; return its programs' folder."""
    os.mkdir(folder)
    commands.give_to_server_user(folder)
    built = subprocess.run([os.path.join(HERE, "build"), folder], text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if built.returncode != 0:
        raise commands.CommandError("building failed:\n" + built.stdout)
    return built.stdout.splitlines()[-1]


class Installation:
    """PostgreSQL's programs, in PW_BINDIR, or where the system has them, or, to have
    the extension, in a private copy made in a new folder."""

    def __init__(self, folder, with_extension):
        self.bindir = os.environ.get("PW_BINDIR")
        if not self.bindir:
            self.bindir = (build_private_installation(folder) if with_extension
                           else find_bindir())

    def program(self, name):
        """The full path of one of PostgreSQL's programs."""
        return commands.find_program(name, self.bindir)

    def version(self):
        """The server's version, without the name of the program."""
        out = subprocess.check_output([self.program("postgres"), "--version"], text=True)
        return out.strip().replace("postgres (PostgreSQL) ", "")

    def has_pool_worker(self):
        """Whether the library is where this server would load it from.  Without a
        pg_config of its own nobody can say; then the server's log will."""
        pg_config = os.path.join(self.bindir, "pg_config")
        if not os.path.exists(pg_config):
            return True
        libdir = subprocess.check_output([pg_config, "--pkglibdir"], text=True).strip()
        return os.path.exists(os.path.join(libdir, "pool_worker.so"))


class Cluster:
    """The server: created by create(), running between start() and stop()."""

    def __init__(self, installation, folder, sockets, port, pool_port=None, name="",
                 more_settings=None):
        self.installation = installation
        self.folder = folder
        self.data = os.path.join(folder, name + "data")
        self.log = os.path.join(folder, name + "server.log")
        self.more_settings = more_settings or {}
        self.sockets = sockets
        self.port = port
        self.pool_port = pool_port
        self.password = secrets.token_hex(16)
        self.process = None

    def settings(self):
        """Everything that the server is told, by name."""
        settings = dict(SETTINGS)
        if self.pool_port is not None:
            settings.update({
                "shared_preload_libraries": "pool_worker",
                "pool_worker.listen_addresses": "127.0.0.1",
                "pool_worker.port": str(self.pool_port),
                "pool_worker.pool_size": str(POOL_SIZE),
            })
        settings.update({name: value for name, value in self.more_settings.items()
                         if self.pool_port is not None or "." not in name})
        return settings

    def create(self):
        """initdb and the configuration."""
        commands.run(
            [self.installation.program("initdb"), "-D", self.data, "-U", "postgres",
             "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"], self.folder)
        places = {"listen_addresses": "127.0.0.1", "port": str(self.port),
                  "unix_socket_directories": self.sockets}
        with open(os.path.join(self.data, "postgresql.conf"), "a") as conf:
            for name, value in {**places, **self.settings()}.items():
                conf.write(f"{name} = '{value}'\n")
        with open(os.path.join(self.data, "pg_hba.conf"), "w") as hba:
            hba.write(HBA)

    def start(self):
        """Start the server and wait until it answers."""
        self.process = commands.start_server(
            [self.installation.program("postgres"), "-D", self.data],
            self.folder, self.log)
        self.wait_until_answering(self.port, "postgres", "postgres")

    def stop(self):
        """Fast shutdown, then immediate."""
        if self.process is not None:
            commands.stop_server(
                self.process, (signal.SIGINT, 30), (signal.SIGQUIT, 15))

    def fill(self):
        """Make the roles and the pgbench tables, read them into memory."""
        cheap = scram_verifier(self.password, iterations=1)
        self.sql(f"CREATE ROLE {TRUSTED} LOGIN;"
                 f"CREATE ROLE {WITH_PASSWORD} LOGIN PASSWORD '{self.password}';"
                 f"CREATE ROLE {WITH_CHEAP_PASSWORD} LOGIN PASSWORD '{cheap}';"
                 f"CREATE ROLE {LIMITED} LOGIN;"
                 f"CREATE ROLE {UNLIMITED} LOGIN;" +
                 "".join(f"ALTER ROLE {role} SET pool_worker.{name} = '{value}';"
                         for role, limits in ((LIMITED, LIMITS), (UNLIMITED, NO_LIMITS))
                         for name, value in limits.items()),
                 database="postgres")
        self.sql(f"CREATE DATABASE {DATABASE} OWNER {TRUSTED}", database="postgres")
        commands.run(
            [self.installation.program("pgbench"), "-i", "-q", "-s", str(SCALE),
             "-h", self.sockets, "-p", str(self.port), "-U", TRUSTED, DATABASE],
            self.folder, timeout=300)
        self.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC;"
                 "SELECT count(*) FROM pgbench_accounts;")
        self.sql("CHECKPOINT")

    def password_verifier(self, role):
        """What the server stores for a role, '' for no password."""
        return self.sql("SELECT rolpassword FROM pg_authid "
                        f"WHERE rolname = '{role}'").strip()

    def sql(self, text, database=DATABASE, user="postgres", port=None):
        """Run SQL; return its unaligned output."""
        return commands.run(
            [self.installation.program("psql"), "-X", "-A", "-t", "-q",
             "-v", "ON_ERROR_STOP=1", "-h", self.sockets, "-p", str(port or self.port),
             "-U", user, "-d", database, "-c", text], self.folder)

    def pool_version(self):
        """The version of the extension."""
        return self.sql("SELECT default_version FROM pg_available_extensions "
                        "WHERE name = 'pool_worker'").strip()

    def wait_until_unused(self, seconds=30):
        """Wait until nobody else is connected, slots included."""
        deadline = time.monotonic() + seconds
        while self.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = "
                       "'client backend' AND pid <> pg_backend_pid()").strip() != "0":
            if time.monotonic() > deadline:
                raise commands.CommandError("somebody remains connected")
            time.sleep(0.1)

    def wait_until_answering(self, port, user, database, seconds=60):
        """Wait until a server answers a query at this port of our socket directory."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.sql("SELECT 1", database, user, port)
                return
            except commands.CommandError as error:
                if self.process.poll() is not None:
                    raise commands.CommandError(
                        f"the server did not start, see {self.log}") from error
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)


def scram_verifier(password, iterations):
    """What CREATE ROLE would store for a password, had it asked for the iterations."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt, stored_key, server_key = (
        base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${iterations}:{salt}${stored_key}:{server_key}"
