"""pgbench scripts that are made, not written."""

STATEMENTS = 20

FIRST = """\
\\if :first = 1
SELECT set_config('application_name', 'app' || {number}, false),
    set_config('timezone', CASE WHEN {number} % 2 = 0 THEN 'Asia/Tokyo' ELSE 'Europe/Paris' END, false),
    set_config('search_path', 's' || {number} || ', public', false);
{prepares}
\\set first 0
\\endif
"""

PREPARE = ("PREPARE p{statement}(int) AS SELECT abalance + {statement} + {number} "
           "FROM pgbench_accounts WHERE aid = $1;")

THEN = """\
\\set aid random(1, 100000 * :scale)
\\set n random(0, {last})
EXECUTE p:n(:aid);
"""


def sessions(number):
    """A client sets three settings and prepares STATEMENTS statements in its first
    transaction, and executes one of them in each.  Everything depends on a number: a
    constant makes equal sessions, :client_id different ones."""
    prepares = "\n".join(PREPARE.format(statement=statement, number=number)
                         for statement in range(STATEMENTS))
    return (FIRST.format(number=number, prepares=prepares)
            + THEN.format(last=STATEMENTS - 1))
