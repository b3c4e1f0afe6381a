"""Groups for people: a table of what can go and what it costs, and one of what stays and why."""

from collections.abc import Mapping, Sequence

from tonsor.shrink.collect import Group
from tonsor.shrink.costs import Costs, kind_of

FREE = ("group", "units", "parameters a unit", "MACs a unit", "units are", "slices")
FROZEN = ("stays", "units", "why", "slices")
NUMBERS = {"units", "parameters a unit", "MACs a unit"}


def listing(groups: Mapping[str, Group], frozen: Sequence[Group], costs: Costs) -> str:
    """Return two tables: groups with what one unit of each costs while all else is there, and what stays.

    Example:
        >>> import torch
        >>> from tonsor.shrink.work import Work
        >>> from tonsor.shrink import Slice
        >>> part = Slice("head.weight", 0, "producer", torch.tensor([[0], [1]]))
        >>> part = Group("head.weight", 2, (part,), 4, "model output", torch.tensor([1, 2]))
        >>> print(listing({}, [part], Costs({}, Work(), {}, frozenset(), (), {})))
        stays        units  why           slices
        head.weight      2  model output  head.weight[0]
    """
    free = [
        (
            group.name,
            str(group.units),
            f"{costs.unit(name).params:,}",
            f"{costs.unit(name).macs:,}",
            kind_of(group, costs.work),
            group.describe(),
        )
        for name, group in groups.items()
    ]
    stays = [(g.name, str(g.units), g.reason, g.describe()) for g in frozen]
    first = max((len(line[0]) for line in (*free, *stays)), default=0)
    tables = [_table(head, rows, first) for head, rows in ((FREE, free), (FROZEN, stays)) if rows]
    return "\n".join(tables)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], first: int) -> str:
    """Return rows under their heads, numbers to the right, the first column at least so wide."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
    widths[0] = max(widths[0], first)
    signs = [">" if name in NUMBERS else "<" for name in head]
    return "\n".join(
        "  ".join(f"{cell:{sign}{width}}" for cell, sign, width in zip(line, signs, widths, strict=False))
        + f"  {line[-1]}"
        for line in lines
    )
