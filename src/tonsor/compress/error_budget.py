"""Each layer is compressed as much as a wanted error allows."""

import copy
import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.finite_steps import has_values
from tonsor.compress.inner import load_state, state_of
from tonsor.compress.protocol import Averaged, Compressor

# What a setting may be, the coarsest first. Tensors at one level share a message, so levels are few.
LEVELS: dict[str, tuple[float, ...]] = {
    "density": tuple(2.0**-power for power in range(16, -1, -1)),
    "rank": (1, 2, 4, 8, 16, 32, 64, 128, 256),
}


@final
class ErrorBudget:
    r"""Choose density, rank or rule of each tensor and step by a wanted error instead of a ratio.

    The relative error over all workers is
    :math:`\epsilon = \sqrt{\sum_i \|g_i - s_i\|^2 / \sum_i \|g_i\|^2}`. Where it was above the wanted one,
    the tensor is sent at the next finer level (twice the density or rank) from the next step on; where it
    was below, at the next coarser one, but not before `patience` steps after the last time that this was
    too coarse. The errors are joint, so all workers choose alike. A step that is not finite changes
    nothing.

    Wrap it as `ErrorFeedback(ErrorBudget(TopK()))`: it looks at what the rule itself loses. The rule
    starts from its own setting, or the level nearest to it; one without a setting is only measured, unless
    `finer` rules are given, to step through numbers of more bits: `ErrorBudget(int4, finer=[int8, dense])`.
    Beside the rule's messages, one for each level that a bucket has, a mean of 16 bytes a tensor is sent.

    `errors` and `settings` hold, by parameter name, the last relative error and what the next step uses.

    Args:
        compressor: A rule with `density` or `rank`, or the coarsest of several; copied for each level.
        finer: Rules that follow it, each finer than the one before; then settings are left as they are.
        error: The wanted relative error, in (0, 1); smaller sends more. `TopK` at 1 % has about 0.9,
            numbers of 8 bits 0.01.
        patience: Steps that a tensor stays finer after it was too coarse, at least 1; more is steadier.

    Raises:
        ValueError: If a setting is out of its range, or the rule is a wrapper.

    Example:
        >>> from tonsor.compress import TopK
        >>> rule = ErrorBudget(TopK(density=0.25), error=0.75)
        >>> g = {"w": torch.ones(4, 4)}
        >>> for _ in range(3):
        ...     _ = rule(g, Comm())
        ...     print(rule.errors, rule.settings)    # a quarter of 16 equal elements leaves 3/4 of the energy
        {'w': 0.866...} {'w': 0.5}
        {'w': 0.707...} {'w': 0.5}
        {'w': 0.707...} {'w': 0.5}
    """

    def __init__(
        self,
        compressor: Compressor,
        /,
        *,
        error: float = 0.5,
        patience: int = 20,
        finer: Sequence[Compressor] = (),
    ) -> None:
        if not 0 < error < 1:
            raise ValueError(f"compress.ErrorBudget: error must lie in (0, 1); got {error}")
        if patience < 1:
            raise ValueError(f"compress.ErrorBudget: patience must be at least 1; got {patience}")
        for rule in (compressor, *finer):
            if hasattr(rule, "compressor"):
                raise ValueError(
                    f"compress.ErrorBudget: it must hold the rule itself; got the wrapper {rule!r}; "
                    "write it inside, as ErrorFeedback(ErrorBudget(TopK()))"
                )
        self.rule = compressor
        self.finer = tuple(finer)
        self.rules: dict[str, Compressor] = {}  # by level
        self.error = error
        self.patience = patience
        self._errors: dict[str, float] = {}
        self._setting = next((name for name in LEVELS if not finer and _has(compressor, name)), None)
        self._values = LEVELS[self._setting] if self._setting else tuple(range(1 + len(finer)))
        self._levels: dict[str, int] = {}
        self._waits: dict[str, int] = {}
        self._unread: list[tuple[list[str], Tensor]] = []

    @property
    def errors(self) -> dict[str, float]:
        """The relative error of the last good step, by parameter name."""
        self._read(list(self._levels))
        return dict(self._errors)

    @property
    def settings(self) -> dict[str, float]:
        """What the next step uses, by parameter name: density, rank, or the place among several rules."""
        self._read(list(self._levels))
        return {name: self._values[level] for name, level in self._levels.items()}

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return what the rule makes of each level, and measure its error."""
        self._read(list(grads))
        parts: dict[int, dict[str, Tensor]] = {}
        for name, grad in grads.items():
            parts.setdefault(self._levels.setdefault(name, self._first()), {})[name] = grad
        averaged = Averaged({}, {})
        for level in sorted(parts):
            part = self._rule_at(level)(parts[level], comm)
            averaged.mean.update(part.mean)
            averaged.sent.update(part.sent)
        if grads:
            lost = torch.stack([_energy(grad - averaged.sent[name]) for name, grad in grads.items()])
            lost, whole = comm.mean([lost, torch.stack([_energy(grad) for grad in grads.values()])])
            self._unread.append((list(grads), (lost / whole).sqrt()))
        return averaged

    def _first(self) -> int:
        """Return the level that is nearest to the rule's own setting."""
        if self._setting is None:
            return 0
        own = _value_of(self.rule, self._setting)
        return min(range(len(self._values)), key=lambda level: abs(self._values[level] - own))

    def _rule_at(self, level: int) -> Compressor:
        """Return the copy of the rule for a level; it has its own memory."""
        key = str(level)
        if key not in self.rules:
            rule = (self.rule, *self.finer)[level] if self.finer else self.rule
            self.rules[key] = _with(rule, self._setting, self._values[level])
        return self.rules[key]

    def _read(self, names: list[str]) -> None:
        """Take over the errors that these parameters had; on a GPU they are there since a step."""
        for entry in [entry for entry in self._unread if not set(names).isdisjoint(entry[0])]:
            self._unread = [other for other in self._unread if other is not entry]
            if has_values(entry[1]):
                for name, error in zip(entry[0], entry[1].tolist(), strict=True):
                    self._steer(name, error)

    def _steer(self, name: str, error: float) -> None:
        """Choose the next level of a parameter; an error that is not a number changes nothing."""
        self._waits[name] = self._waits.get(name, 0) - (error == error)
        if error > self.error:
            self._levels[name] = min(self._levels[name] + 1, len(self._values) - 1)
            self._waits[name] = self.patience
        elif error <= self.error and self._waits[name] < 0:
            self._levels[name] = max(self._levels[name] - 1, 0)
        if error == error:
            self._errors[name] = error

    def state_dict(self) -> dict[str, Any]:
        """Return levels and waits by parameter name, and the states of the rule by level."""
        self._read(list(self._levels))
        rules = {level: state_of(rule) for level, rule in self.rules.items()}
        return {"levels": dict(self._levels), "waits": dict(self._waits), "rules": rules}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._levels, self._waits = dict(state["levels"]), dict(state["waits"])
        self._unread = []
        for level, inner in state["rules"].items():
            load_state(self._rule_at(int(level)), inner)

    def __repr__(self) -> str:
        return f"ErrorBudget({self.rule!r}, error={self.error}, patience={self.patience}, finer={self.finer})"


def _energy(tensor: Tensor) -> Tensor:
    """Return the sum of squares in float64, for the square may leave float32's range."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=wide)
    return norm.double().square()


def _has(rule: Compressor, setting: str) -> bool:
    """Tell whether a rule has a setting: an attribute, or a function's keyword."""
    if hasattr(rule, "state_dict"):
        return hasattr(rule, setting)
    return setting in inspect.signature(rule).parameters


def _value_of(rule: Compressor, setting: str) -> float:
    """Return the rule's own setting."""
    if hasattr(rule, "state_dict"):
        return float(getattr(rule, setting))
    return float(inspect.signature(rule).parameters[setting].default)


def _with(rule: Compressor, setting: str | None, value: float) -> Compressor:
    """Return a copy of a rule with another setting."""
    whole = value if setting == "density" else int(value)
    if not hasattr(rule, "state_dict"):
        return partial(rule, **{setting: whole}) if setting else rule
    made = copy.deepcopy(rule)
    if setting:
        setattr(made, setting, whole)
    return made
