"""What a person wants of a smaller model: one number, as a share of what it is or in units."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from tonsor.spelling import unknown

TARGETS = ("macs", "params", "bytes", "latency_ms")


class Target(TypedDict, total=False):
    """Name one target: below 1 a share of what the model has now, else in the unit of its name.

    Example:
        >>> Target(macs=0.5)
        {'macs': 0.5}
    """

    macs: float
    params: float
    bytes: float
    latency_ms: float


@dataclass(frozen=True)
class Aim:
    """Hold a target that was checked.

    Args:
        name: What is counted.
        wanted: What was asked for.

    Example:
        >>> Aim("macs", 0.5).bound(400.0), Aim("macs", 300).bound(400.0)
        (200.0, 300)
    """

    name: str
    wanted: float

    def bound(self, now: float) -> float:
        """Return the most that the model may cost, given what it costs now."""
        return self.wanted * now if self.wanted < 1 else self.wanted


def aim_of(target: Mapping[str, object]) -> Aim:
    """Return the one target that was given.

    Raises:
        ValueError: If there is none, more than one, an unknown one, or one that is not above 0.

    Example:
        >>> aim_of({"mac": 0.5})
        Traceback (most recent call last):
        ValueError: shrink.shrink_to: unknown target 'mac'; did you mean 'macs'? Known: ...
    """
    given = {name: float(wanted) for name, wanted in target.items() if isinstance(wanted, (int, float))}
    for name in target:
        if name not in TARGETS:
            raise ValueError(f"shrink.shrink_to: {unknown('target', name, TARGETS)}")
    if len(target) != 1 or len(given) != 1:
        got = ", ".join(f"{name}={wanted}" for name, wanted in target.items()) or "none"
        raise ValueError(f"shrink.shrink_to: give one number, for {', '.join(TARGETS)}; got {got}")
    [(name, wanted)] = given.items()
    if not wanted > 0:
        raise ValueError(f"shrink.shrink_to: {name} must be above 0; got {wanted}")
    return Aim(name, wanted)
