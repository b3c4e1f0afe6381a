"""Follow the output of a module through normalisation and nonlinearity to what the next layer gets."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

# Functions of one value an element, and normalisations, by name; in place with an underscore behind it.
# fmt: off
PASSED = frozenset({
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "relu", "relu6", "gelu", "silu",
    "mish", "tanh", "sigmoid", "logsigmoid", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "prelu",
    "rrelu", "elu", "selu", "celu", "softplus", "softsign", "softshrink", "hardshrink", "tanhshrink",
    "threshold", "clamp", "clamp_min", "clamp_max", "clip", "dropout", "dropout1d", "dropout2d",
    "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout",
})
WRITING = frozenset({
    "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__",
    "__setitem__",
})
# fmt: on
FLAGGING = frozenset({"requires_grad_", "retain_grad_"})


class Following(TorchFunctionMode):
    """Know where the outputs of modules have got to, while torch functions pass them on.

    An output is followed through the functions of `PASSED`, as modules, functions, methods, and in place. Any
    other function leaves it where it is; before one that writes into it (`+=`), it is handed out, because
    afterwards it is no longer the layer's alone.

    Args:
        arrived: Called with a name and the tensor its output has become.

    Example:
        >>> import torch
        >>> said = []
        >>> following = Following(lambda name, tensor: said.append((name, tensor.tolist())))
        >>> with following:
        ...     x = torch.tensor([-1.0, 2.0])
        ...     following.start("layer", x)
        ...     y = torch.relu(x) + 1
        >>> following.finish()
        >>> said
        [('layer', [0.0, 2.0])]
    """

    def __init__(self, arrived: Callable[[str, Tensor], None], /) -> None:
        self._arrived = arrived
        self._live: dict[int, tuple[Tensor, list[str]]] = {}  # by id, which the held tensor keeps its own

    def start(self, name: str, output: Tensor, /) -> None:
        """Follow an output under a name, from here on."""
        self._live.setdefault(id(output), (output, []))[1].append(name)

    def take(self, tensor: Any, /) -> list[str]:
        """Return the names whose output has become this tensor, and follow it no further."""
        entry = self._live.pop(id(tensor), None)
        return entry[1] if entry else []

    def finish(self) -> None:
        """Hand out all that is followed, and let it go."""
        while self._live:
            self._hand_out(next(iter(self._live)))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and follow what it was given to what it returns."""
        named = kwargs or {}
        first = id(args[0] if args else named.get("input"))
        title = getattr(func, "__name__", "").split(".")[0]
        is_passed = title.removesuffix("_") in PASSED
        if first in self._live and not is_passed and _writes(title):
            self._hand_out(first)
        result = func(*args, **named)
        if first in self._live and is_passed and isinstance(result, Tensor):
            _, names = self._live.pop(first)
            self._live.setdefault(id(result), (result, []))[1].extend(names)
        return result

    def _hand_out(self, key: int) -> None:
        """Let go of a tensor and say where its names have arrived."""
        tensor, names = self._live.pop(key)
        for name in names:
            self._arrived(name, tensor.detach())


def _writes(title: str) -> bool:
    """Say whether a function of this name changes its first argument: `add_`, `__iadd__`, `__setitem__`."""
    return title in WRITING or (title.endswith("_") and not title.startswith("__") and title not in FLAGGING)


def follow_output(following: Following, name: str, owner: Any, inputs: Any, output: Tensor, /) -> None:
    """Follow the output of a module from its forward hook: bind the first two.

    Example:
        >>> import torch
        >>> following = Following(lambda name, tensor: None)
        >>> x = torch.zeros(1)
        >>> follow_output(following, "layer", None, (), x)
        >>> following.take(x)
        ['layer']
    """
    if isinstance(output, Tensor):  # not where a module of somebody's own gives more than that
        following.start(name, output)
