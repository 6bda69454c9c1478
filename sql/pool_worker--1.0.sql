/* sql/pool_worker--1.0.sql */

-- this file only makes sense inside CREATE EXTENSION
\echo Run CREATE EXTENSION pool_worker instead of loading this file. \quit

--
-- Looking
--

-- for everybody

CREATE FUNCTION pool_status(
    OUT database     name,
    OUT role         name,
    OUT state        text,      -- ready, opening, failing, idle,
                                -- paused or draining
    OUT slots        int4,      -- open: active, idle and pinned together
    OUT active       int4,
    OUT idle         int4,
    OUT pinned       int4,
    OUT opening      int4,
    OUT clients      int4,
    OUT waiting      int4,
    OUT pool_size    int4,
    OUT utilization  float8,    -- percent
    OUT peak_active  int4,
    OUT transactions int8,
    OUT reuse_rate   float8,    -- percent, NULL before the first attach
    OUT failed       int8,
    OUT pinned_sessions int4,   -- slots kept for the state of a session
    OUT max_pinned   int4,      -- so many of them leave room for others
    OUT waiting_for  float8,    -- ms, of the one who waits longest now
    OUT wait_time    float8,    -- ms, of all who have waited
    OUT longest_wait float8,    -- ms, of these
    OUT turned_away  int8,
    -- how often a time limit was enforced, by the setting's name
    OUT statement_timeouts int8,
    OUT transaction_timeouts int8,
    OUT idle_in_transaction_timeouts int8,
    OUT client_idle_timeouts int8,
    OUT client_message_timeouts int8,
    OUT opened       int8,      -- slots
    OUT unanswered   int8,      -- slots given up by the health check
    OUT reserve      int4,      -- open slots of the reserve, of all slots
    OUT share        int4       -- slots it is entitled to of max_slots
)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pool_worker_status_1_0'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 10;

COMMENT ON FUNCTION pool_status() IS
'one row for each pool: its slots, its clients, and how much it has done';

CREATE FUNCTION pool_settings(
    OUT database     name,
    OUT role         name,
    OUT name         text,
    OUT setting      text,
    OUT unit         text,
    OUT source       text       -- what has set it, as in pg_settings
)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pool_worker_settings_1_0'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 100;

COMMENT ON FUNCTION pool_settings() IS
'one row for each pool and each setting that may differ from pool to pool';

-- for everybody, but each sees the rows of roles whose privileges he has;
-- members of pg_monitor see all

CREATE FUNCTION pool_slots(
    OUT slot         int4,
    OUT pid          int4,      -- backend, NULL until it has reported
    OUT database     name,
    OUT role         name,
    OUT client       int8,      -- as in pool_clients(), NULL while unattached
    OUT address      inet,      -- of that client, NULL for a Unix socket
    OUT application  text,      -- application_name of that client
    OUT state        text,
    OUT pin_reason   text,      -- NULL while any client may have the slot
    OUT since        timestamptz,   -- in this state
    OUT transactions int8,      -- since it was opened
    OUT attaches     int8,      -- clients it was given since then
    OUT opened_at    timestamptz,
    OUT memory       int8,      -- bytes, when it was last asked
    OUT retiring     text,      -- why it will be replaced, or NULL
    OUT reserve      bool       -- beyond pool_size, for high priority only
)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pool_worker_slots_1_0'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 50;

COMMENT ON FUNCTION pool_slots() IS
'one row for each slot: its backend, what it does, and the client it does it for';

CREATE FUNCTION pool_clients(
    OUT client       int8,      -- serial number
    OUT slot         int4,      -- NULL while it has none
    OUT pid          int4,      -- backend of that slot
    OUT database     name,      -- NULL while it logs in
    OUT role         name,
    OUT address      inet,      -- NULL for a Unix socket
    OUT port         int4,      -- -1 for a Unix socket
    OUT application  text,      -- application_name
    OUT state        text,
    OUT pin_reason   text,      -- NULL unless it keeps its slot
    OUT since        timestamptz,   -- in this state
    OUT connected_at timestamptz,
    OUT transactions int8,
    OUT last_wait    float8,    -- ms, before it got its last slot
    OUT priority     text       -- high or normal
)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pool_worker_clients_1_0'
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 1000;

