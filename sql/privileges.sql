--
-- Who may look and who may change.  One block per REVOKE in the install
-- script; a new function without a block here changes the first query.
--

CREATE ROLE regress_pool_nobody;
CREATE ROLE regress_pool_monitor IN ROLE pg_monitor;
CREATE ROLE regress_pool_stats IN ROLE pg_read_all_stats;
CREATE ROLE regress_pool_bob LOGIN NOINHERIT;
CREATE ROLE regress_pool_boss IN ROLE regress_pool_bob;

-- every function of the extension, and whether PUBLIC and pg_monitor may
-- call it
SELECT p.proname,
       has_function_privilege('regress_pool_nobody', p.oid, 'EXECUTE') AS everybody,
       has_function_privilege('regress_pool_monitor', p.oid, 'EXECUTE') AS monitor
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass
                   AND d.refobjid = e.oid
WHERE e.extname = 'pool_worker'
ORDER BY p.proname;

-- pool_check()
SET ROLE regress_pool_nobody;
SELECT * FROM pool_check();                                         -- fail
SET ROLE regress_pool_stats;
SELECT * FROM pool_check();                                         -- fail
SET ROLE regress_pool_monitor;
SELECT "check", ok, detail, hint FROM pool_check() WHERE "check" LIKE 'pg_hba%';
RESET ROLE;
-- the files are for superusers, but they may let others read them
GRANT SELECT ON pg_hba_file_rules, pg_ident_file_mappings TO regress_pool_monitor;
SET ROLE regress_pool_monitor;
SELECT count(*) FROM pool_check() WHERE "check" LIKE 'pg_hba%' AND ok IS NULL;
RESET ROLE;
GRANT EXECUTE ON FUNCTION pg_hba_file_rules(), pg_ident_file_mappings() TO regress_pool_monitor;
SET ROLE regress_pool_monitor;
SELECT count(*) FROM pool_check() WHERE "check" LIKE 'pg_hba%' AND ok IS NULL;
RESET ROLE;
REVOKE SELECT ON pg_hba_file_rules, pg_ident_file_mappings FROM regress_pool_monitor;
REVOKE EXECUTE ON FUNCTION pg_hba_file_rules(), pg_ident_file_mappings() FROM regress_pool_monitor;

--
-- pool_slots() and pool_clients(): everybody's own, and all for monitors.
-- Two pools: the superuser's, and that of a client which can become others.
--

GRANT regress_pool_nobody, regress_pool_monitor, regress_pool_stats TO regress_pool_bob;
SELECT current_user AS superuser, current_setting('port') AS server_port,
       current_setting('pool_worker.port') AS pool_port \gset

\c - - - :pool_port
SELECT role = current_user AS own, count(*) > 0 AS visible
FROM pool_slots() GROUP BY 1;

\c - regress_pool_bob
SELECT DISTINCT role FROM pool_slots();
SELECT role, count(*) FROM pool_clients() GROUP BY 1;
SET ROLE regress_pool_nobody;
SELECT count(*) FROM pool_slots();
SELECT count(*) FROM pool_clients();
SET ROLE regress_pool_monitor;
SELECT role = session_user AS own, count(*) > 0 AS visible
FROM pool_slots() GROUP BY 1 ORDER BY 1;
SELECT role, count(*) FROM pool_clients() WHERE pid = pg_backend_pid() GROUP BY 1;
SET ROLE regress_pool_stats;
SELECT role = session_user AS own, count(*) > 0 AS visible
FROM pool_slots() GROUP BY 1 ORDER BY 1;
SELECT role, count(*) FROM pool_clients() WHERE pid = pg_backend_pid() GROUP BY 1;

-- a member of the client's role sees what the client sees
\c - :superuser - :server_port
SET ROLE regress_pool_boss;
SELECT DISTINCT role FROM pool_slots();
-- names of pools are for everybody
SET ROLE regress_pool_nobody;
SELECT DISTINCT role FROM pool_status() WHERE role = 'regress_pool_bob';
RESET ROLE;

-- the slot goes with its role
SELECT bool_and(pg_terminate_backend(pid, 60000)) AS gone
FROM pool_slots() WHERE role = 'regress_pool_bob';
DROP ROLE regress_pool_boss, regress_pool_bob, regress_pool_nobody,
    regress_pool_monitor, regress_pool_stats;
