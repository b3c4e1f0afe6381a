"""Follow the output of a module through normalisation and nonlinearity to what the next layer gets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

# Nonlinearities and normalisations, by name; the arithmetic that nonlinearities are written out with; what
# may stand between a layer and its nonlinearity without mixing channels. In place a name has an underscore
# behind it, as an operator two around it.
# fmt: off
PASSED = frozenset({
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "relu", "relu6", "gelu", "silu",
    "mish", "tanh", "sigmoid", "logsigmoid", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "prelu",
    "rrelu", "elu", "selu", "celu", "softplus", "softsign", "softshrink", "hardshrink", "tanhshrink",
    "threshold", "clamp", "clamp_min", "clamp_max", "clip", "dropout", "dropout1d", "dropout2d",
    "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout",
})
ARITHMETIC = frozenset({
    "add", "radd", "iadd", "sub", "rsub", "isub", "subtract", "mul", "rmul", "imul", "multiply", "div",
    "rdiv", "truediv", "rtruediv", "itruediv", "divide", "true_divide", "pow", "rpow", "ipow", "neg",
    "negative", "abs", "square", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log1p", "erf",
})
BETWEEN = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool1d",
    "lp_pool2d", "lp_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "interpolate", "upsample",
    "contiguous", "clone", "to", "float", "double", "half", "bfloat16",
})
SEEN_THROUGH = ARITHMETIC | BETWEEN
WRITING = frozenset({
    "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__",
    "__setitem__",
})
# fmt: on
FLAGGING = frozenset({"requires_grad_", "retain_grad_"})


@dataclass(eq=False)
class Trace:
    """Hold where one output has got to, and who is interested.

    Example:
        >>> import torch
        >>> Trace(["layer"], torch.zeros(1)).names
        ['layer']
    """

    names: list[str]
    latest: Tensor


class Following(TorchFunctionMode):
    """Know where the outputs of modules have got to, while torch functions pass them on.

    An output goes on through the functions of `PASSED`, as modules, functions, methods, and in place. It also
    goes on to where arithmetic joins two values that come from it alone, as in `x * torch.sigmoid(x)`. Plain
    arithmetic (`1 - gate`), pooling and changes of type are seen through, but move nothing by themselves.
    Any other function leaves the output where it is; before one that writes into it (`+=`), it is handed
    out, because afterwards it is no longer the layer's alone.

    Args:
        arrived: Called with a name and the tensor its output has become.

    Example:
        >>> import torch
        >>> said = []
        >>> following = Following(lambda name, tensor: said.append((name, tensor.tolist())))
        >>> with following:
        ...     x = torch.tensor([-1.0, 2.0])
        ...     following.start("layer", x)
        ...     y = torch.relu(x) + torch.ones(2)
        >>> following.finish()
        >>> said
        [('layer', [0.0, 2.0])]
    """

    def __init__(self, arrived: Callable[[str, Tensor], None], /) -> None:
        self._arrived = arrived
        self._live: list[Trace] = []
        self._traces: Any = WeakTensorKeyDictionary()  # of every tensor that comes from one output alone

    def start(self, name: str, output: Tensor, /) -> None:
        """Follow an output under a name, from here on."""
        trace = self._traces.get(output)
        if trace is not None and trace in self._live:
            trace.names.append(name)
            return
        self._live.append(Trace([name], output))
        self._traces[output] = self._live[-1]

    def take(self, tensor: Any, /) -> list[str]:
        """Return the names whose output this tensor comes from, and follow it no further."""
        trace = self._traces.get(tensor)
        if trace is None or trace not in self._live:
            return []
        self._live.remove(trace)
        return list(trace.names)

    def finish(self) -> None:
        """Hand out all that is followed, and let it go."""
        for trace in list(self._live):
            self._hand_out(trace)
        self._traces.clear()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and follow what it was given to what it returns."""
        named = kwargs or {}
        with torch._C.DisableTorchFunction():  # others that follow shall not see what is done here
            given = [value for value in (*args, *named.values()) if isinstance(value, Tensor) and value.ndim]
            trace = self._traces.get(given[0]) if given else None
        if trace is None:
            return func(*args, **named)
        title = getattr(func, "__name__", "").split(".")[0]
        is_passed = title.strip("_") in PASSED
        is_own = title.strip("_") in SEEN_THROUGH and all(self._traces.get(value) is trace for value in given)
        if _writes(title) and not is_passed and not (is_own and len(given) > 1):
            self._hand_out(trace)
        result = func(*args, **named)
        if (is_passed or is_own) and isinstance(result, Tensor):
            self._traces[result] = trace
            if is_passed or len(given) > 1:
                trace.latest = result
        return result

    def _hand_out(self, trace: Trace) -> None:
        """Let go of an output and say where it has arrived."""
        with torch._C.DisableTorchFunction():
            for name in self.take(trace.latest):
                self._arrived(name, trace.latest.detach())


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
