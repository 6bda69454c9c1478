--
-- The settings: what there is, what is refused, and that everything but the
-- sizes of shared memory can change while the server runs.
--

SELECT name, vartype, unit, boot_val, min_val, max_val, enumvals, context
FROM pg_settings WHERE name LIKE 'pool_worker.%'
ORDER BY name COLLATE "C";

-- the ones whose description is not a sentence: expect none
SELECT name, short_desc, extra_desc FROM pg_settings
WHERE name LIKE 'pool_worker.%'
  AND (short_desc !~ '^(Sets|Enables) .*\.$' OR extra_desc !~ '\.$')
ORDER BY name;

-- none of them belongs to a session, not even those that a role may have,
-- and there are no others
SET pool_worker.pool_size = 3;                                      -- fail
SET pool_worker.max_slots = 3;                                      -- fail
SET pool_worker.no_such_setting = 3;                                -- fail

CREATE ROLE regress_pool_role;
ALTER ROLE regress_pool_role SET pool_worker.pool_size = 3;
ALTER ROLE regress_pool_role SET pool_worker.pool_size = 0;         -- fail
ALTER ROLE regress_pool_role SET pool_worker.port = 3;              -- fail
SET ROLE regress_pool_role;
ALTER ROLE regress_pool_role SET pool_worker.pool_size = 3;         -- fail
RESET ROLE;
DROP ROLE regress_pool_role;

--
-- Values that are refused.  Those out of range only with their SQLSTATE: how
-- the range is written differs between PostgreSQL 15 and 16.
--

\set VERBOSITY sqlstate
ALTER SYSTEM SET pool_worker.client_idle_timeout = -1;
ALTER SYSTEM SET pool_worker.client_message_timeout = -1;
ALTER SYSTEM SET pool_worker.connect_timeout = 0;
ALTER SYSTEM SET pool_worker.connect_timeout = '2h';
ALTER SYSTEM SET pool_worker.idle_in_transaction_timeout = -1;
ALTER SYSTEM SET pool_worker.log_min_duration = -2;
ALTER SYSTEM SET pool_worker.max_clients = 0;
ALTER SYSTEM SET pool_worker.max_pinned = -2;
ALTER SYSTEM SET pool_worker.max_pool_clients = -2;
ALTER SYSTEM SET pool_worker.max_pools = 0;
ALTER SYSTEM SET pool_worker.max_slots = -2;
ALTER SYSTEM SET pool_worker.max_waiting = -2;
ALTER SYSTEM SET pool_worker.min_pool_size = -1;
ALTER SYSTEM SET pool_worker.pool_size = 0;
ALTER SYSTEM SET pool_worker.port = 0;
ALTER SYSTEM SET pool_worker.port = 65536;
ALTER SYSTEM SET pool_worker.queue_notice_after = -1;
ALTER SYSTEM SET pool_worker.queue_timeout = -1;
ALTER SYSTEM SET pool_worker.queue_timeout = '25d';
ALTER SYSTEM SET pool_worker.reserve_pool_size = -1;
ALTER SYSTEM SET pool_worker.reserve_threshold = 0;
ALTER SYSTEM SET pool_worker.reserve_threshold = 101;
ALTER SYSTEM SET pool_worker.slot_idle_timeout = -1;
ALTER SYSTEM SET pool_worker.slot_idle_timeout = '25d';
ALTER SYSTEM SET pool_worker.statement_timeout = -1;
ALTER SYSTEM SET pool_worker.transaction_timeout = -1;
ALTER SYSTEM SET pool_worker.weight = 0;
ALTER SYSTEM SET pool_worker.weight = 1001;
\set VERBOSITY default
ALTER SYSTEM SET pool_worker.enforce_exempt = 'a b';
ALTER SYSTEM SET pool_worker.enforce_on = 'off';
ALTER SYSTEM SET pool_worker.listen_addresses = 'a b';
ALTER SYSTEM SET pool_worker.max_slots = 0;
ALTER SYSTEM SET pool_worker.pool_mode = 'statement';
ALTER SYSTEM SET pool_worker.priority = 'low';
ALTER SYSTEM SET pool_worker.priority_applications = 'a b';
ALTER SYSTEM SET pool_worker.unix_socket_directories = '/a,,/b';
-- the path of a socket, which ends in /.s.PGSQL.nnnnn, may have 107 bytes
SELECT '/' || repeat('x', 91) AS longest, '/' || repeat('x', 92) AS too_long \gset
ALTER SYSTEM SET pool_worker.unix_socket_directories = :'longest';
ALTER SYSTEM SET pool_worker.unix_socket_directories = :'longest', :'too_long';

