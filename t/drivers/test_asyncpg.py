# Copyright (c) pool_worker contributors

"""asyncpg, which prepares every query that has a result or arguments under a name, and keeps the
statements in a cache; what has neither goes by the simple protocol."""

import asyncio
import io

import asyncpg

from scenarios import (CLIENTS, LONG_SLEEP, ROUNDS, SLEEPERS, TIMEOUT, WHO_AM_I, moved, run,
                       same, scenario, true)


class connect:
    """A connection that is closed at the end of a block."""

    def __init__(self, statement_cache_size=100, **settings):
        self.options = dict(statement_cache_size=statement_cache_size, server_settings=settings)

    async def __aenter__(self):
        self.connection = await asyncpg.connect(**self.options)
        return self.connection

    async def __aexit__(self, *error):
        await self.connection.close()


async def fails(fact, error, awaitable):
    try:
        await awaitable
    except error:
        true(fact, True)
    else:
        true(f"{fact}: no error", False)


async def until_true(connection, query):
    async def wait():
        while not await connection.fetchval(query):
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), TIMEOUT)


async def ids(connection):
    return [row["id"] for row in await connection.fetch("SELECT id FROM item ORDER BY id")]


@scenario("transactions")
async def transactions():
    async with connect() as one, connect() as other:
        async with one.transaction():
            await one.execute("INSERT INTO item VALUES (1, 'one')")
            same("not seen before the commit", await ids(other), [])
        same("seen after the commit", await ids(other), [1])

        undone = one.transaction()
        await undone.start()
        await one.execute("INSERT INTO item VALUES (2, 'two')")
        await undone.rollback()
        same("gone after a rollback", await ids(one), [1])

        async with one.transaction():
            await one.execute("INSERT INTO item VALUES ($1)", 3)
            savepoint = one.transaction()
            await savepoint.start()
            await fails("an error is the statement's", asyncpg.UniqueViolationError,
                        one.execute("INSERT INTO item VALUES ($1)", 1))
            await fails("and the transaction's", asyncpg.InFailedSQLTransactionError,
                        one.fetch("SELECT 1"))
            await savepoint.rollback()
            await one.execute("INSERT INTO item VALUES ($1)", 4)
        same("a savepoint keeps what was before it", await ids(other), [1, 3, 4])

        moved("another backend after a transaction",
              [await other.fetchval("SELECT pg_backend_pid()") for _ in range(4)])


@scenario("prepared statements")
async def prepared_statements():
    async with connect() as one, connect() as other:
        for number in range(4):
            same("the first statement of one", await one.fetchval("SELECT $1 + 1", number),
                 number + 1)
            same("the first statement of the other",
                 await other.fetchval("SELECT 'a' || $1::text", str(number)), f"a{number}")
        prepared = await one.prepare("SELECT id FROM item WHERE word = $1")
        await other.execute("INSERT INTO item VALUES (7, 'seven')")
        same("prepare()", await prepared.fetchval("seven"), 7)
        same("a type that the driver has to ask about",
             await one.fetchval("SELECT $1::mood[]", ["sad", "happy"]), ["sad", "happy"])
        await fails("an error leaves the statement as it is", asyncpg.DivisionByZeroError,
                    one.fetchval("SELECT 1 / $1", 0))
        same("so that it can be used again", await one.fetchval("SELECT 1 / $1", 1), 1)

    async with connect(statement_cache_size=2) as one:
        for _ in range(2):
            for number in range(5):
                same("the driver closes what is too many",
                     await one.fetchval(f"SELECT {number} + $1", 1), number + 1)
        same("and has not many left",
             await one.fetchval("SELECT count(*) FROM pg_prepared_statements"), 2)


@scenario("cursors")
async def cursors():
    async with connect() as one, connect() as other:
        async with one.transaction():
            found = []
            async for row in one.cursor("SELECT generate_series(1, $1::int)", 10, prefetch=3):
                found.append(row[0])
                await other.fetchval("SELECT 1")
            same("a cursor returns its rows in portions", found, list(range(1, 11)))
            cursor = await one.cursor("SELECT generate_series(1, 10)")
            await cursor.forward(5)
            same("and skips some", [row[0] for row in await cursor.fetch(2)], [6, 7])

        await one.execute("DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT generate_series(1, 10)")
        same("WITH HOLD outlives its transaction",
             [row[0] for row in await one.fetch("FETCH 2 FROM held")], [1, 2])
        await other.fetchval("SELECT 1")
        await one.execute("MOVE BACKWARD 2 FROM held")
        same("and can be scrolled afterwards",
             [row[0] for row in await one.fetch("FETCH 3 FROM held")], [1, 2, 3])
        await one.execute("CLOSE held")
        same("nothing is left of them",
             await one.fetch("SELECT name FROM pg_cursors WHERE name <> ''"), [])


