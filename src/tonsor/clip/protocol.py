"""What every clipping rule is: a call that bounds gradients between backward and step."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor


class Clipper(Protocol):
    """Bound the gradients of the parameters in place and return their joint norm from before.

    torch's own `clip_grad_norm_`, with `max_norm` bound, is one too. Every rule of this room keeps
    three promises: a tied parameter counts once, `None` and sparse gradients are welcome, and where
    the norm is not finite the gradients stay as they are, so that whoever called can see it and act.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> rule: Clipper = partial(torch.nn.utils.clip_grad_norm_, max_norm=1.0)
        >>> w = torch.zeros(1, requires_grad=True); w.grad = torch.tensor([2.0])
        >>> rule([w])
        tensor(2.)

    A rule that remembers is a class with `state_dict` and `load_state_dict`; where it keeps something of
    each tensor or unit it does so by place, so it serves one list of parameters in one order. What it has
    to tell of the last step it has as attributes, which `tonsor.attach` and `tonsor run` read where they
    are there:

    `threshold`
        The threshold, 0-dim, or one for each unit; None before the first step.
    `skip`
        A 0-dim bool on the device: whether the step is to be left out, because a rule cannot keep an
        optimizer from stepping. None where the rule never asks. A rule that asks has set the gradients
        to zero, for loops that do not look.
    `factor`
        See `Scaling`.
    """

    def __call__(self, parameters: Sequence[Tensor], /) -> Tensor:
        """Return the joint 2-norm before clipping: 0-dim, on the gradients' device."""
        ...


class Scaling(Protocol):
    """A Clipper that multiplies all gradients by one number, and can tell that number without writing.

    `tonsor.attach` asks a rule for `factor` and lets a fused optimizer do the multiplication, so that
    the gradients are read once and never rewritten. A class has it as a method; a function has it as an
    attribute that takes the same tuning, so that `functools.partial` binds both.

    Example:
        >>> import torch
        >>> from tonsor.clip import global_norm
        >>> w = torch.zeros(1, requires_grad=True); w.grad = torch.tensor([4.0])
        >>> global_norm.factor([w], max_norm=1.0), w.grad
        ((tensor(4.), tensor(0.2500)), tensor([4.]))
    """

    def __call__(self, parameters: Sequence[Tensor], /) -> Tensor:
        """Return the joint 2-norm before clipping: 0-dim, on the gradients' device."""
        ...

    def factor(
        self, parameters: Sequence[Tensor], /, *, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the joint norm and what to multiply by, both 0-dim, and remember this step.

        `scale` is what the gradients are still multiplied by (a loss scale); the norm is divided by it.
        """
        ...


def factor_of(clip: Any, /) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """Return how a rule tells its factor without writing (`Scaling`), None if it does not.

    Example:
        >>> from functools import partial
        >>> from tonsor.clip import global_norm, norm
        >>> factor_of(partial(global_norm, max_norm=2.0)).keywords, factor_of(norm)
        ({'max_norm': 2.0}, None)
    """
    if isinstance(clip, partial):
        inner = factor_of(clip.func)
        return None if inner is None or clip.args else partial(inner, **clip.keywords)
    return getattr(clip, "factor", None)
