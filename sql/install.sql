--
-- What the extension brings, and that it comes and goes without a trace.
--

CREATE EXTENSION pool_worker;
\dx+ pool_worker

-- the functions, column by column
\a
SELECT p.proname AS function, c.n, c.name, c.type::regtype
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass
                   AND d.refobjid = e.oid
CROSS JOIN unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[]))
           WITH ORDINALITY AS c(name, type, n)
WHERE e.extname = 'pool_worker'
ORDER BY p.proname, c.n;
\a

-- the ones nobody has described: expect none
SELECT p.proname
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass
                   AND d.refobjid = e.oid
WHERE e.extname = 'pool_worker' AND obj_description(p.oid, 'pg_proc') IS NULL
ORDER BY p.proname;

-- the server has only just started: wait until the pool is there
SET statement_timeout = '60s';
DO $$
BEGIN
    WHILE EXISTS (SELECT FROM pool_check()
                  WHERE "check" IN ('worker', 'port') AND NOT ok)
    LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
RESET statement_timeout;

-- the doctor is content, and each check says something
SELECT "check", bool_and(ok) AS ok, bool_or(detail IS NULL) AS mute
FROM pool_check()
GROUP BY 1 ORDER BY 1;

-- nobody has used the pool of a role that does not exist
SELECT count(*) FROM pool_status() WHERE role = 'regress_pool_nobody';
SELECT count(*) FROM pool_slots() WHERE role = 'regress_pool_nobody';
SELECT count(*) FROM pool_clients() WHERE role = 'regress_pool_nobody';

-- also in a select list
SELECT count(*) >= 0 AS works FROM (SELECT pool_status()) s;
SELECT count(*) > 0 AS works FROM (SELECT (pool_check()).detail) s;

-- in another schema
CREATE SCHEMA regress_pool_schema;
ALTER EXTENSION pool_worker SET SCHEMA regress_pool_schema;
SELECT count(*) >= 0 AS works FROM regress_pool_schema.pool_status();
DROP EXTENSION pool_worker;
CREATE EXTENSION pool_worker SCHEMA regress_pool_schema;
SELECT count(*) >= 0 AS works FROM regress_pool_schema.pool_slots();

-- a schema of the caller in front of pg_catalog cannot get in between
CREATE FUNCTION regress_pool_schema.has_table_privilege(text, text)
RETURNS bool LANGUAGE plpgsql
AS $$ BEGIN RAISE 'this must not be called'; END $$;
SET search_path = regress_pool_schema, pg_catalog;
SELECT count(*) > 0 AS works FROM pool_check();
SHOW search_path;
RESET search_path;

-- for the tests that follow
DROP EXTENSION pool_worker;
DROP SCHEMA regress_pool_schema CASCADE;
CREATE EXTENSION pool_worker;
