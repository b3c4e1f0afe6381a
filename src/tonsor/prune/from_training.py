"""Statistics that come from the training itself: its own gradients, step by step."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tonsor.prune.protocol import Stats, Watch


class DenseGradient:
    """Give the gradient of the step at whose end masks are found, of removed weights too.

    It must look before the gradients of removed weights are zeroed; `Pruner.observe` calls it. Several
    backward passes of one step (accumulation) count together. A weight without a gradient has 0.

    Args:
        parameters: Weights by name.

    Example:
        >>> w = torch.ones(2, requires_grad=True); (3 * w).sum().backward()
        >>> watch = DenseGradient({"w": w})
        >>> watch.observe()
        >>> w.grad = None      # what happens to it later does not matter
        >>> watch.stats()
        {'w': {'gradient': tensor([3., 3.])}}
    """

    only_when_due = True

    def __init__(self, parameters: Mapping[str, Tensor], /) -> None:
        self._parameters = dict(parameters)
        self._seen: dict[str, dict[str, Tensor]] = {}

    def observe(self) -> None:
        """Keep the gradients as they are now."""
        self._seen = {name: {"gradient": _gradient(w)} for name, w in self._parameters.items()}

    def stats(self) -> Stats:
        """Return the gradients by weight, and keep them no longer."""
        if not self._seen and self._parameters:
            raise ValueError(
                "prune.DenseGradient: no gradient was seen in this step; call `observe` of the pruner after "
                "backward, before the gradients are masked"
            )
        seen, self._seen = self._seen, {}
        return seen


def gathered(collect: Callable[[], Stats] | Watch | None, /) -> Stats | None:
    """Return the statistics to find masks by: those a watch has seen, or a function collects now.

    Example:
        >>> gathered(lambda: {"w": {}}), gathered(None)
        ({'w': {}}, None)
    """
    if collect is None:
        return None
    return collect.stats() if isinstance(collect, Watch) else collect()


def looks(collect: Callable[[], Stats] | Watch | None, is_due: Callable[[], bool], /) -> bool:
    """Return whether a watch has a use for the gradients of a step.

    Args:
        collect: A watch, or what is none.
        is_due: Says whether masks are found at the end of the step.

    Example:
        >>> looks(DenseGradient({}), lambda: True), looks(DenseGradient({}), lambda: False)
        (True, False)
    """
    return isinstance(collect, Watch) and (not getattr(collect, "only_when_due", False) or is_due())


def memory_of(collect: Callable[[], Stats] | Watch | None, /) -> dict[str, Any]:
    """Return what a watch remembers; empty for what has no memory.

    Example:
        >>> memory_of(None)
        {}
    """
    state: dict[str, Any] = getattr(collect, "state_dict", dict)()
    return state


def remind(collect: Callable[[], Stats] | Watch | None, state: dict[str, Any], /) -> None:
    """Give back to a watch what it remembered.

    Example:
        >>> remind(None, {})
    """
    getattr(collect, "load_state_dict", lambda _: None)(state)


def _gradient(weight: Tensor) -> Tensor:
    """Return a copy of the gradient of a weight, dense and in its shape."""
    if weight.grad is None:
        return torch.zeros_like(weight)
    return weight.grad.detach().to_dense().clone()
