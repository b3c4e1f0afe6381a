"""Find a model's groups of channels."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from tonsor.shrink.collect import collect
from tonsor.shrink.freedom import Freedom
from tonsor.shrink.groups import ChannelGroups
from tonsor.shrink.interpret import Interpreter
from tonsor.shrink.trace import trace_of
from tonsor.shrink.work import work_of


def channel_groups(
    model: nn.Module,
    example_args: Tensor | tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    width: bool = False,
    head_dim: bool = False,
) -> ChannelGroups:
    """Find which channels of a model must be removed together, from one run of its forward.

    The model is exported in eval mode and its graph is run on labels: one for each row and column of
    each weight, joined wherever two values meet. Labels that reach an output or that come from an input
    must stay, and so do those which reach an operation that has no rule. Nothing of the model changes:
    no weight, no buffer, no training flag, no random number. What only a forward in training mode uses,
    as an auxiliary head, is not seen and not sliced.

    Args:
        model: Any module that `torch.export` can export.
        example_args: The arguments of one call; a lone tensor may stand for itself. The sizes do not
            matter as long as the forward takes them; small ones are faster.
        example_kwargs: Arguments by name.
        width: Offer channels that are normalised together too, as the residual stream of a transformer is.
            A cut there is proved equal to the masked model whose means, variances and norms are taken over
            the channels that stay (`reference`), not over all of them.
        head_dim: Offer the channels inside attention heads, the same places of all heads at once, instead
            of whole heads: those of queries and keys together, those of values with what reads them.

    Returns:
        The groups, and what must stay with the reason.

    Raises:
        ValueError: If the model cannot be exported.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> print(channel_groups(model, torch.ones(1, 4)))
        group           units  parameters a unit  MACs a unit  units are  slices
        0.weight            3                  7            6  inner      0.weight[0], 0.bias[0], 2.weight[1]
        stays           units  why           slices
        0.weight dim 1      4  model input   0.weight[1]
        2.weight            2  model output  2.weight[0], 2.bias[0]
    """
    args = (example_args,) if isinstance(example_args, Tensor) else tuple(example_args)
    freedom = Freedom(width=width, head_dim=head_dim)
    trace = replace(trace_of(model, args, dict(example_kwargs or {})), freedom=freedom)
    found = Interpreter(trace)
    found.run()
    groups, frozen = collect(found.labels, found.entries, trace)
    roots = found.labels.flatten()
    return ChannelGroups(groups, frozen, trace, roots, frozenset(found.unruled), work_of(trace))
