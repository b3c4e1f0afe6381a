"""Name groups: by a weight, a module, or what their units are."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from tonsor.shrink.collect import Group
from tonsor.shrink.costs import KINDS
from tonsor.shrink.trace import Trace
from tonsor.spelling import unknown

IGNORED = "ignored"  # the reason of groups that were left out


def is_named(group: Group, kind: str, names: Sequence[str]) -> bool:
    """Say whether one of the names fits the group: its kind, or a tensor it writes or that module.

    A group is not named by what only reads it.

    Example:
        >>> import torch
        >>> from tonsor.shrink import Slice
        >>> rows = Slice("fc.weight", 0, "producer", torch.tensor([[0], [1]]))
        >>> group = Group("fc.weight", 2, (rows,), 2, "", torch.tensor([1, 2]))
        >>> is_named(group, "inner", ["f?"]), is_named(group, "inner", ["fc.bias"])
        (True, False)
    """
    own = {kind, *(part.parameter for part in group.slices if part.role != "consumer")}
    known = own | {_module(name) for name in own}
    return any(fnmatchcase(name, wanted) for name in known for wanted in names)


def check_named(names: Sequence[str], trace: Trace) -> None:
    """Refuse a name that fits no weight, module or kind of the model.

    Example:
        >>> import torch
        >>> from tonsor.shrink.trace import trace_of
        >>> check_named(["wieght"], trace_of(torch.nn.Linear(1, 1), (torch.ones(1, 1),), {}))
        Traceback (most recent call last):
        ValueError: shrink.ChannelGroups: limited: unknown layer 'wieght'; did you mean 'weight'? ...
    """
    tensors = list(trace.shapes)
    known = dict.fromkeys([*KINDS, *filter(None, map(_module, tensors)), *tensors])
    for name in names:
        if name != "*" and not any(fnmatchcase(own, name) for own in known):
            raise ValueError(f"shrink.ChannelGroups: limited: {unknown('layer', name, known)}")


def _module(name: str) -> str:
    """Return the module that a tensor belongs to."""
    return name.rpartition(".")[0]
