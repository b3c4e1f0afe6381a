"""One candidate with every number of bits: packed, unpacked, and judged as what was unpacked."""

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tonsor import pack as room
from tonsor.modes import call, evaluating
from tonsor.recipe.fitting_how import How
from tonsor.recipe.fitting_limits import Budget

LOOKED_AT = 8  # batches by whose outputs bits are weighed against one another


class Judge:
    """Pack a pruned model with more or fewer bits, and measure what comes out of the packed bytes.

    Args:
        model: The candidate, pruned; left as it is.
        dense: What its answers are compared with.
        batches: Of inputs, without labels.
        evaluate: Gives the metric of a model.
        how: How.
        about: Kept in the packed file.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> judge = Judge(model, model, [(torch.randn(32, 4), None)], lambda m: 1.0, How(steps=2), {})
        >>> judge.size(0) > judge.size(judge.last), judge.metric(0)
        (True, 1.0)
    """

    def __init__(
        self,
        model: nn.Module,
        dense: nn.Module,
        batches: list[tuple[Any, Any]],
        evaluate: Callable[[nn.Module], float],
        how: How,
        about: Mapping[str, Any],
    ) -> None:
        self._model, self._dense, self._batches = model, dense, batches
        self._evaluate, self._how, self._about = evaluate, how, about
        self._known: dict[int, tuple[nn.Module, room.Packed, float]] = {}

    @property
    def last(self) -> int:
        """The step with the fewest bits."""
        return len(self._path.bits) - 1

    def bits(self, step: int) -> dict[str, int]:
        """Return the bits of a step by name."""
        return self._path.bits[step]

    def size(self, step: int) -> int:
        """Return the bytes of the file, before values are trained, which changes them by a few."""
        return self._path.bytes[step] + self._header

    def metric(self, step: int) -> float:
        """Return the metric of what is unpacked."""
        return self._done(step)[2]

    def model(self, step: int) -> nn.Module:
        """Return the model with what is unpacked."""
        return self._done(step)[0]

    def save(self, step: int, path: Path) -> int:
        """Write the packed file, whole or not at all, and return its bytes."""
        return room.save(self._done(step)[1], path)

    @cached_property
    def _path(self) -> room.BitPath:
        """The way from the most bits to the fewest."""
        trial = copy.deepcopy(self._model)
        looked_at = self._batches[:LOOKED_AT]
        with evaluating(self._dense):
            taught = [call(self._dense, inputs) for inputs, _ in looked_at]

        def measure(tensors: Mapping[str, Tensor]) -> float:
            trial.load_state_dict(dict(tensors), strict=False)
            with evaluating(trial):
                pairs = zip(looked_at, taught, strict=True)
                return sum(float(self._how.apart(call(trial, x), answers)) for (x, _), answers in pairs)

        # A parameter's tied names stand in the state, too, and only the first of them is packed.
        names = [name for name, p in self._model.named_parameters() if p.is_floating_point()]
        return room.bit_path(
            self._model, measure=measure, choices=self._how.choices, sharing=self._how.sharing, names=names
        )

    @cached_property
    def _header(self) -> int:
        """The bytes of the file beside its tensors."""
        packed = room.pack(self._model, shared=self._path.shared(0), about=self._about)
        with tempfile.TemporaryDirectory() as folder:
            return room.save(packed, Path(folder) / "trial.tonsor") - packed.bytes

    def _done(self, step: int) -> tuple[nn.Module, room.Packed, float]:
        """Return the model that is unpacked, the packed one, and the metric."""
        if step not in self._known:
            model = copy.deepcopy(self._model)
            packed = room.pack(model, shared=self._trained(model, step), about=self._about)
            model.load_state_dict(room.unpack(packed))
            with evaluating(model):
                self._known[step] = model, packed, self._evaluate(model)
        return self._known[step]

    def _trained(self, model: nn.Module, step: int) -> Mapping[str, room.Shared]:
        """Return the shared weights, their values trained to give the dense model's answers."""
        shared = self._path.shared(step)
        if not self._how.steps:
            return shared
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        steps = self._how.steps
        return room.finetune_(
            model, shared, self._taught(steps), self._how.apart, lr=self._how.lr, steps=steps
        )

    def _taught(self, steps: int) -> Iterator[tuple[Any, Any]]:
        """Yield batches with the dense model's answers, over and over."""
        for inputs, _ in islice(cycle(self._batches), steps):
            with evaluating(self._dense):
                taught = call(self._dense, inputs)
            yield inputs, taught


def choose_step(
    budget: Budget,
    judge: Judge,
    *,
    fall: Callable[[float], float],
    below: int | None = None,
) -> int:
    """Choose how many bits a candidate gets: the most that the bytes allow, the fewest that the fall allows.

    Args:
        budget: What has to be kept.
        judge: Packs and measures.
        fall: From a metric to hundredths below the dense model's.
        below: Where the fall is limited, what the file must be smaller than to be of use: nothing larger is
            looked at.

    Returns:
        The step; where no step keeps the budget one that shows it.
    """
    first = _first(judge, budget.max_bytes)
    if budget.max_fall is None:
        return first
    if below is not None:
        first = max(first, _first(judge, below - 1))
    if fall(judge.metric(first)) > budget.max_fall:
        return first
    low, high = first, judge.last + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fall(judge.metric(middle)) <= budget.max_fall else (low, middle)
    return low


def _first(judge: Judge, most: int | None) -> int:
    """Return the first step of at most so many bytes, or the last one."""
    return next((n for n in range(judge.last) if most is None or judge.size(n) <= most), judge.last)