@scenario("copy")
async def copy():
    async with connect() as one, connect() as other:
        async with one.transaction():
            await one.copy_records_to_table("item", records=[(1, "one"), (2, None)])
            same("what is copied in is not seen before the commit", await ids(other), [])
        out = io.BytesIO()
        await one.copy_from_query("SELECT * FROM item ORDER BY id", output=out)
        same("what is copied in comes out", out.getvalue(), b"1\tone\n2\t\\N\n")
        await fails("bad data is an error", asyncpg.BadCopyFileFormatError,
                    one.copy_to_table("item", source=io.BytesIO(b"3\n")))
        lines = "".join(f"{number}\t{'x' * 100}\n" for number in range(3, 5003))
        await one.copy_to_table("item", source=io.BytesIO(lines.encode()))
        same("much data as well", await other.fetchval("SELECT count(*) FROM item"), 5002)


@scenario("notify")
async def notify():
    async with connect() as listener, connect() as other:
        heard = asyncio.Queue()

        def hear(connection, pid, channel, payload):
            heard.put_nowait(payload)

        await listener.add_listener("news", hear)
        for number in range(3):
            await other.execute("SELECT pg_notify('news', $1)", str(number))
            same("an idle client is notified", await asyncio.wait_for(heard.get(), TIMEOUT),
                 str(number))
        await listener.remove_listener("news", hear)
        await other.execute("NOTIFY news")
        await listener.fetchval("SELECT 1")
        same("but not after UNLISTEN", heard.qsize(), 0)


@scenario("cancel")
async def cancel():
    async with connect(application_name="sleeper") as sleeper, connect() as other:
        await sleeper.execute("INSERT INTO item VALUES (1)")
        task = asyncio.create_task(sleeper.fetch(LONG_SLEEP))
        await until_true(other, SLEEPERS)
        task.cancel()
        await fails("the statement ends", asyncio.CancelledError, task)
        await until_true(other, f"SELECT ({SLEEPERS}) = 0")
        same("in the server as well, and the session goes on", await ids(sleeper), [1])


@scenario("pipeline")
async def pipeline():
    async with connect() as one:
        await one.executemany("INSERT INTO item VALUES ($1, $2)",
                              [(number, str(number)) for number in range(1, 101)])
        same("executemany", await one.fetchval("SELECT sum(word::int) FROM item"), 5050)
        await one.execute("INSERT INTO item VALUES (101); INSERT INTO item VALUES (102)")
        same("several statements in one message",
             await one.fetchval("SELECT count(*) FROM item"), 102)


@scenario("pipeline error")
async def pipeline_error():
    async with connect() as one:
        insert = "INSERT INTO item VALUES (6 / $1)"
        await fails("executemany: one of them fails", asyncpg.DivisionByZeroError,
                    one.executemany(insert, [(1,), (2,), (0,), (3,)]))
        same("then none has had an effect", await ids(one), [])
        await one.executemany(insert, [(1,), (2,), (3,)])
        same("the session goes on", await ids(one), [2, 3, 6])
        async with one.transaction():
            await one.execute("INSERT INTO item VALUES (7)")
            try:
                async with one.transaction():
                    await one.executemany(insert, [(6,), (0,)])
            except asyncpg.DivisionByZeroError:
                await one.executemany(insert, [(6,)])
        same("the same after a savepoint", await ids(one), [1, 2, 3, 6, 7])


