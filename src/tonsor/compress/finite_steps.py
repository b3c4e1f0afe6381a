"""Count the steps of each parameter, without those whose mean was not finite."""

from collections.abc import Iterable
from typing import Any, final

from torch import Tensor


@final
class FiniteSteps:
    """Know how many good steps each parameter has seen; the same on all workers.

    Whether a step was good is read when the next one begins: on a GPU it has long been computed by then.

    Example:
        >>> import torch
        >>> steps = FiniteSteps()
        >>> steps.saw(["w"], torch.tensor(True)); steps.saw(["w"], torch.tensor(False))
        >>> steps.of("w"), steps.of("never seen")
        (1, 0)
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._unread: dict[str, Tensor] = {}

    def of(self, name: str, /) -> int:
        """Return the number of good steps of a parameter."""
        flag = self._unread.pop(name, None)
        if flag is not None:
            is_good = not has_values(flag) or bool(flag)
            self._counts[name] = self._counts.get(name, 0) + is_good
        return self._counts.get(name, 0)

    def saw(self, names: Iterable[str], is_good: Tensor, /) -> None:
        """Note a step of these parameters, and whether it was good: a 0-dim boolean."""
        for name in names:
            self.of(name)
            self._unread[name] = is_good

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        for name in list(self._unread):
            self.of(name)
        return dict(self._counts)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._counts, self._unread = dict(state), {}


def has_values(tensor: Tensor, /) -> bool:
    """Tell whether a tensor is a real one, which can be read, if need be by waiting for a GPU.

    Args:
        tensor: Any tensor.

    Returns:
        False for one that only has a shape, as when memory is planned.

    Example:
        >>> import torch
        >>> has_values(torch.tensor(1.0)), has_values(torch.empty((), device="meta"))
        (True, False)
    """
    return type(tensor) is Tensor and tensor.device.type != "meta"
