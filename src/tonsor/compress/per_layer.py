"""Each layer has a rule of its own, found by its name."""

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, final

from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.inner import load_state, state_of
from tonsor.compress.protocol import Averaged, Compressor
from tonsor.spelling import unknown

NEAREST = 5  # names that are shown where a pattern fits none


@final
class PerLayer:
    """Compress each gradient by the rule of the first pattern that its name matches.

    Each rule gets its part of a bucket, in the order of the table, and sends messages of its own. Whether
    every pattern matches something is known when the second step begins, because the first has shown all
    names.

    Args:
        compressor: The rule for names that no pattern matches.
        layers: Rules by pattern, as `{"head.*": dense, "*.embedding.weight": TopK()}`; `*` stands for
            any text, also across dots, `?` for one character. Capital letters matter.

    Raises:
        ValueError: From the second step on, if no name matches a pattern; the nearest are named.

    Example:
        >>> import torch
        >>> from tonsor.compress import TopK, dense
        >>> rule = PerLayer(TopK(density=0.25), layers={"head.*": dense})
        >>> g = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> rule({"body.weight": g, "head.weight": g}, Comm()).mean
        {'head.weight': tensor([[1., 2., 3., 4.]]), 'body.weight': tensor([[0., 0., 0., 4.]])}
    """

    def __init__(self, compressor: Compressor, /, *, layers: Mapping[str, Compressor] | None = None) -> None:
        self.compressor = compressor
        self.layers = dict(layers or {})
        self._names: set[str] = set()
        self._is_checked = False

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return what the rules make of their parts."""
        if not self._is_checked:
            self._look_at(grads)
        parts: dict[str | None, dict[str, Tensor]] = {}
        for name, grad in grads.items():
            parts.setdefault(self._pattern_of(name), {})[name] = grad
        averaged = Averaged({}, {})
        for pattern, rule in (*self.layers.items(), (None, self.compressor)):
            if pattern in parts:
                part = rule(parts[pattern], comm)
                averaged.mean.update(part.mean)
                averaged.sent.update(part.sent)
        return averaged

    def _pattern_of(self, name: str) -> str | None:
        """Return the first pattern that fits."""
        return next((pattern for pattern in self.layers if fnmatchcase(name, pattern)), None)

    def _look_at(self, grads: dict[str, Tensor]) -> None:
        """Gather names until one comes again; then all are known, and every pattern must have fitted."""
        if self._names.isdisjoint(grads):
            self._names.update(grads)
            return
        for pattern in self.layers:
            if not any(fnmatchcase(name, pattern) for name in self._names):
                near = difflib.get_close_matches(pattern, sorted(self._names), n=NEAREST, cutoff=0.0)
                raise ValueError(
                    f"compress.PerLayer: no gradient has such a name: {unknown('pattern', pattern, near)}"
                )
        self._is_checked = True

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the rules, by pattern."""
        layers = {pattern: state_of(rule) for pattern, rule in self.layers.items()}
        return {"compressor": state_of(self.compressor), "layers": layers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; raises ValueError if it is of other patterns."""
        if strange := state["layers"].keys() ^ self.layers.keys():
            raise ValueError(
                f"compress.PerLayer: the state is of other patterns: {', '.join(sorted(strange))} on one "
                "side only; make the rule with the same table"
            )
        load_state(self.compressor, state["compressor"])
        for pattern, rule in self.layers.items():
            load_state(rule, state["layers"][pattern])

    def __repr__(self) -> str:
        return f"PerLayer({self.compressor!r}, layers={self.layers})"