@scenario("settings")
async def settings():
    async with connect() as one, connect() as other:
        await one.execute("SET work_mem = '1111kB'")
        await one.fetch("SELECT set_config('drivers.mine', $1, false)", "mine")
        undone = one.transaction()
        await undone.start()
        await one.execute("SET work_mem = '2222kB'; SET LOCAL drivers.mine = 'local'")
        await undone.rollback()
        for _ in range(3):
            same("SET stays, unless it is rolled back", await one.fetchval("SHOW work_mem"),
                 "1111kB")
            same("set_config stays", await one.fetchval("SHOW drivers.mine"), "mine")
            same("others have the default", await other.fetchval("SHOW work_mem"), "4MB")
        await one.execute("SET ROLE drivers_other; SET TIME ZONE 'Asia/Tokyo'")
        await other.fetchval("SELECT 1")
        same("SET ROLE", tuple(await one.fetchrow("SELECT session_user::text, current_user::text")),
             ("drivers", "drivers_other"))
        same("the driver knows the time zone", one.get_settings().TimeZone, "Asia/Tokyo")
        same("and so does the server", await one.fetchval("SHOW timezone"), "Asia/Tokyo")
        await one.execute("RESET ROLE")
        await one.reset()
        same("reset()", await one.fetchval("SHOW work_mem"), "4MB")


@scenario("startup")
async def startup():
    async with connect(application_name="my name", work_mem="3333kB",
                       options="-c drivers.mine=at\\ start") as one, connect() as other:
        for _ in range(3):
            same("application_name", await one.fetchval("SHOW application_name"), "my name")
            same("client_encoding, which is always this",
                 await one.fetchval("SHOW client_encoding"), "UTF8")
            same("server_settings", await one.fetchval("SHOW work_mem"), "3333kB")
            same("options", await one.fetchval("SHOW drivers.mine"), "at start")
            same("others have the default", await other.fetchval("SHOW work_mem"), "4MB")
        await one.execute("SET work_mem = '1MB'; RESET work_mem")
        same("RESET goes back to them", await one.fetchval("SHOW work_mem"), "3333kB")


@scenario("reconnect")
async def reconnect():
    for number in range(ROUNDS):
        one = await asyncpg.connect()
        # waits for the one before, if it still holds it
        await one.execute("SELECT pg_advisory_lock(1)")
        if await one.fetchval("SHOW work_mem") != "4MB" or await ids(one) != []:
            raise AssertionError(f"connection {number} has inherited something")
        await one.execute("SET work_mem = '1MB'; CREATE TEMPORARY TABLE t (i int)")
        await one.execute("BEGIN; INSERT INTO item VALUES (1)")
        one.terminate()
    true("no connection finds what the one before has left", True)

    async with asyncpg.create_pool(min_size=1, max_size=1) as pool:
        for number in range(ROUNDS):
            async with pool.acquire() as one:
                if await one.fetchval("SHOW work_mem") != "4MB":
                    raise AssertionError("the driver's pool has not reset its connection")
                await one.execute("SET work_mem = '1MB'; LISTEN news; SELECT pg_advisory_lock(1)")
    true("nor does a user of the driver's own pool", True)


class Client:
    """One of many: which makes its session different from all others."""

    def __init__(self, number):
        self.number = number
        self.backends = []

    async def connect(self):
        self.connection = await asyncpg.connect(
            server_settings={"application_name": f"client {self.number}"})
        await self.connection.execute(f"SET work_mem = '{self.number + 100}kB'")
        await self.connection.fetch("SELECT set_config('drivers.mine', $1, false)",
                                    f"value {self.number}")

    async def transaction(self):
        """Whether the session is in order."""
        async with self.connection.transaction():
            undone = self.connection.transaction()
            await undone.start()
            await self.connection.execute(f"SET work_mem = '{self.number + 200}kB'")
            await undone.rollback()
            *me, backend = await self.connection.fetchrow(WHO_AM_I)
            me.append(await self.connection.fetchval(f"SELECT {self.number} + $1", 1))
        self.backends.append(backend)
        return me == [f"client {self.number}", f"{self.number + 100}kB", f"value {self.number}",
                      self.number + 1]


@scenario("interleaved")
async def interleaved():
    clients = [Client(number) for number in range(CLIENTS)]
    await asyncio.gather(*(client.connect() for client in clients))
    rounds = [await asyncio.gather(*(client.transaction() for client in clients))
              for _ in range(ROUNDS)]
    same("each client finds its own session", rounds, [[True] * CLIENTS] * ROUNDS)
    moved("sessions have moved", *(client.backends for client in clients))
    for client in clients:
        await client.connection.close()


async def empty_table():
    async with connect() as connection:
        await connection.execute("DELETE FROM item")


run(empty_table)
