"""The results as Markdown tables, for docs/benchmarks.md."""

from results import ratio
from systems import NAMES
from targets import TARGETS

HEADER = ("case", "direct", "pool", "pgbouncer", "pool/direct", "pool/pgbouncer",
          "target", "met?")
NOTHING = "–"

# Tables of other results than throughput: heading, what selects the cases, and the
# rows that each case gives: (addition to the label, metric, format).
MORE_TABLES = (
    ("Latency in ms (lower is better)", "latency",
     ((", p50", "p50", "{:.3f}"), (", p99", "p99", "{:.3f}"))),
    ("Requests served, in percent", "bursts",
     (("", "served", "{:.1f}"),)),
    ("CPU seconds of server and pooler per million transactions (lower is better)", "cpu",
     (("", "cpu", "{:.1f}"),)),
    ("Fairness: transactions of one client during a run", "fairness",
     ((", fewest", "fewest", "{:.0f}"), (", most", "most", "{:.0f}"),
      (", fewest/most", "fairness", "{:.2f}"))),
    ("Memory in bytes per idle client (lower is better)", "idle_clients",
     ((": private to the pooler's process", "idle_private", "{:.0f}"),
      (": private to the other processes", "idle_others", "{:.0f}"),
      (": shared memory of the server", "idle_shared", "{:.0f}"))),
)


def all_tables(cases, results):
    """Every table as text, one after the other."""
    for heading in dict.fromkeys(case.table for case in cases):
        rows = [row(results, case, case.label, "tps", "{:,.0f}")
                for case in cases if case.table == heading]
        yield table(heading, rows)
    for heading, selector, parts in MORE_TABLES:
        rows = [row(results, case, long_label(case) + addition, metric, form)
                for case in cases if getattr(case, selector)
                for addition, metric, form in parts]
        if rows:
            yield table(heading, rows)


def table(heading, rows):
    """One Markdown table under its heading."""
    lines = [f"### {heading}", "", line(HEADER),
             line(["---"] + ["--:"] * 5 + ["---"] * 2)]
    return "\n".join(lines + [line(cells) for cells in rows]) + "\n"


def line(cells):
    """One line of a table."""
    return "| " + " | ".join(cells) + " |"


def long_label(case):
    """The label with what the heading of a throughput table would have said."""
    if case.idle_clients:
        return case.label
    return f"{case.label}, {'Unix socket' if case.transport == 'unix' else 'TCP'}"


def row(results, case, label, metric, form):
    """The cells of one case and one metric."""
    values = {name: results.median(case.name, name, metric) for name in NAMES}
    if metric != "tps" and case.direct_clients is not None:
        values["direct"] = None         # other clients than the case has: no comparison
    cells = [cell(results, case, name, metric, values[name], form) for name in NAMES]
    ratios = [ratio(values["pool"], values[name]) for name in ("direct", "pgbouncer")]
    targets = [target for target in TARGETS
               if target.case == case.name and target.metric == metric]
    verdicts = [target.verdict(results.target_value(target)) for target in targets]
    return [label, *cells,
            *(NOTHING if r is None else f"{r:.2f}" for r in ratios),
            "; ".join(target.text() for target in targets) or NOTHING,
            "; ".join(verdicts) or NOTHING]


def cell(results, case, system, metric, value, form):
    """One result."""
    if results.has_failed(case.name, system):
        return "failed"
    if value is None:
        return NOTHING
    text = form.format(value)
    if metric == "tps" and case.clients_of(system) != case.clients:
        text += f" ({case.clients_of(system)} clients)"
    return text


def missed_targets(results):
    """A line for every measured target that was not reached."""
    for target in TARGETS:
        value = results.target_value(target)
        if value is not None and target.missed_percent(value) > 0:
            yield (f"{target.case}: {value:.2f}, target {target.text()}: "
                   f"{target.verdict(value)}")