COMMENT ON FUNCTION pool_clients() IS
'one row for each client of the pool: who it is, and which slot serves it';

-- for members of pg_monitor

CREATE FUNCTION pool_check(
    OUT "check"      text,
    OUT ok           bool,      -- NULL: could not be found out
    OUT detail       text,
    OUT hint         text       -- what to do, NULL if there is nothing to do
)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pool_worker_check_1_0'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED ROWS 20;

COMMENT ON FUNCTION pool_check() IS
'what stands in the way of the pool, and what to do about it';

REVOKE ALL ON FUNCTION pool_check() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pool_check() TO pg_monitor;

--
-- Changing one's own session: for everybody
--

CREATE FUNCTION pool_pin()
RETURNS bool
AS 'MODULE_PATHNAME', 'pool_worker_pin_1_0'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION pool_pin() IS
'keeps this session in its slot, until pool_unpin()';

CREATE FUNCTION pool_unpin()
RETURNS bool
AS 'MODULE_PATHNAME', 'pool_worker_unpin_1_0'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION pool_unpin() IS
'ends what pool_pin() has begun';

--
-- Changing other sessions: for members of a client's role and of
-- pg_signal_backend, as the functions check themselves
--

CREATE FUNCTION pool_cancel(
    client           int8       -- as in pool_clients()
)
RETURNS bool
AS 'MODULE_PATHNAME', 'pool_worker_cancel_1_0'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION pool_cancel(int8) IS
'cancels the statement that a client is running';

CREATE FUNCTION pool_disconnect(
    client           int8,
    timeout          int8 DEFAULT 0     -- ms to wait until it is gone
)
RETURNS bool
AS 'MODULE_PATHNAME', 'pool_worker_disconnect_1_0'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION pool_disconnect(int8, int8) IS
'disconnects a client, also in the middle of a transaction';

--
-- Changing pools: for superusers, until granted
--

CREATE FUNCTION pool_pause(
    database         name DEFAULT NULL, -- all
    role             name DEFAULT NULL, -- all
    timeout          int8 DEFAULT 60000,    -- ms; NULL: for as long as it takes
    OUT datname      name,
    OUT rolname      name,
    OUT clients      int4,
    OUT slots        int4,
    OUT remaining    int4       -- transactions that are still open
)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pool_worker_pause_1_0'
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION pool_pause(name, name, int8) IS
'has the clients of pools wait, when their transactions have ended, until pool_resume()';

CREATE FUNCTION pool_resume(
    database         name DEFAULT NULL,
    role             name DEFAULT NULL,
    OUT datname      name,
    OUT rolname      name,
    OUT clients      int4,
    OUT slots        int4
)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pool_worker_resume_1_0'
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION pool_resume(name, name) IS
'ends what pool_pause() and pool_drain() have begun';

CREATE FUNCTION pool_drain(
    database         name DEFAULT NULL,
    role             name DEFAULT NULL,
    timeout          int8 DEFAULT 60000,
    OUT datname      name,
    OUT rolname      name,
    OUT clients      int4,
    OUT slots        int4,
    OUT remaining    int4       -- clients that are still there
)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pool_worker_drain_1_0'
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION pool_drain(name, name, int8) IS
'disconnects the clients of pools, when their transactions have ended, and refuses others until pool_resume()';

CREATE FUNCTION pool_recycle(
    database         name DEFAULT NULL,
    role             name DEFAULT NULL,
    timeout          int8 DEFAULT 60000,
    OUT datname      name,
    OUT rolname      name,
    OUT clients      int4,
    OUT slots        int4,
    OUT remaining    int4       -- old slots that are still open
)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pool_worker_recycle_1_0'
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10;

COMMENT ON FUNCTION pool_recycle(name, name, int8) IS
'replaces the slots of pools by new ones, as they come free';

REVOKE ALL ON FUNCTION pool_pause(name, name, int8) FROM PUBLIC;
REVOKE ALL ON FUNCTION pool_resume(name, name) FROM PUBLIC;
REVOKE ALL ON FUNCTION pool_drain(name, name, int8) FROM PUBLIC;
REVOKE ALL ON FUNCTION pool_recycle(name, name, int8) FROM PUBLIC;
