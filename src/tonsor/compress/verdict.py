"""What a trial comes to, and how it is told."""

from collections.abc import Mapping, Sequence
from typing import Any

from tonsor.compress.plan import Plan, choose, finish
from tonsor.compress.trial import Measured

WHOLE = "none"  # how it is told that nothing is compressed


def decide(found: Measured, /, *, error: float, margin: float) -> tuple[Plan, str]:
    """Return the number of a candidate for each bucket, 0 for none, and why.

    Args:
        found: What was measured.
        error: The largest relative error of all gradients together.
        margin: The fraction of a step that must be saved.

    Returns:
        The plan, and a sentence about the seconds of a step.

    Example:
        >>> from tonsor.compress.plan import Cost
        >>> costs = [[Cost(0.0, 0.5, 0.0), Cost(0.1, 0.1, 0.2)]]
        >>> decide(Measured((("w",),), [0.0], costs, [1.0], 0.8, 0.8, {}), error=0.9, margin=0.05)
        ((1,), '500 ms a step expected, 800 ms without compression')
    """
    plan = choose(found.arrivals, found.costs, error=error, whole=found.whole)
    whole = (0,) * len(plan)
    own = [row[0].compute for row in found.costs]
    ends = [
        finish(found.arrivals, [row[c] for row, c in zip(found.costs, each, strict=True)], own=own)
        for each in (whole, plan)
    ]
    expected = found.period - ends[0] + ends[1] if found.costs else found.period
    why = f"{_ms(expected)} ms a step expected, {_ms(found.plain)} ms without compression"
    if expected > (1 - margin) * found.plain or plan == whole:
        return whole, f"too little to gain: {why}"
    return plan, why


def rows_of(found: Measured, names: Sequence[str], choice: Mapping[str, str], /) -> list[dict[str, Any]]:
    """Return a row for each bucket: when it comes, what each candidate takes and loses, what was chosen.

    Args:
        found: What was measured.
        names: Of the candidates.
        choice: Candidate by parameter name.

    Returns:
        Rows of texts by column, in the order of serving.

    Example:
        >>> from tonsor.compress.plan import Cost
        >>> costs = [[Cost(0.0, 0.5, 0.0), Cost(0.1, 0.1, 0.25)]]
        >>> rows_of(Measured((("w",),), [0.0], costs, [1.0], 0.8, 0.8, {}), ["top-k"], {"w": "top-k"})
        [{'bucket': 'w', 'comes': '0', 'none': '500', 'top-k': '200, error 0.5', 'chosen': 'top-k'}]
    """
    rows = []
    for bucket, arrival, costs, whole in zip(
        found.buckets, found.arrivals, found.costs, found.whole, strict=True
    ):
        row: dict[str, Any] = {"bucket": bucket[0] + (f" +{len(bucket) - 1}" if len(bucket) > 1 else "")}
        row["comes"] = _ms(arrival)
        row[WHOLE] = _ms(costs[0].compute + costs[0].send)
        for name, cost in zip(names, costs[1:], strict=True):
            error = (cost.lost / whole) ** 0.5 if whole > 0 else 0.0
            row[name] = f"{_ms(cost.compute + cost.send)}, error {error:.2g}"
        rows.append({**row, "chosen": choice.get(bucket[0], WHOLE)})
    return rows


def table(found: Measured, names: Sequence[str], choice: Mapping[str, str], why: str, /) -> str:
    """Return the rows as a text, with the link above and the reason below.

    Args:
        found: What was measured.
        names: Of the candidates.
        choice: Candidate by parameter name.
        why: The reason.

    Example:
        >>> from tonsor.compress.link import Link
        >>> from tonsor.compress.plan import Cost
        >>> link, cost = Link(0.001, 1e-7), Cost(0.0, 0.5, 0.0)
        >>> found = Measured((("w",),), [0.0], [[cost]], [1.0], 0.8, 0.8, {"mean": link})
        >>> print(table(found, [], {}, "too little to gain"))
        mean: 1 ms a message and 10 MB a second
        bucket  comes  none  chosen   (ms)
        w       0      500   none
        too little to gain
    """
    lines = [
        f"{kind}: {_ms(link.alpha)} ms a message and {1e-6 / link.beta:.3g} MB a second"
        for kind, link in found.links.items()
        if link.beta > 0
    ]
    rows = rows_of(found, names, choice)
    if rows:
        cells = [list(rows[0]), *(list(row.values()) for row in rows)]
        widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
        drawn = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        lines += [drawn[0] + "   (ms)", *drawn[1:]]
    return "\n".join([*lines, why])


def _ms(seconds: float) -> str:
    """Return milliseconds as people write them."""
    return f"{seconds * 1e3:.3g}"
