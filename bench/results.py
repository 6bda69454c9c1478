"""What was measured, and what follows from it."""

import statistics


class Results:
    """Figures by case, system and round; failures beside them."""

    def __init__(self):
        self.rounds = {}                # (case name, system name) -> [figures]
        self.failures = []              # (case name, system name, what happened)

    def add(self, case, system, figures):
        """Keep the figures of one measurement."""
        self.rounds.setdefault((case, system), []).append(figures)

    def fail(self, case, system, reason):
        """Keep a failure; the figures of this case on this system are void."""
        self.failures.append((case, system, str(reason)))

    def has_failed(self, case, system):
        """Whether a measurement of this case on this system had errors."""
        return any((case, system) == failure[:2] for failure in self.failures)

    def median(self, case, system, metric="tps"):
        """The median over the rounds; None if there is nothing to take it of."""
        if self.has_failed(case, system):
            return None
        values = [figures[metric] for figures in self.rounds.get((case, system), ())
                  if metric in figures]
        return statistics.median(values) if values else None

    def target_value(self, target):
        """What a target is about: a median, or a ratio to another.  If both are of the
        same system, it is the median of the ratios round by round: they are measured
        one right after the other, and may differ by little."""
        value = self.median(target.case, "pool", target.metric)
        if target.against_system is None or value is None:
            return value
        if target.against_system == "pool":
            return self.paired_ratio(target.case, target.against_case, "pool",
                                     target.metric)
        return ratio(value, self.median(target.against_case or target.case,
                                        target.against_system, target.metric))

    def paired_ratio(self, case, other, system, metric):
        """The median of the ratios of two cases in each round; None without any."""
        if self.has_failed(other, system):
            return None
        pairs = zip(self.rounds.get((case, system), ()),
                    self.rounds.get((other, system), ()))
        ratios = [mine[metric] / theirs[metric] for mine, theirs in pairs]
        return statistics.median(ratios) if ratios else None

    def as_json(self):
        """Everything, for --json."""
        return {
            "measurements": [
                {"case": case, "system": system, "rounds": figures}
                for (case, system), figures in self.rounds.items()],
            "failures": [
                {"case": case, "system": system, "reason": reason}
                for case, system, reason in self.failures],
        }


def ratio(value, other):
    """value / other, None if one of them is missing."""
    return value / other if value is not None and other else None
