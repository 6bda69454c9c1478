// Copyright (c) pool_worker contributors

// node's "pg" with pg-cursor and pg-copy-streams.  A query without values goes by the simple
// protocol, one with values is parsed unnamed, one with a name is prepared under it once.
//
// Scenarios and facts are those of the other programs in this folder; what the environment says
// is described in t/060_drivers.pl.

'use strict'
const { isDeepStrictEqual, inspect } = require('util')
const { pipeline: pipe } = require('stream/promises')
const { Readable } = require('stream')
const { once } = require('events')
const { Client, Pool } = require('pg')
const Cursor = require('pg-cursor')
const copyStreams = require('pg-copy-streams')

const CLIENTS = Number(process.env.DRIVER_CLIENTS)
const ROUNDS = Number(process.env.DRIVER_ROUNDS)
const SWITCHES = process.env.DRIVER_SWITCHES === '1'
const TIMEOUT = Number(process.env.DRIVER_TIMEOUT)

let current
let count = 0

function isTrue (fact, holds) {
  console.log(`${holds ? 'ok' : 'not ok'} ${++count} - ${current}: ${fact}`)
  return holds
}

function same (fact, got, expected) {
  if (!isTrue(fact, isDeepStrictEqual(got, expected))) {
    console.log(`# got      ${inspect(got)}\n# expected ${inspect(expected)}`)
  }
}

// The promise is rejected with this SQLSTATE.
async function fails (fact, sqlstate, promise) {
  same(fact, await promise.then(() => 'no error', error => error.code), sqlstate)
}

// At least one client, each given as a list of backends, has had several.
function moved (fact, ...clients) {
  if (SWITCHES) isTrue(fact, clients.some(backends => new Set(backends).size > 1))
}

// A connected client; the environment says to what.
async function connected (options) {
  const client = new Client(options)
  await client.connect()
  return client
}

async function end (...clients) {
  for (const client of clients) await client.end()
}

async function column (client, ...query) {
  return (await client.query({ rowMode: 'array', ...toConfig(...query) })).rows.map(row => row[0])
}

async function value (client, ...query) {
  return (await column(client, ...query))[0]
}

function toConfig (query, values) {
  return typeof query === 'string' ? { text: query, values } : query
}

function ids (client) {
  return column(client, 'SELECT id FROM item ORDER BY id')
}

