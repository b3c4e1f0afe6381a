"""What a framework's log is told of the last steps."""

from collections.abc import Sequence
from typing import Any

from tonsor.attached import Attached


def figures(attached: Sequence[Attached], steps: int, /) -> dict[str, float]:
    """Return what a log shall hold of the last steps; reading them waits for an accelerator.

    Args:
        attached: One handle for each optimizer; with several, keys end in its number.
        steps: How many of the last rows count for the share, at least 1.

    Returns:
        `clip/norm` and `clip/threshold` of the last step (the threshold where the rule has one), and of
        all those steps the share that was clipped, `clip/share`, and the sum of skipped ones so far,
        `clip/skipped`. Empty before the first step.

    Example:
        >>> import torch, tonsor
        >>> w = torch.nn.Parameter(torch.zeros(1)); sgd = torch.optim.SGD([w], lr=1.0)
        >>> attached = tonsor.attach(sgd, clip=tonsor.clip.global_norm)
        >>> w.grad = torch.tensor([4.0]); sgd.step(); figures([attached], 1)
        {'clip/norm': 4.0, 'clip/share': 1.0, 'clip/skipped': 0.0, 'clip/threshold': 1.0}
    """
    found: dict[str, float] = {}
    for number, each in enumerate(attached):
        tail = f"/{number}" if len(attached) > 1 else ""
        rows = each.history.rows(steps)
        told = _of_rows(rows) | {"clip/skipped": float(each.skipped)} if rows else {}
        found |= {f"{key}{tail}": told[key] for key in sorted(told)}
    return found


def _of_rows(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of some rows; a number that is not known has no key."""
    last = rows[-1]
    known = [row["clipped"] for row in rows if row["clipped"] is not None]
    told = {"clip/norm": last["before"], "clip/threshold": last["threshold"]}
    share = {"clip/share": sum(known) / len(known)} if known else {}
    return {key: float(value) for key, value in told.items() if value is not None} | share
