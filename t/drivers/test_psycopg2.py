# Copyright (c) pool_worker contributors

"""psycopg2, which sends every statement by the simple protocol."""

import io
import select
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
from psycopg2 import errors
from psycopg2.extras import execute_batch, execute_values

from scenarios import (CLIENTS, LONG_SLEEP, ROUNDS, SLEEPERS, TIMEOUT, WHO_AM_I, fails, moved,
                       run, same, scenario, true, until)


def connect(autocommit=False, **options):
    connection = psycopg2.connect("", **options)
    connection.autocommit = autocommit
    return closing(connection)


def execute(connection, sql, values=None):
    """Run a statement; its rows, if it returns any."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else None


def value(connection, sql, values=None):
    return execute(connection, sql, values)[0][0]


def ids(connection):
    return [row[0] for row in execute(connection, "SELECT id FROM item ORDER BY id")]


@scenario("transactions")
def transactions():
    with connect() as one, connect(autocommit=True) as other:
        execute(one, "INSERT INTO item VALUES (1, 'one')")
        same("not seen before the commit", ids(other), [])
        one.commit()
        same("seen after the commit", ids(other), [1])

        execute(one, "INSERT INTO item VALUES (2, 'two')")
        one.rollback()
        same("gone after a rollback", ids(one), [1])

        execute(one, "INSERT INTO item VALUES (3, 'three'); SAVEPOINT s")
        fails("an error is the statement's", errors.UniqueViolation,
              execute, one, "INSERT INTO item VALUES (1)")
        fails("and the transaction's", errors.InFailedSqlTransaction,
              execute, one, "SELECT 1")
        execute(one, "ROLLBACK TO s")
        execute(one, "INSERT INTO item VALUES (4, 'four')")
        one.commit()
        same("a savepoint keeps what was before it", ids(other), [1, 3, 4])

        moved("another backend after a transaction",
              [value(other, "SELECT pg_backend_pid()") for _ in range(4)])


@scenario("prepared statements")
def prepared_statements():
    with connect(autocommit=True) as one, connect(autocommit=True) as other:
        execute(one, "PREPARE add (int, int) AS SELECT $1 + $2")
        execute(other, "PREPARE add (text, text) AS SELECT $1 || $2")
        for number in range(4):
            same("a name means what its session says",
                 value(one, "EXECUTE add (%s, 1)", [number]), number + 1)
            same("in each session", value(other, "EXECUTE add ('a', 'b')"), "ab")
        same("it is in the list",
             execute(one, "SELECT name FROM pg_prepared_statements"), [("add",)])
        execute(one, "DEALLOCATE add")
        fails("it is gone after DEALLOCATE", errors.InvalidSqlStatementName,
              execute, one, "EXECUTE add (1, 1)")
        same("in that session only", value(other, "EXECUTE add ('c', 'd')"), "cd")


@scenario("cursors")
def cursors():
    with connect() as one, connect(autocommit=True) as other:
        with one.cursor("rows") as cursor:
            cursor.itersize = 3
            cursor.execute("SELECT generate_series(1, 10)")
            found = []
            for (number,) in cursor:
                found.append(number)
                value(other, "SELECT 1")
            same("a named cursor returns its rows in portions", found, list(range(1, 11)))
        one.commit()

        with one.cursor("held", withhold=True, scrollable=True) as cursor:
            cursor.execute("SELECT generate_series(1, 10)")
            one.commit()
            same("WITH HOLD outlives the commit", cursor.fetchmany(2), [(1,), (2,)])
            one.commit()
            value(other, "SELECT 1")
            cursor.scroll(-2)
            same("and can be scrolled afterwards", cursor.fetchmany(3), [(1,), (2,), (3,)])
        one.commit()
        same("nothing is left of them", execute(one, "SELECT name FROM pg_cursors"), [])


@scenario("copy")
def copy():
    with connect() as one, connect(autocommit=True) as other:
        with one.cursor() as cursor:
            cursor.copy_expert("COPY item FROM STDIN", io.StringIO("1\tone\n2\ttwo\n"))
            same("what is copied in is not seen before the commit", ids(other), [])
            one.commit()
            out = io.StringIO()
            cursor.copy_expert("COPY item TO STDOUT", out)
            same("what is copied in comes out", out.getvalue(), "1\tone\n2\ttwo\n")
            one.commit()
            fails("bad data is an error", errors.BadCopyFileFormat,
                  cursor.copy_expert, "COPY item FROM STDIN", io.StringIO("3\n"))
            one.rollback()
            lines = "".join(f"{number}\t{'x' * 100}\n" for number in range(3, 5003))
            cursor.copy_expert("COPY item FROM STDIN", io.StringIO(lines))
            one.commit()
            same("much data as well", value(other, "SELECT count(*) FROM item"), 5002)


@scenario("notify")
def notify():
    with connect(autocommit=True) as listener, connect(autocommit=True) as other:
        execute(listener, "LISTEN news")
        for number in range(3):
            execute(other, "SELECT pg_notify('news', %s)", [str(number)])
            select.select([listener], [], [], TIMEOUT)
            listener.poll()
            same("an idle client is notified",
                 [note.payload for note in listener.notifies], [str(number)])
            listener.notifies.clear()
        execute(listener, "UNLISTEN news")
        execute(other, "NOTIFY news")
        value(listener, "SELECT 1")
        same("but not after UNLISTEN", listener.notifies, [])


@scenario("cancel")
def cancel():
    with connect(application_name="sleeper") as sleeper, connect(autocommit=True) as other, \
            ThreadPoolExecutor(1) as thread:
        execute(sleeper, "INSERT INTO item VALUES (1)")
        sleeper.commit()
        sleep = thread.submit(execute, sleeper, LONG_SLEEP)
        until(lambda: value(other, SLEEPERS) == 1)
        sleeper.cancel()
        fails("the statement ends", errors.QueryCanceled, sleep.result, TIMEOUT)
        sleeper.rollback()
        same("and the session goes on", ids(sleeper), [1])


@scenario("pipeline")
def pipeline():
    with connect(autocommit=True) as one, one.cursor() as cursor:
        same("several statements in one message, the last answers",
             value(one, "INSERT INTO item VALUES (1); INSERT INTO item VALUES (2);"
                   "SELECT count(*) FROM item"), 2)
        execute_values(cursor, "INSERT INTO item (id) VALUES %s",
                       [(number,) for number in range(3, 13)], page_size=4)
        execute_batch(cursor, "UPDATE item SET word = %s WHERE id = %s",
                      [(str(number), number) for number in range(1, 13)], page_size=5)
        same("execute_values and execute_batch", value(one, "SELECT sum(word::int) FROM item"), 78)


@scenario("pipeline error")
def pipeline_error():
    with connect(autocommit=True) as one:
        fails("one of several statements fails", errors.DivisionByZero,
              execute, one, "INSERT INTO item VALUES (1); SELECT 1 / 0;"
              "INSERT INTO item VALUES (2)")
        same("then none has had an effect", ids(one), [])
        fails("except those before a COMMIT", errors.DivisionByZero,
              execute, one, "BEGIN; INSERT INTO item VALUES (1); COMMIT; SELECT 1 / 0;"
              "INSERT INTO item VALUES (2)")
        same("which are kept", ids(one), [1])


@scenario("settings")
def settings():
    with connect() as one, connect(autocommit=True) as other:
        execute(one, "SET work_mem = '1111kB'; SELECT set_config('drivers.mine', 'mine', false)")
        one.commit()
        execute(one, "SET work_mem = '2222kB'; SET LOCAL drivers.mine = 'local'")
        one.rollback()
        for _ in range(3):
            same("SET stays, unless it is rolled back", value(one, "SHOW work_mem"), "1111kB")
            same("set_config stays", value(one, "SHOW drivers.mine"), "mine")
            one.commit()
            same("others have the default", value(other, "SHOW work_mem"), "4MB")
        execute(one, "SET ROLE drivers_other; SET TIME ZONE 'Asia/Tokyo'")
        one.commit()
        value(other, "SELECT 1")
        same("SET ROLE", execute(one, "SELECT session_user::text, current_user::text"),
             [("drivers", "drivers_other")])
        same("the driver knows the time zone", one.get_parameter_status("TimeZone"), "Asia/Tokyo")
        same("and so does the server", value(one, "SHOW timezone"), "Asia/Tokyo")
        execute(one, "RESET ROLE; RESET ALL")
        one.commit()
        same("RESET ALL", value(one, "SHOW work_mem"), "4MB")
        one.commit()

        one.set_session(isolation_level="SERIALIZABLE", readonly=True)
        same("set_session: the isolation level",
             value(one, "SHOW transaction_isolation"), "serializable")
        fails("set_session: read only", errors.ReadOnlySqlTransaction,
              execute, one, "DELETE FROM item")
        one.rollback()
        one.set_client_encoding("LATIN1")
        value(other, "SELECT 1")
        same("set_client_encoding", execute(one, "SHOW client_encoding"), [("LATIN1",)])
        same("and what it is for", bytes(value(one, "SELECT convert_to(%s, 'UTF8')", ["é"])),
             "é".encode())


@scenario("startup")
def startup():
    with connect(autocommit=True, application_name="my name", client_encoding="LATIN1",
                 options="-c work_mem=3333kB -c drivers.mine=at\\ start") as one, \
            connect(autocommit=True) as other:
        for _ in range(3):
            same("application_name", value(one, "SHOW application_name"), "my name")
            same("client_encoding", value(one, "SHOW client_encoding"), "LATIN1")
            same("options", value(one, "SHOW work_mem"), "3333kB")
            same("options, of no module", value(one, "SHOW drivers.mine"), "at start")
            same("others have the default", value(other, "SHOW work_mem"), "4MB")
        execute(one, "SET work_mem = '1MB'")
        execute(one, "RESET work_mem")
        same("RESET goes back to them", value(one, "SHOW work_mem"), "3333kB")


@scenario("reconnect")
def reconnect():
    for number in range(ROUNDS):
        with connect() as one:
            # waits for the one before, if it still holds it
            execute(one, "SELECT pg_advisory_lock(1)")
            if value(one, "SHOW work_mem") != "4MB" or ids(one) != []:
                raise AssertionError(f"connection {number} has inherited something")
            execute(one, "SET work_mem = '1MB'; PREPARE p AS SELECT 1;"
                    "CREATE TEMPORARY TABLE t (i int)")
            one.commit()
            execute(one, "INSERT INTO item VALUES (1)")
    true("no connection finds what the one before has left", True)


class Client:
    """One of many: which makes its session different from all others."""

    def __init__(self, number):
        self.number = number
        self.connection = psycopg2.connect("", application_name=f"client {number}")
        self.backends = []
        execute(self.connection, f"SET work_mem = '{number + 100}kB';"
                f"PREPARE mine AS SELECT {number};"
                f"SELECT set_config('drivers.mine', 'value {number}', false)")
        self.connection.commit()

    def transaction(self):
        """Whether the session is in order."""
        execute(self.connection,
                f"SAVEPOINT s; SET work_mem = '{self.number + 200}kB'; ROLLBACK TO s")
        *me, backend = execute(self.connection, WHO_AM_I)[0]
        me.append(value(self.connection, "EXECUTE mine"))
        self.connection.commit()
        self.backends.append(backend)
        return me == [f"client {self.number}", f"{self.number + 100}kB", f"value {self.number}",
                      self.number]


@scenario("interleaved")
def interleaved():
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = list(threads.map(Client, range(CLIENTS)))
        rounds = [list(threads.map(Client.transaction, clients)) for _ in range(ROUNDS)]
        same("each client finds its own session", rounds, [[True] * CLIENTS] * ROUNDS)
        moved("sessions have moved", *(client.backends for client in clients))
        for client in clients:
            client.connection.close()


def empty_table():
    with connect(autocommit=True) as connection:
        execute(connection, "DELETE FROM item")


run(empty_table)