const scenarios = {
  async transactions () {
    const [one, other] = [await connected(), await connected()]

    await one.query('BEGIN')
    await one.query("INSERT INTO item VALUES (1, 'one')")
    same('not seen before the commit', await ids(other), [])
    await one.query('COMMIT')
    same('seen after the commit', await ids(other), [1])

    await one.query('BEGIN')
    await one.query('INSERT INTO item VALUES ($1, $2)', [2, 'two'])
    await one.query('ROLLBACK')
    same('gone after a rollback', await ids(one), [1])

    await one.query('BEGIN')
    await one.query('INSERT INTO item VALUES ($1)', [3])
    await one.query('SAVEPOINT s')
    await fails("an error is the statement's", '23505',
      one.query('INSERT INTO item VALUES ($1)', [1]))
    await fails("and the transaction's", '25P02', one.query('SELECT 1'))
    await one.query('ROLLBACK TO s')
    await one.query('INSERT INTO item VALUES ($1)', [4])
    await one.query('COMMIT')
    same('a savepoint keeps what was before it', await ids(other), [1, 3, 4])

    const backends = []
    for (let i = 0; i < 4; i++) backends.push(await value(one, 'SELECT pg_backend_pid()'))
    moved('another backend after a transaction', backends)
    await end(one, other)
  },

  async 'prepared statements' () {
    const [one, other] = [await connected(), await connected()]
    const add = number => ({ name: 'same', text: 'SELECT $1::int + 1', values: [number] })
    const concat = number => ({ name: 'same', text: "SELECT 'a' || $1", values: [number] })

    for (let number = 0; number < 4; number++) {
      same('a name means what its session says', await value(one, add(number)), number + 1)
      same('in each session', await value(other, concat(number)), `a${number}`)
    }
    same('a session has its own', await column(one, 'SELECT name FROM pg_prepared_statements'),
      ['same'])
    const divide = number => ({ name: 'divide', text: 'SELECT 1 / $1::int', values: [number] })
    await fails('an error leaves the statement as it is', '22012', one.query(divide(0)))
    same('so that it can be used again', await value(one, divide(1)), 1)
    await other.query('PREPARE by_sql AS SELECT 5')
    same('PREPARE', await value(other, 'EXECUTE by_sql'), 5)
    await end(one, other)
  },

  async cursors () {
    const [one, other] = [await connected(), await connected()]
    const found = []
    let rows

    await one.query('BEGIN')
    let cursor = one.query(new Cursor('SELECT generate_series(1, $1::int) AS n', [10]))
    do {
      rows = await cursor.read(3)
      found.push(...rows.map(row => row.n))
      await value(other, 'SELECT 1')
    } while (rows.length > 0)
    same('a portal returns its rows in portions', found, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    await one.query('COMMIT')
    cursor = one.query(new Cursor('SELECT generate_series(1, 1000) AS n'))
    await cursor.read(3)
    await cursor.close()
    same('one that is closed early, without BEGIN', await value(one, 'SELECT 1'), 1)

    await one.query('DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT generate_series(1, 10)')
    same('WITH HOLD outlives its transaction', await column(one, 'FETCH 2 FROM held'), [1, 2])
    await value(other, 'SELECT 1')
    await one.query('MOVE BACKWARD 2 FROM held')
    same('and can be scrolled afterwards', await column(one, 'FETCH 3 FROM held'), [1, 2, 3])
    await one.query('CLOSE held')
    same('nothing is left of them', await column(one, 'SELECT name FROM pg_cursors'), [])
    await end(one, other)
  },

  async copy () {
    const [one, other] = [await connected(), await connected()]
    const copyIn = lines =>
      pipe(Readable.from(lines), one.query(copyStreams.from('COPY item FROM STDIN')))

    await one.query('BEGIN')
    await copyIn(['1\tone\n', '2\t\\N\n'])
    same('what is copied in is not seen before the commit', await ids(other), [])
    await one.query('COMMIT')
    const out = []
    for await (const chunk of one.query(copyStreams.to('COPY item TO STDOUT'))) out.push(chunk)
    same('what is copied in comes out', Buffer.concat(out).toString(), '1\tone\n2\t\\N\n')
    await fails('bad data is an error', '22P04', copyIn(['3\n']))
    await copyIn(Array.from({ length: 5000 }, (_, i) => `${i + 3}\t${'x'.repeat(100)}\n`))
    same('much data as well', await value(other, 'SELECT count(*)::int FROM item'), 5002)
    await end(one, other)
  },

  async notify () {
    const [listener, other] = [await connected(), await connected()]

    await listener.query('LISTEN news')
    for (let number = 0; number < 3; number++) {
      const heard = once(listener, 'notification', { signal: AbortSignal.timeout(1000 * TIMEOUT) })
      await other.query("SELECT pg_notify('news', $1)", [number])
      same('an idle client is notified', (await heard)[0].payload, String(number))
    }
    let others = 0
    listener.on('notification', () => others++)
    await listener.query('UNLISTEN news')
    await other.query('NOTIFY news')
    await value(listener, 'SELECT 1')
    same('but not after UNLISTEN', others, 0)
    await end(listener, other)
  },

  async cancel () {
    const [sleeper, other] = [await connected({ application_name: 'sleeper' }), await connected()]
    const query = new (require('pg').Query)(`SELECT pg_sleep(${2 * TIMEOUT})`)
    const deadline = Date.now() + 1000 * TIMEOUT

    await sleeper.query('INSERT INTO item VALUES (1)')
    const ended = once(query, 'end').then(() => 'no error', error => error.code)
    sleeper.query(query)
    while (await value(other, `SELECT count(*)::int FROM pg_stat_activity WHERE state = 'active'
        AND wait_event = 'PgSleep' AND application_name = 'sleeper'`) !== 1) {
      if (Date.now() > deadline) throw new Error('waited in vain')
    }
    const canceller = new Client()
    const sent = once(canceller.connection, 'end')
    canceller.cancel(sleeper, query)
    same('the statement ends', await ended, '57014')
    // PostgreSQL sends two signals, and the second one may come after that
    await sent
    same('and the session goes on', await ids(sleeper), [1])
    await end(sleeper, other)
  },

  async pipeline () {
    const one = await connected({ pipeline: true })
    const numbers = Array.from({ length: 100 }, (_, number) => number)

    same('a hundred answers, each to its question',
      await Promise.all(numbers.map(number => value(one, 'SELECT $1::int', [number]))), numbers)
    same('of a named statement',
      await Promise.all(numbers.map(number =>
        value(one, { name: 'add', text: 'SELECT $1::int + 1', values: [number] }))),
      numbers.map(number => number + 1))
    const answers = await Promise.all([
      one.query('BEGIN'),
      one.query('INSERT INTO item VALUES ($1)', [1]),
      one.query("SET drivers.mine = 'piped'"),
      one.query('COMMIT'),
      value(one, 'SHOW drivers.mine')
    ])
    same('a transaction in it', await ids(one), [1])
    same('a setting in it', answers[4], 'piped')
    await end(one)
  },

  async 'pipeline error' () {
    const one = await connected({ pipeline: true })
    const code = promise => promise.then(() => 'ok', error => error.code)
    const insert = number => code(one.query('INSERT INTO item VALUES (6 / $1::int)', [number]))

    same('each statement is for itself', await Promise.all([1, 0, 2].map(insert)),
      ['ok', '22012', 'ok'])
    same('and has its own effect', await ids(one), [3, 6])
    same('unless in a transaction',
      await Promise.all([code(one.query('BEGIN')), insert(3), insert(0), insert(6),
        code(one.query('COMMIT'))]),
      ['ok', 'ok', '22012', '25P02', 'ok'])
    same('which is undone', await ids(one), [3, 6])
    await fails('several statements in one message', '22012',
      one.query('INSERT INTO item VALUES (1); SELECT 1 / 0; INSERT INTO item VALUES (2)'))
    same('are one transaction', await ids(one), [3, 6])
    await end(one)
  },

  async settings () {
    const [one, other] = [await connected(), await connected()]

    await one.query("SET work_mem = '1111kB'")
    await one.query("SELECT set_config('drivers.mine', $1, false)", ['mine'])
    await one.query('BEGIN')
    await one.query("SET work_mem = '2222kB'; SET LOCAL drivers.mine = 'local'")
    await one.query('ROLLBACK')
    for (let i = 0; i < 3; i++) {
      same('SET stays, unless it is rolled back', await value(one, 'SHOW work_mem'), '1111kB')
      same('set_config stays', await value(one, 'SHOW drivers.mine'), 'mine')
      same('others have the default', await value(other, 'SHOW work_mem'), '4MB')
    }
    await one.query("SET ROLE drivers_other; SET TIME ZONE 'Asia/Tokyo'")
    await value(other, 'SELECT 1')
    same('SET ROLE', await value(one, "SELECT session_user || ' ' || current_user"),
      'drivers drivers_other')
    same('SET TIME ZONE', await value(one, 'SHOW timezone'), 'Asia/Tokyo')
    await one.query('RESET ROLE; RESET ALL')
    same('RESET ALL', await value(one, 'SHOW work_mem'), '4MB')
    await end(one, other)
  },

  async startup () {
    const one = await connected({
      application_name: 'my name',
      client_encoding: 'UTF8',
      statement_timeout: 12345,
      options: '-c work_mem=3333kB -c drivers.mine=at\\ start'
    })
    const other = await connected()

    for (let i = 0; i < 3; i++) {
      same('application_name', await value(one, 'SHOW application_name'), 'my name')
      same('client_encoding', await value(one, 'SHOW client_encoding'), 'UTF8')
      same('statement_timeout', await value(one, 'SHOW statement_timeout'), '12345ms')
      same('options', await value(one, 'SHOW work_mem'), '3333kB')
      same('options, of no module', await value(one, 'SHOW drivers.mine'), 'at start')
      same('others have the default', await value(other, 'SHOW work_mem'), '4MB')
    }
    await one.query("SET work_mem = '1MB'")
    await one.query('RESET work_mem')
    same('RESET goes back to them', await value(one, 'SHOW work_mem'), '3333kB')
    await end(one, other)
  },

  async reconnect () {
    for (let i = 0; i < ROUNDS; i++) {
      const one = await connected()

      // waits for the one before, if it still holds it
      await one.query('SELECT pg_advisory_lock(1)')
      if (await value(one, 'SHOW work_mem') !== '4MB' || (await ids(one)).length > 0) {
        throw new Error(`connection ${i} has inherited something`)
      }
      await one.query("SET work_mem = '1MB'; CREATE TEMPORARY TABLE t (i int)")
      await one.query({ name: 'p', text: 'SELECT 1' })
      await one.query('BEGIN; INSERT INTO item VALUES (1)')
      await one.end()
    }
    isTrue('no connection finds what the one before has left', true)

    const pool = new Pool({ max: 2 })
    const numbers = Array.from({ length: 2 * ROUNDS }, (_, number) => number)
    same("the driver's own pool",
      await Promise.all(numbers.map(number =>
        value(pool, { name: 'own', text: 'SELECT $1::int', values: [number] }))), numbers)
    await pool.end()
  },

  async interleaved () {
    const clients = await Promise.all(Array.from({ length: CLIENTS }, (_, i) => makeClient(i)))
    const rounds = []

    for (let i = 0; i < ROUNDS; i++) rounds.push(await Promise.all(clients.map(transaction)))
    same('each client finds its own session', rounds.flat().filter(right => !right), [])
    moved('sessions have moved', ...clients.map(client => client.backends))
    await end(...clients.map(client => client.connection))
  }
}

// One of many clients, whose session differs from all others'.
async function makeClient (number) {
  const connection = await connected({ application_name: `client ${number}` })

  await connection.query(`SET work_mem = '${number + 100}kB'`)
  await connection.query("SELECT set_config('drivers.mine', $1, false)", [`value ${number}`])
  return { number, connection, backends: [] }
}

// Whether the session is in order.
async function transaction ({ number, connection, backends }) {
  await connection.query('BEGIN; SAVEPOINT s')
  await connection.query(`SET work_mem = '${number + 200}kB'`)
  await connection.query('ROLLBACK TO s')
  const { rows: [row] } = await connection.query({
    name: 'mine',
    rowMode: 'array',
    text: `SELECT current_setting('application_name'), current_setting('work_mem'),
      current_setting('drivers.mine'), ${number} + $1::int, pg_backend_pid()`,
    values: [1]
  })
  await connection.query('COMMIT')
  backends.push(row.pop())
  return isDeepStrictEqual(row,
    [`client ${number}`, `${number + 100}kB`, `value ${number}`, number + 1])
}

// Run all scenarios.  One that throws has failed, and the next one is run.
async function run () {
  for (current of Object.keys(scenarios)) {
    try {
      const client = await connected()
      await client.query('DELETE FROM item')
      await client.end()
      await scenarios[current]()
    } catch (error) {
      isTrue('no unexpected error', false)
      console.log(`# ${error.stack.replaceAll('\n', '\n# ')}`)
    }
  }
  console.log(`1..${count}`)
  process.exit(0)
}

run()
