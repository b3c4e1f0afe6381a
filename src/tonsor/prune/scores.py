"""Score the weights: the importance called with the statistics it names, and the scores checked."""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tonsor.prune.protocol import Importance, Stats
from tonsor.prune.statistics import NAME, STATISTICS, arguments
from tonsor.spelling import unknown


class Computed(Mapping[str, Tensor]):
    """Hold tensors that are computed whenever they are looked at: only one of them is in memory.

    Args:
        names: Their names, in order.
        function: Gives a tensor by its name, always the same.

    Example:
        >>> squares = Computed(["2", "3"], lambda name: torch.tensor(float(name) ** 2))
        >>> squares["3"], len(squares)
        (tensor(9.), 2)
    """

    def __init__(self, names: Collection[str], function: Callable[[str], Tensor], /) -> None:
        self._names = dict.fromkeys(names)  # so that asking for a name computes nothing
        self._function = function

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._function(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def score(weights: Mapping[str, Tensor], stats: Stats, importance: Importance, /) -> Mapping[str, Tensor]:
    """Score every element of the weights.

    An importance that asks for nothing beside the weight is one cheap pass over it: on the CPU its scores
    are computed again whenever they are looked at, and never lie in memory together.

    Args:
        weights: Weights by name.
        stats: Statistics by weight and name.
        importance: Scores the elements.

    Returns:
        The scores by name, shaped like the weights.

    Raises:
        ValueError: If a statistic is missing, or scores are of another shape, infinite or not numbers.

    Example:
        >>> from tonsor.prune import magnitude
        >>> dict(score({"w": torch.tensor([-2.0, 1.0])}, {}, magnitude))
        {'w': tensor([2., 1.])}
    """
    scored = partial(_scored, weights, stats, importance)
    is_cpu = all(weight.device.type == "cpu" for weight in weights.values())
    if is_cpu and not arguments(importance):
        return Computed(weights, _checked(scored, importance))
    kept = {name: scored(name) for name in weights}
    _check_finite({name: _extremes(scores) for name, scores in kept.items()}, importance)
    return kept


def _checked(scored: Callable[[str], Tensor], importance: Importance) -> Callable[[str], Tensor]:
    """Return a function that checks the scores of each weight when they are looked at first."""
    sound = set()

    def look(name: str) -> Tensor:
        scores = scored(name)
        if name not in sound:
            _check_finite({name: _extremes(scores)}, importance)
            sound.add(name)
        return scores

    return look


def _scored(weights: Mapping[str, Tensor], stats: Stats, importance: Importance, name: str) -> Tensor:
    """Return the scores of one weight, called with the statistics that the importance names."""
    weight = weights[name].detach()
    values: list[Any] = [
        name if statistic == NAME else _statistic(name, statistic, stats, importance)
        for statistic in arguments(importance)
    ]
    scores = importance(weight, *values)
    if scores.shape != weight.shape:
        raise ValueError(
            f"prune.find_masks: importance '{_title(importance)}' must score every element of '{name}';"
            f" expected shape {tuple(weight.shape)}, got {tuple(scores.shape)}"
        )
    return scores


def _statistic(name: str, statistic: str, stats: Stats, importance: Importance) -> Tensor:
    """Return one statistic of one weight, or say how to get it."""
    found = stats.get(name, {})
    if statistic in found:
        return found[statistic]
    where = f"prune.find_masks: importance '{_title(importance)}' needs '{statistic}' of weight '{name}'"
    if stats and name not in stats:
        raise ValueError(f"{where}; in stats: {unknown('weight', name, stats)}")
    if statistic not in STATISTICS:
        raise ValueError(f"{where}; {unknown('statistic', statistic, [*STATISTICS, NAME])}")
    raise ValueError(f"{where}; give stats=collect(model, batches, names=['{statistic}'], ...)")


def _title(importance: Importance) -> str:
    """Return the name of an importance, seen through `functools.partial`."""
    inner = importance.func if isinstance(importance, partial) else importance
    return getattr(inner, "__name__", type(inner).__name__)


def _extremes(scores: Tensor) -> Tensor:
    """Return the lowest and the highest score, and what is not a number where there is one: a pass in all."""
    return torch.stack(scores.aminmax()) if scores.numel() else scores.new_zeros(2)


def _check_finite(extremes: Mapping[str, Tensor], importance: Importance) -> None:
    """Refuse scores that are infinite or not numbers; the device is waited for once."""
    if not extremes:
        return
    sound = [pair.isfinite().all() for pair in extremes.values()]
    first = sound[0].device
    for name, is_sound in zip(extremes, torch.stack([s.to(first) for s in sound]).tolist(), strict=True):
        if not is_sound:
            raise ValueError(
                f"prune.find_masks: importance '{_title(importance)}' gave weight '{name}' a score that is"
                " infinite or not a number; look at the weight and its statistics"
            )
