-- For the isolation tester behind the pool.  It asks the server whether one of
-- its sessions is blocked by the others, and names them by process.  Through the
-- pool a session is a client, which may have another process for each
-- transaction: so here it names clients (see client_pid.c), and we look up which
-- processes serve them at the moment.

ALTER FUNCTION pg_catalog.pg_isolation_test_session_is_blocked(int, int[]) RENAME TO processes_are_blocked;

CREATE FUNCTION pg_catalog.pg_isolation_test_session_is_blocked(int, int[]) RETURNS bool
LANGUAGE sql STRICT SET search_path = pool_worker_check, pg_catalog AS
$$
  WITH clients AS (SELECT client, pid FROM pool_clients() WHERE pid IS NOT NULL)
  SELECT coalesce(processes_are_blocked((SELECT pid FROM clients WHERE client = $1),
                                        (SELECT array_agg(pid) FROM clients WHERE client = ANY ($2))),
                  false)
$$;
