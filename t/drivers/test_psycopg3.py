# Copyright (c) pool_worker contributors

"""psycopg 3, which prepares every statement on its first use here, and has a
pipeline mode."""

import select
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg import errors, sql

from scenarios import (CLIENTS, LONG_SLEEP, ROUNDS, SLEEPERS, TIMEOUT, WHO_AM_I, fails, moved,
                       run, same, scenario, true, until)


def connect(autocommit=False, **options):
    return psycopg.connect("", autocommit=autocommit, prepare_threshold=0, **options)


def rows(connection, query, values=None, **options):
    return connection.execute(query, values, **options).fetchall()


def value(connection, query, values=None, **options):
    return rows(connection, query, values, **options)[0][0]


def ids(connection):
    return [row[0] for row in rows(connection, "SELECT id FROM item ORDER BY id")]


@scenario("transactions")
def transactions():
    with connect() as one, connect(autocommit=True) as other:
        one.execute("INSERT INTO item VALUES (1, 'one')")
        same("not seen before the commit", ids(other), [])
        one.commit()
        same("seen after the commit", ids(other), [1])

        one.execute("INSERT INTO item VALUES (2, 'two')")
        one.rollback()
        same("gone after a rollback", ids(one), [1])

        one.execute("INSERT INTO item VALUES (3, 'three')")
        try:
            with one.transaction():
                fails("an error is the statement's", errors.UniqueViolation,
                      one.execute, "INSERT INTO item VALUES (1)")
                fails("and the transaction's", errors.InFailedSqlTransaction,
                      one.execute, "SELECT 1")
                raise psycopg.Rollback
        finally:
            one.execute("INSERT INTO item VALUES (4, 'four')")
        one.commit()
        same("a savepoint keeps what was before it", ids(other), [1, 3, 4])

        moved("another backend after a transaction",
              [value(other, "SELECT pg_backend_pid()") for _ in range(4)])


@scenario("prepared statements")
def prepared_statements():
    with connect() as one, connect(autocommit=True) as other:
        for number in range(4):
            same("the first statement of one", value(one, "SELECT %s + 1", [number]), number + 1)
            same("the first statement of the other",
                 value(other, "SELECT 'a' || %s::text", [number]), f"a{number}")
            one.commit()
        same("a session has its own",
             [name for name, in rows(one, "SELECT name FROM pg_prepared_statements ORDER BY name",
                                        prepare=False)],
             ["_pg3_0"])
        same("another type is another statement", value(one, "SELECT %s + 1", [1 << 40]),
             (1 << 40) + 1)
        one.commit()

        one.prepared_max = 2
        for _ in range(2):
            for number in range(5):
                same("the driver deallocates what is too many",
                     value(one, sql.SQL("SELECT {} + %s").format(number), [1]), number + 1)
                one.commit()
        same("and has not many left",
             value(one, "SELECT count(*) FROM pg_prepared_statements", prepare=False), 2)
        one.rollback()

        other.execute("SELECT * FROM item")
        fails("an error leaves the statement as it is", errors.DivisionByZero,
              other.execute, "SELECT 1 / %s", [0])
        same("so that it can be used again", value(other, "SELECT 1 / %s", [1]), 1)


@scenario("cursors")
def cursors():
    with connect() as one, connect(autocommit=True) as other:
        with one.cursor("rows") as cursor:
            cursor.itersize = 3
            cursor.execute("SELECT generate_series(1, %s)", [10])
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
        same("nothing is left of them",
             rows(one, "SELECT name FROM pg_cursors WHERE name <> ''"), [])