-- prewarm: a list of database/role, names as in SQL
ALTER SYSTEM SET pool_worker.prewarm = 'shop';
ALTER SYSTEM SET pool_worker.prewarm = 'shop/';
ALTER SYSTEM SET pool_worker.prewarm = '/web';
ALTER SYSTEM SET pool_worker.prewarm = 'shop/web,';
ALTER SYSTEM SET pool_worker.prewarm = 'shop/web,,shop/app';
ALTER SYSTEM SET pool_worker.prewarm = 'shop/web shop/app';
ALTER SYSTEM SET pool_worker.prewarm = 'shop/"web';
ALTER SYSTEM SET pool_worker.prewarm = 'shop/"web""';
ALTER SYSTEM SET pool_worker.prewarm = '""/web';
ALTER SYSTEM SET pool_worker.prewarm = 'sh"op"/web';
ALTER SYSTEM SET pool_worker.prewarm = 'shop/r123456789012345678901234567890123456789012345678901234567890123';
ALTER SYSTEM SET pool_worker.prewarm = '"a/b, c"/"d""e" , Shop / Web';
ALTER SYSTEM SET pool_worker.prewarm = 'shop/web', 'shop/app';
ALTER SYSTEM SET pool_worker.prewarm = ' ';

--
-- Change everything that a reload can change.  Without TCP addresses the
-- other port cannot clash with anybody's.
--

ALTER SYSTEM SET pool_worker.client_idle_timeout = '1h';
ALTER SYSTEM SET pool_worker.client_message_timeout = '1min';
ALTER SYSTEM SET pool_worker.connect_timeout = '1min';
ALTER SYSTEM SET pool_worker.debug_always_switch = on;
ALTER SYSTEM SET pool_worker.enforce_exempt = 'regress_pool_role', '"A role"';
ALTER SYSTEM SET pool_worker.enforce_on = 'all';
ALTER SYSTEM SET pool_worker.idle_in_transaction_timeout = '2min';
ALTER SYSTEM SET pool_worker.listen_addresses = '';
ALTER SYSTEM SET pool_worker.log_min_duration = '1s';
ALTER SYSTEM SET pool_worker.max_pinned = 2;
ALTER SYSTEM SET pool_worker.max_pool_clients = 40;
ALTER SYSTEM SET pool_worker.max_waiting = 10;
ALTER SYSTEM SET pool_worker.min_pool_size = 1;
ALTER SYSTEM SET pool_worker.pool_mode = 'session';
ALTER SYSTEM SET pool_worker.pool_size = 3;
ALTER SYSTEM SET pool_worker.port = 16432;
ALTER SYSTEM SET pool_worker.prewarm = 'regress_pool_database/regress_pool_role';
ALTER SYSTEM SET pool_worker.priority = 'high';
ALTER SYSTEM SET pool_worker.priority_applications = 'psql', '"An application"';
ALTER SYSTEM SET pool_worker.queue_notice_after = '250ms';
ALTER SYSTEM SET pool_worker.queue_timeout = 0;
ALTER SYSTEM SET pool_worker.reserve_pool_size = 2;
ALTER SYSTEM SET pool_worker.reserve_threshold = 50;
ALTER SYSTEM SET pool_worker.slot_idle_timeout = '1h';
ALTER SYSTEM SET pool_worker.statement_timeout = '30s';
ALTER SYSTEM SET pool_worker.transaction_timeout = '1h';
ALTER SYSTEM SET pool_worker.unix_socket_directories = '.';
ALTER SYSTEM SET pool_worker.weight = 200;
-- and three that it cannot
ALTER SYSTEM SET pool_worker.max_clients = 50;
ALTER SYSTEM SET pool_worker.max_pools = 5;
ALTER SYSTEM SET pool_worker.max_slots = 5;

-- a new session begins with what the reload has brought
SELECT pg_reload_conf();
\c -
SELECT name, current_setting(name) AS value, pending_restart
FROM pg_settings
WHERE name LIKE 'pool_worker.%'
ORDER BY name COLLATE "C";

-- the worker follows
SET statement_timeout = '60s';
DO $$
BEGIN
    WHILE NOT EXISTS (SELECT FROM pool_check()
                      WHERE ("check", ok) = ('port', true)
                        AND detail LIKE '%16432%')
    LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;

-- two settings that contradict each other are the doctor's business
ALTER SYSTEM SET pool_worker.min_pool_size = 4;
SELECT pg_reload_conf();
\c -
SELECT * FROM pool_check() WHERE "check" = 'settings';

-- back to what the server was started with
SELECT format('ALTER SYSTEM RESET %s', name) FROM pg_settings
WHERE name LIKE 'pool_worker.%' ORDER BY name COLLATE "C" \gexec
SELECT pg_reload_conf();
\c -
SET statement_timeout = '60s';
DO $$
BEGIN
    WHILE EXISTS (SELECT FROM pool_check() WHERE "check" = 'port' AND NOT ok)
    LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
SELECT "check", ok FROM pool_check() WHERE "check" IN ('port', 'settings') ORDER BY 1;
SELECT count(*) FROM pg_settings WHERE name LIKE 'pool_worker.%' AND pending_restart;
