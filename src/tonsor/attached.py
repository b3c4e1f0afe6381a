"""Put rules on the optimizer of a loop we do not own, by the optimizer's own step hooks."""

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from tonsor.attached_clip import Clip, Clipping, NonFinite
from tonsor.attached_handle import Attached as Attached
from tonsor.attached_handle import Constrain
from tonsor.attached_masks import Masking, Moving, Still
from tonsor.attached_where import inner_of, masked_by, names_of, weights_of
from tonsor.clip import History
from tonsor.spelling import unknown


def attach(
    optimizer: Optimizer,
    /,
    *,
    clip: Clip | None = None,
    constrain: Constrain | None = None,
    masks: Mapping[str, Tensor] | Masking | None = None,
    model: torch.nn.Module | None = None,
    on_nonfinite: NonFinite = "raise",
    history: History | None = None,
) -> Attached:
    """Make every step of the optimizer clip before it and mask and constrain after it.

    The order inside a step is: gradients of masked weights to zero, clip, the optimizer's own step,
    masks, constraint. A closure is wrapped, so that its backward comes before the clipping. Under a
    `GradScaler` the gradients are clipped unscaled, whether or not `unscale_` was called. A fused
    optimizer of torch multiplies by the rule's factor itself, while it reads the gradients anyway, if the
    rule tells its factor (`clip.Scaling`): the same result to 1e-7 for one pass over the gradients.

    What silently ruins runs is told once, as a UserWarning: another clip that is already on, gradients
    that look still multiplied by a loss scale, a threshold that clips every one of the first 100 steps,
    no parameters or no gradients.

    Args:
        optimizer: Any torch optimizer; of a wrapper, as Accelerate's, the one inside is used.
        clip: A rule of `tonsor.clip`, or torch's `clip_grad_norm_` with its bound. With a bound of
            infinity nothing is clipped, and the history is recorded. A rule that has a `skip` (0-dim,
            boolean) leaves out the step where it is true.
        constrain: A rule of `tonsor.constrain`.
        masks: Boolean masks by parameter name, true where the weight stays; or an object that moves them, as
            `prune.Pruner`: it looks at the gradients and steps once for each step that is taken, and the
            optimizer forgets what it knew of the weights that are removed.
        model: Whose names the masks and the history use; not needed if the optimizer was given named
            parameters.
        on_nonfinite: What to do when the norm that `clip` returns is not finite. "raise" stops, and waits
            once a step for an accelerator; "skip" leaves out the step, moments and counters untouched,
            which waits only where the optimizer is not fused; "zero" sets the bad elements to 0 and clips
            again, for two more passes over the gradients of an accelerator. A `GradScaler` that drives a
            fused optimizer skips its overflows by itself, whatever is asked for here.
        history: Where to record; a new `clip.History` if not given.

    Returns:
        A handle with the last `norm`, the `history`, the number of `skipped` steps, and `remove()`.

    Raises:
        ValueError: If a mask fits no parameter, the object that moves masks has other weights than the
            optimizer, or `on_nonfinite` is not known. The handle's hooks raise FloatingPointError at a
            norm that is not finite, before the step is taken.

    Example:
        >>> from functools import partial
        >>> import tonsor
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> sgd = torch.optim.SGD([w], lr=1.0)
        >>> attached = tonsor.attach(sgd, clip=partial(tonsor.clip.global_norm, max_norm=1.0))
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> sgd.step(); w.data, attached.norm
        (tensor([-0.6000, -0.8000]), tensor(5.))
        >>> attached.history.rows()[0]["clipped"]
        True
    """
    if on_nonfinite not in get_args(NonFinite):
        raise ValueError(f"attach: {unknown('on_nonfinite', on_nonfinite, get_args(NonFinite))}")
    inner = inner_of(optimizer)
    masking = (
        Moving(inner, masks, weights_of(masks, inner, model))
        if isinstance(masks, Masking)
        else Still(inner, masked_by(inner, model, masks or {}), masks or {})
    )
    kept = History() if history is None else history
    clipping = Clipping(inner, clip, names_of(inner, model), on_nonfinite, kept)
    return Attached(inner, clipping, constrain, masking)
