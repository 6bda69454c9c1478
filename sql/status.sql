--
-- What a client of the pool sees of itself.
--

CREATE ROLE regress_pool_alice LOGIN;
SELECT current_user AS superuser, current_setting('port') AS server_port,
       current_setting('pool_worker.port') AS pool_port \gset

-- before it comes
SELECT count(*) FROM pool_status() WHERE role = 'regress_pool_alice' AND clients > 0;

\c - regress_pool_alice - :pool_port

-- its pool
SELECT database = current_database() AS here, role, state, slots, active, idle,
       pinned, opening, clients, pool_size, utilization, peak_active,
       reuse_rate, failed
FROM pool_status() WHERE role = current_user AND clients > 0;

-- its slot, and itself
SELECT pid = pg_backend_pid() AS me, database = current_database() AS here,
       role, address, application, state, pin_reason, attaches > 0 AS used,
       since >= opened_at AS ordered
FROM pool_slots();
SELECT pid = pg_backend_pid() AS me, database = current_database() AS here,
       role, address, port, application, state, pin_reason,
       since >= connected_at AS ordered
FROM pool_clients();
SELECT s.slot = c.slot AS same_slot, s.client = c.client AS same_client,
       s.address IS NOT DISTINCT FROM c.address AS same_address,
       s.application = c.application AS same_application
FROM pool_slots() s JOIN pool_clients() c USING (pid);

-- as the server sees it
SELECT a.client_addr IS NOT DISTINCT FROM c.address AS same_address,
       a.client_port = c.port AS same_port,
       a.application_name = c.application AS same_application
FROM pg_stat_activity a JOIN pool_clients() c USING (pid);
SET application_name = 'another';
SELECT application FROM pool_clients();
RESET application_name;
SELECT application FROM pool_clients();

-- each transaction counts once
SELECT transactions AS before FROM pool_clients() \gset
SELECT 1;
BEGIN; SELECT 1; SELECT 1; COMMIT;
SELECT transactions - :before FROM pool_clients();

-- why it keeps its slot
SELECT pg_advisory_lock(4);
SELECT state, pin_reason FROM pool_clients();
SELECT state, pin_reason FROM pool_slots();
SELECT pinned_sessions, max_pinned, utilization FROM pool_status() WHERE role = current_user;
SELECT pg_advisory_unlock(4);
SELECT pool_pin();
SELECT state, pin_reason FROM pool_clients();
SELECT pool_unpin();
SELECT state, pin_reason FROM pool_clients();
BEGIN;
SELECT state, pin_reason FROM pool_clients();
COMMIT;

-- nobody has to wait
SELECT waiting, waiting_for, turned_away FROM pool_status() WHERE role = current_user;

-- after it has left its slot stays, and nobody's
\c - :superuser - :server_port
SET statement_timeout = '60s';
DO $$
BEGIN
    WHILE EXISTS (SELECT FROM pool_clients() WHERE role = 'regress_pool_alice')
       OR EXISTS (SELECT FROM pool_slots() WHERE role = 'regress_pool_alice'
                  AND (state <> 'idle' OR client IS NOT NULL))
    LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
SELECT role, state, slots, active, idle, pinned, clients, utilization
FROM pool_status() WHERE role = 'regress_pool_alice' AND slots > 0;
SELECT role, client, address, application, state, pin_reason
FROM pool_slots() WHERE role = 'regress_pool_alice';

-- a session without a pool has nothing to pin, and nothing to fear
SELECT pool_pin();
SELECT pool_unpin();

-- the slot goes with its role
SELECT bool_and(pg_terminate_backend(pid, 60000)) AS gone
FROM pool_slots() WHERE role = 'regress_pool_alice';
DROP ROLE regress_pool_alice;
