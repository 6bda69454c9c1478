--
-- What an administrator can do: rights, arguments, and what each function says.
-- That it does it is in t/051_operations.pl.
--

CREATE ROLE regress_pool_admin;
CREATE ROLE regress_pool_signal IN ROLE pg_signal_backend;
CREATE ROLE regress_pool_nobody;
CREATE ROLE regress_pool_bob LOGIN;
SELECT current_user AS superuser, current_setting('port') AS server_port,
       current_setting('pool_worker.port') AS pool_port \gset

-- the functions for pools are nobody's
SET ROLE regress_pool_signal;
SELECT pool_pause();                                                -- fail
SELECT pool_resume();                                               -- fail
SELECT pool_drain();                                                -- fail
SELECT pool_recycle();                                              -- fail
RESET ROLE;

-- but can be granted
GRANT EXECUTE ON FUNCTION pool_pause, pool_resume, pool_drain, pool_recycle
    TO regress_pool_admin;
SET ROLE regress_pool_admin;
SELECT * FROM pool_pause(role => 'regress_pool_nobody');
SELECT * FROM pool_drain(role => 'regress_pool_nobody');
SELECT * FROM pool_recycle(role => 'regress_pool_nobody');
SELECT * FROM pool_resume(role => 'regress_pool_nobody');
RESET ROLE;

-- what is to be remembered must exist
SELECT * FROM pool_pause('regress_no_database');                    -- fail
SELECT * FROM pool_drain(role => 'regress_no_role');                -- fail
-- but it may be gone when it is to be forgotten
SELECT * FROM pool_resume('regress_no_database');
SELECT * FROM pool_recycle('regress_no_database');

SELECT * FROM pool_pause(timeout => -1);                            -- fail
SELECT * FROM pool_disconnect(0, -1);                               -- fail

-- there is no client 0
SELECT pool_cancel(0);
SELECT pool_disconnect(0);
SELECT pool_disconnect(NULL);

-- what has been said is seen, also without a pool, and the later word counts
SELECT * FROM pool_pause(role => 'regress_pool_bob');
SELECT ok, split_part(replace(detail, current_database(), 'here'), ' since', 1) AS detail, hint
FROM pool_check() WHERE "check" = 'stopped pools';
SELECT * FROM pool_drain(current_database(), 'regress_pool_bob');
SELECT ok, split_part(replace(detail, current_database(), 'here'), ' since', 1) AS detail
FROM pool_check() WHERE "check" = 'stopped pools';
SELECT * FROM pool_resume(role => 'regress_pool_bob');
SELECT ok, detail, hint FROM pool_check() WHERE "check" = 'stopped pools';

-- a client is for its own role, and for members of pg_signal_backend
GRANT regress_pool_nobody, regress_pool_signal TO regress_pool_bob;
\c - regress_pool_bob - :pool_port
SELECT client AS bob FROM pool_clients() WHERE pid = pg_backend_pid() \gset
SELECT pool_cancel(:bob);                                           -- itself
SET ROLE regress_pool_signal;
SELECT pool_cancel(:bob);                                           -- itself
SET ROLE regress_pool_nobody;
SELECT pool_cancel(:bob);                                           -- fail
SELECT pool_disconnect(:bob);                                       -- fail

-- that of a superuser is for superusers
\c - :superuser - :pool_port
SELECT client AS super FROM pool_clients() WHERE pid = pg_backend_pid() \gset
SELECT pool_cancel(:super);                                         -- itself
SET ROLE regress_pool_signal;
SELECT pool_cancel(:super);                                         -- fail
SELECT pool_disconnect(:super);                                     -- fail
RESET ROLE;

-- nobody shuts himself out
\set VERBOSITY terse
SELECT * FROM pool_pause();                                         -- fail
SELECT * FROM pool_drain(current_database(), current_user);         -- fail
\set VERBOSITY default
-- but another pool can be stopped from here
SELECT rolname, slots, remaining FROM pool_pause(role => 'regress_pool_bob');
SELECT role, state FROM pool_status() WHERE role = 'regress_pool_bob';
SELECT rolname, slots FROM pool_resume(current_database(), 'regress_pool_bob');
SELECT role, state = 'paused' AS paused FROM pool_status() WHERE role = 'regress_pool_bob';
-- and its own be recycled
SELECT rolname = current_user AS own, slots, remaining FROM pool_recycle(role => current_user);

\c - :superuser - :server_port
SELECT bool_and(pg_terminate_backend(pid, 60000)) AS gone
FROM pool_slots() WHERE role = 'regress_pool_bob';
DROP OWNED BY regress_pool_admin;
DROP ROLE regress_pool_admin, regress_pool_signal, regress_pool_nobody,
    regress_pool_bob;