@scenario("copy")
def copy():
    with connect() as one, connect(autocommit=True) as other, one.cursor() as cursor:
        with cursor.copy("COPY item FROM STDIN") as data:
            data.write_row((1, "one"))
            data.write_row((2, None))
        same("what is copied in is not seen before the commit", ids(other), [])
        one.commit()
        with cursor.copy("COPY item TO STDOUT (FORMAT binary)") as data:
            data.set_types(["int4", "text"])
            same("what is copied in comes out", list(data.rows()), [(1, "one"), (2, None)])
        one.commit()

        def copy_in(rows):
            with cursor.copy("COPY item FROM STDIN") as data:
                for row in rows:
                    data.write_row(row)

        fails("bad data is an error", errors.BadCopyFileFormat, copy_in, [(3,)])
        one.rollback()
        # its own since psycopg 3.2
        fails("so is an error of the client's", (errors.QueryCanceled, ZeroDivisionError), copy_in,
              ((6 // number, None) for number in (1, 0)))
        one.rollback()
        copy_in((number, "x" * 100) for number in range(3, 5003))
        one.commit()
        same("much data as well", value(other, "SELECT count(*) FROM item"), 5002)


@scenario("notify")
def notify():
    with connect(autocommit=True) as listener, connect(autocommit=True) as other:
        listener.execute("LISTEN news")
        for number in range(3):
            other.execute("SELECT pg_notify('news', %s)", [str(number)])
            notes = listener.notifies()
            heard = select.select([listener], [], [], TIMEOUT)[0] and next(notes).payload
            same("an idle client is notified", heard, str(number))
            notes.close()
        heard = []
        listener.add_notify_handler(heard.append)
        listener.execute("UNLISTEN news")
        other.execute("NOTIFY news")
        value(listener, "SELECT 1")
        same("but not after UNLISTEN", heard, [])


@scenario("cancel")
def cancel():
    with connect(application_name="sleeper") as sleeper, connect(autocommit=True) as other, \
            ThreadPoolExecutor(1) as thread:
        sleeper.execute("INSERT INTO item VALUES (1)")
        sleeper.commit()
        sleep = thread.submit(sleeper.execute, LONG_SLEEP)
        until(lambda: value(other, SLEEPERS) == 1)
        sleeper.cancel()
        fails("the statement ends", errors.QueryCanceled, sleep.result, TIMEOUT)
        sleeper.rollback()
        same("and the session goes on", ids(sleeper), [1])


@scenario("pipeline")
def pipeline():
    with connect(autocommit=True) as one:
        with one.pipeline() as line:
            cursors = [one.execute("SELECT %s", [number]) for number in range(100)]
            line.sync()
            one.execute("SELECT set_config('drivers.mine', 'piped', false)")
            same("a hundred answers, each to its question",
                 [cursor.fetchone()[0] for cursor in cursors], list(range(100)))
            with one.transaction():
                one.execute("INSERT INTO item VALUES (%s)", [1])
                one.execute("INSERT INTO item VALUES (%s)", [2])
            line.sync()
            same("a transaction in it", ids(one), [1, 2])
            same("a setting in it", value(one, "SHOW drivers.mine"), "piped")
        with one.cursor() as cursor:
            cursor.executemany("INSERT INTO item VALUES (%s) RETURNING id",
                               [(number,) for number in range(3, 13)], returning=True)
            found = [cursor.fetchone()[0]]
            while cursor.nextset():
                found.append(cursor.fetchone()[0])
        same("executemany", found, list(range(3, 13)))


@scenario("pipeline error")
def pipeline_error():
    def broken(connection):
        with connection.pipeline() as line:
            connection.execute("INSERT INTO item VALUES (%s)", [1])
            line.sync()
            connection.execute("INSERT INTO item VALUES (%s)", [2])
            connection.execute("SELECT 1 / %s", [0])
            connection.execute("INSERT INTO item VALUES (%s)", [3])

    with connect(autocommit=True) as one:
        fails("one statement fails", errors.DivisionByZero, broken, one)
        same("what is between two syncs has no effect then", ids(one), [1])
        with one.pipeline():
            same("the session goes on", value(one, "SELECT 1 / %s", [1]), 1)


@scenario("settings")
def settings():
    with connect() as one, connect(autocommit=True) as other:
        one.execute("SET work_mem = '1111kB'")
        one.execute("SELECT set_config('drivers.mine', %s, false)", ["mine"])
        one.commit()
        one.execute("SET work_mem = '2222kB'")
        one.execute("SET LOCAL drivers.mine = 'local'")
        one.rollback()
        for _ in range(3):
            same("SET stays, unless it is rolled back", value(one, "SHOW work_mem"), "1111kB")
            same("set_config stays", value(one, "SHOW drivers.mine"), "mine")
            one.commit()
            same("others have the default", value(other, "SHOW work_mem"), "4MB")
        one.execute("SET ROLE drivers_other")
        one.execute("SET TIME ZONE 'Asia/Tokyo'")
        one.commit()
        value(other, "SELECT 1")
        same("SET ROLE", rows(one, "SELECT session_user::text, current_user::text"),
             [("drivers", "drivers_other")])
        same("the driver knows the time zone", one.info.timezone.key, "Asia/Tokyo")
        same("and so does the server", value(one, "SHOW timezone"), "Asia/Tokyo")
        one.execute("RESET ROLE")
        one.execute("RESET ALL")
        one.commit()
        same("RESET ALL", value(one, "SHOW work_mem"), "4MB")
        one.commit()

        one.execute("SET client_encoding = 'LATIN1'")
        one.commit()
        value(other, "SELECT 1")
        same("the driver knows the encoding", one.info.encoding, "iso8859-1")
        same("and so does the server", value(one, "SELECT convert_to(%s, 'UTF8')", ["é"]),
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
        one.execute("SET work_mem = '1MB'")
        one.execute("RESET work_mem")
        same("RESET goes back to them", value(one, "SHOW work_mem"), "3333kB")


@scenario("reconnect")
def reconnect():
    for number in range(ROUNDS):
        one = connect()
        # waits for the one before, if it still holds it
        one.execute("SELECT pg_advisory_lock(1)")
        if value(one, "SHOW work_mem") != "4MB" or ids(one) != []:
            raise AssertionError(f"connection {number} has inherited something")
        one.execute("SET work_mem = '1MB'")
        one.execute("CREATE TEMPORARY TABLE t (i int)")
        one.commit()
        one.execute("INSERT INTO item VALUES (1)")
        one.close()
    true("no connection finds what the one before has left", True)


class Client:
    """One of many: which makes its session different from all others."""

    def __init__(self, number):
        self.number = number
        self.connection = connect(application_name=f"client {number}")
        self.backends = []
        self.connection.execute(f"SET work_mem = '{number + 100}kB'")
        self.connection.execute("SELECT set_config('drivers.mine', %s, false)",
                [f"value {number}"])
        self.connection.commit()

    def transaction(self):
        """Whether the session is in order."""
        with self.connection.transaction():
            with self.connection.transaction(force_rollback=True):
                self.connection.execute(f"SET work_mem = '{self.number + 200}kB'")
            *me, backend = rows(self.connection, WHO_AM_I)[0]
            # the third of each client's prepared statements, of the same name in all
            me.append(value(self.connection, f"SELECT {self.number} + %s", [1]))
        self.backends.append(backend)
        return me == [f"client {self.number}", f"{self.number + 100}kB", f"value {self.number}",
                      self.number + 1]


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
        connection.execute("DELETE FROM item")


run(empty_table)
