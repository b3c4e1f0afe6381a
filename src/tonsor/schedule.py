"""Schedules: a number that depends on the step. What tunes it is bound with `functools.partial`."""

import math
from collections.abc import Callable
from typing import Protocol


class Schedule(Protocol):
    """Give the value at a step.

    Example:
        >>> from functools import partial
        >>> halve: Schedule = partial(linear, initial=1.0, final=0.5, stop=10)
        >>> halve(10)
        0.5
    """

    def __call__(self, step: int, /) -> float:
        """Return the value at `step`, counted from 0."""
        ...


def constant(step: int, /, *, final: float = 1.0) -> float:
    """Return the same value at every step.

    Args:
        step: Ignored.
        final: The value.

    Returns:
        `final`.

    Example:
        >>> constant(7, final=0.5)
        0.5
    """
    return final


def linear(step: int, /, *, initial: float = 0.0, final: float = 1.0, start: int = 0, stop: int) -> float:
    r"""Go from `initial` to `final` in equal steps: :math:`v_0 + (v_1 - v_0)\,p`.

    Args:
        step: Counted from 0.
        initial: Value up to `start`.
        final: Value from `stop` on.
        start: Last step at the initial value.
        stop: First step at the final value, not before `start`.

    Returns:
        The value at the step.

    Raises:
        ValueError: If `stop` lies before `start`.

    Example:
        >>> [linear(s, initial=0.0, final=1.0, start=10, stop=20) for s in (0, 10, 15, 20, 30)]
        [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    return _between(initial, final, _progress(step, start, stop))


def cosine(step: int, /, *, initial: float = 0.0, final: float = 1.0, start: int = 0, stop: int) -> float:
    r"""Go from `initial` to `final` along half a cosine: slow, fast, slow.

    :math:`v_0 + (v_1 - v_0)\,(1 - \cos \pi p) / 2`, where `p` is the share of the way.

    Args:
        step: Counted from 0.
        initial: Value up to `start`.
        final: Value from `stop` on.
        start: Last step at the initial value.
        stop: First step at the final value, not before `start`.

    Returns:
        The value at the step.

    Raises:
        ValueError: If `stop` lies before `start`.

    Example:
        >>> [round(cosine(s, initial=1.0, final=0.0, stop=4), 3) for s in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]

    References:
        Loshchilov and Hutter, 2017, "SGDR", https://arxiv.org/abs/1608.03983
    """
    progress = _progress(step, start, stop)
    return _between(initial, final, (1 - math.cos(math.pi * progress)) / 2)


def cubic(step: int, /, *, initial: float = 0.0, final: float = 1.0, start: int = 0, stop: int) -> float:
    r"""Go from `initial` to `final` fast at first, then ever slower.

    :math:`v_1 + (v_0 - v_1)\,(1 - p)^3`: the sparsity ramp of gradual magnitude pruning, which removes
    much while much is redundant.

    Args:
        step: Counted from 0.
        initial: Value up to `start`.
        final: Value from `stop` on.
        start: Last step at the initial value.
        stop: First step at the final value, not before `start`.

    Returns:
        The value at the step.

    Raises:
        ValueError: If `stop` lies before `start`.

    Example:
        >>> [round(cubic(s, final=0.8, stop=4), 4) for s in range(5)]
        [0.0, 0.4625, 0.7, 0.7875, 0.8]

    References:
        Zhu and Gupta, 2017, "To prune, or not to prune", https://arxiv.org/abs/1710.01878
    """
    return _between(initial, final, 1 - (1 - _progress(step, start, stop)) ** 3)


def exponential(
    step: int, /, *, initial: float = 0.0, final: float = 0.9, start: int = 0, stop: int
) -> float:
    r"""Remove the same share of what is left in equal times: :math:`1 - (1 - v_0)^{1-p}\,(1 - v_1)^p`.

    The density decays exponentially, as in iterative pruning that takes 20 % of what is left in each round.
    It is made for sparsities; as a factor on a learning rate it falls at the very end.

    Args:
        step: Counted from 0.
        initial: Value up to `start`, at most 1.
        final: Value from `stop` on, at most 1.
        start: Last step at the initial value.
        stop: First step at the final value, not before `start`.

    Returns:
        The value at the step.

    Raises:
        ValueError: If `stop` lies before `start`, or a value above 1.

    Example:
        >>> [round(exponential(s, final=0.488, stop=3), 3) for s in range(4)]
        [0.0, 0.2, 0.36, 0.488]

    References:
        Frankle and Carbin, 2019, "The Lottery Ticket Hypothesis", https://arxiv.org/abs/1803.03635
    """
    if max(initial, final) > 1:
        raise ValueError(f"schedule.exponential: values must be at most 1; got {initial} to {final}")
    progress = _progress(step, start, stop)
    if progress in (0, 1):
        return final if progress else initial
    return 1 - float((1 - initial) ** (1 - progress) * (1 - final) ** progress)


def stairs(
    step: int, /, *, initial: float = 0.0, final: float = 1.0, start: int = 0, stop: int, count: int = 10
) -> float:
    r"""Go from `initial` to `final` in equal stairs: :math:`v_0 + (v_1 - v_0) \lfloor p\,n \rfloor / n`.

    Args:
        step: Counted from 0.
        initial: Value up to `start`, and on to the first stair.
        final: Value from `stop` on.
        start: Last step at the initial value.
        stop: First step at the final value, not before `start`.
        count: How many stairs, at least 1; more comes near to `linear`.

    Returns:
        The value at the step.

    Raises:
        ValueError: If `stop` lies before `start`, or `count` below 1.

    Example:
        >>> [stairs(s, stop=8, count=2) for s in (0, 3, 4, 7, 8)]
        [0.0, 0.0, 0.5, 0.5, 1.0]
    """
    if count < 1:
        raise ValueError(f"schedule.stairs: count must be at least 1; got {count}")
    # 1e-9: a third of 9 steps times 3 stairs is a little less than 1.
    return _between(initial, final, math.floor(_progress(step, start, stop) * count + 1e-9) / count)


def _between(initial: float, final: float, share: float) -> float:
    """Return the point between two values, exact at both ends."""
    return final if share == 1 else initial + (final - initial) * share


def _progress(step: int, start: int, stop: int) -> float:
    """Return the share of the way from `start` to `stop`, in [0, 1]."""
    if stop < start:
        raise ValueError(f"schedule: stop must not lie before start; got start={start}, stop={stop}")
    if step >= stop:
        return 1.0
    return max(0, step - start) / (stop - start) if step > start else 0.0


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "cubic": cubic,
    "exponential": exponential,
    "stairs": stairs,
}
