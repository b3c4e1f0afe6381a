"""What widths and zeros save in time: measured on this machine, in turns with the dense model."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tonsor.pack import swap_sparse_
from tonsor.recipe.fitting_maker import Maker, Point, magnitudes
from tonsor.recipe.fitting_rows import Rows
from tonsor.recipe.fitting_tables import HIGHEST
from tonsor.report import latency

ROUNDS = 20  # timed calls of each model
SURE = 0.95  # of the limit: what zeros must be foreseen to keep, so that noise does not choose them
STEPS = 4  # halvings of the sparsity
SECONDS = 0.05  # of timing for each layer and way


@dataclass(frozen=True)
class Clock:
    """Time candidates in turns with the dense model, whose own time is told once.

    Args:
        dense: The dense model.
        example: The arguments of one call.
        batch: Samples of a call.
        dense_ms: What the dense model took when the search began.
    """

    dense: nn.Module
    example: Any
    batch: int
    dense_ms: float

    @classmethod
    def of(cls, dense: nn.Module, example: Any, batch: int, rows: Rows) -> "Clock":
        """Time the dense model, if that has not been done at this batch with as many threads."""

        def timed(_: object) -> dict[str, float]:
            [taken] = _medians({"dense": dense}, example, batch).values()
            return {"latency_ms": taken}

        return cls(dense, example, batch, rows.once(f"time-dense-{_label(batch)}", timed)["latency_ms"])

    @property
    def label(self) -> str:
        """What times can be compared: the batch and the threads."""
        return _label(self.batch)

    def ways(self, model: nn.Module, *, sparse: bool = True) -> dict[str, float]:
        """Return the milliseconds of a call with dense layers, and with layers that use the zeros.

        Args:
            model: Left as it is.
            sparse: Whether to try the latter, which takes seconds; they are told where any layer is faster.
        """
        models = {"dense": self.dense, "dense layers": model}
        if sparse and self._can_swap(model):
            swapped = copy.deepcopy(model)
            told = swap_sparse_(swapped, self.example, batches=(self.batch,), seconds=SECONDS)
            if any(choice.swapped for choice in told.choices):
                models["sparse layers"] = swapped
        taken = _medians(models, self.example, self.batch)
        dense = taken.pop("dense")
        return {name: self.dense_ms * time / dense for name, time in taken.items()}

    def _can_swap(self, model: nn.Module) -> bool:
        """Say whether the model runs where sparse layers do, and has layers to replace."""
        return all(p.is_cpu for p in model.parameters()) and any(True for _ in model.children())


class TimeTable:
    """Foresee the time of a candidate, from masks by magnitude: to a clock they are like any others.

    Args:
        maker: Cuts the model.
        clock: Times it.
        rows: Keep what was measured.
    """

    def __init__(self, maker: Maker, clock: Clock, rows: Rows) -> None:
        self._maker, self._clock, self._rows = maker, clock, rows

    def least_sparsity(self, share: float, most: float) -> float | None:
        """Return a low sparsity at which the model cut to a share is fast enough, if there is one."""
        if self.milliseconds(share, 0.0) <= most:
            return 0.0
        if self.milliseconds(share, HIGHEST) > most:
            return None
        low, high = 0.0, math.log(1 - HIGHEST)
        for _ in range(STEPS):
            middle = (low + high) / 2
            is_fast = self.milliseconds(share, 1 - math.exp(middle)) <= most * SURE
            low, high = (low, middle) if is_fast else (middle, high)
        return 1 - math.exp(high)

    def milliseconds(self, share: float, sparsity: float) -> float:
        """Return the time of a call, with whichever layers are faster."""
        name = f"time-{Point(share, sparsity).name}-{self._clock.label}"
        row = self._rows.once(name, lambda path: {"latency_ms": self._measured(share, sparsity)})
        return float(row["latency_ms"])

    def _measured(self, share: float, sparsity: float) -> float:
        """Time a copy whose smallest weights are zero."""
        base = self._maker.base(share)
        assert base is not None, "only widths that can be cut are timed"
        model = copy.deepcopy(base.model)
        for weight, mask in magnitudes(self._maker.weights(share), sparsity).items():
            parameter = model.get_parameter(weight)
            parameter.data = parameter.data.where(mask, 0)
        return min(self._clock.ways(model, sparse=sparsity > 0).values())


def _medians(models: Mapping[str, nn.Module], example: Any, batch: int) -> dict[str, float]:
    """Return the median time of one call of each model."""
    found = latency(models, example, batches=[batch], rounds=ROUNDS)
    return {name: of[str(batch)]["median"] for name, of in found.items()}


def _label(batch: int) -> str:
    """Return batch and threads."""
    return f"batch-{batch}-threads-{torch.get_num_threads()}"
