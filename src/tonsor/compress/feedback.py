"""What a compressor did not send is kept and added to the next gradient."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.half_residual import to_bfloat16
from tonsor.compress.pages import fresh
from tonsor.compress.protocol import Averaged, Compressor
from tonsor.spelling import unknown

DTYPES = {"float32": None, "bfloat16": torch.bfloat16}  # None: the gradient's own, where that is wider
APART = 12345  # turns between two workers, so that they do not all round up together


@final
class ErrorFeedback:
    r"""Add to each gradient what was not sent before, and keep what is not sent now.

    :math:`t = g + e`, :math:`(\bar g, s) = C(t)`, :math:`e \leftarrow t - s`. So nothing is lost: over
    the workers, the mean of :math:`g + e` before equals the mean that is sent plus the mean of e after.
    The residual e is kept by parameter name, made at first use, in float32 at least: also what rounding
    to half precision loses is sent later. It costs the memory of one gradient, in bfloat16 of half of one.

    Where the mean is not finite (the overflow of a mixed-precision step), the residuals of the bucket stay
    as they were, on all workers alike. A gradient that is zero everywhere on this worker keeps its
    residual back, because DDP throws away what arrives for a parameter that no worker used. A loss scale
    is part of the residual's unit, unless `compress_ddp` is given the scaler.

    Args:
        compressor: The rule that is wrapped.
        dtype: What residuals are kept in: "float32", or "bfloat16", which takes half the memory and some
            time, and rounds what is kept in turns up and down so that nothing is lost on the average.
        whole_steps: Whether a bucket that is not finite undoes the others of its step too, as a
            scaler does that then skips the step; costs the memory of a second residual.

    Raises:
        ValueError: If `dtype` is another one, or a loaded residual does not have the gradient's shape.

    Example:
        >>> from tonsor.compress import TopK
        >>> rule = ErrorFeedback(TopK(density=0.25))
        >>> g = {"w": torch.tensor([[4.0, 3.0], [0.0, 0.0]])}
        >>> for _ in range(2):
        ...     print(rule(g, Comm()).mean["w"][0])
        tensor([4., 0.])
        tensor([0., 6.])

    References:
        Seide et al., 2014, "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
        Distributed Training of Speech DNNs", https://www.isca-archive.org/interspeech_2014/seide14_interspeech.html
        Karimireddy et al., 2019, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes",
        https://arxiv.org/abs/1901.09847
    """

    own_state = ("residuals",)

    def __init__(
        self, compressor: Compressor, /, *, dtype: str = "float32", whole_steps: bool = False
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"compress.ErrorFeedback: {unknown('dtype', dtype, DTYPES)}")
        self.compressor = compressor
        self.dtype = dtype
        self.whole_steps = whole_steps
        self._residuals: dict[str, Tensor] = {}
        self._turns: dict[str, int] = {}  # how often a residual in bfloat16 was rounded
        self._before: dict[str, Tensor] = {}  # residuals before this step, where a whole one may be undone
        self._good: Tensor | None = None  # whether all buckets of this step were finite

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return what the wrapped rule returns for the gradients with their residuals."""
        if not self._before.keys().isdisjoint(grads):
            self._end_step()
        wanted = {name: _sum(self._residual(name, grad), grad) for name, grad in grads.items()}
        targets = {name: _target(grad, wanted[name]) for name, grad in grads.items()}
        averaged = self.compressor(targets, comm)
        finite = all_finite(list(averaged.mean.values()))
        for name, sent in averaged.sent.items():
            self._keep(name, _rest(wanted[name], sent, averaged.mean[name]), finite, comm.rank)
        if self.whole_steps:
            self._good = finite if self._good is None else self._good & finite
        return averaged

    def _residual(self, name: str, grad: Tensor) -> Tensor:
        """Return what is kept for the parameter, zeros at first, on the gradient's device."""
        kept, dtype = self._residuals.get(name), DTYPES[self.dtype] or _wide(grad)
        if kept is None:
            kept = torch.zeros_like(grad, dtype=dtype)
        if kept.shape != grad.shape:
            raise ValueError(
                f"compress.ErrorFeedback: the residual kept for '{name}' has shape {tuple(kept.shape)}, "
                f"its gradient {tuple(grad.shape)}; load the state of this model, or start anew"
            )
        self._residuals[name] = kept.to(grad.device, dtype)
        return self._residuals[name]

    def _keep(self, name: str, new: Tensor, finite: Tensor, rank: int) -> None:
        """Keep what was not sent, if the step is good; of a whole step that is known later."""
        if self.dtype == "bfloat16":
            turn = self._turns[name] = self._turns.get(name, 0) + 1
            new = to_bfloat16(new, turn + APART * rank)
        if self.whole_steps:
            self._before[name], self._residuals[name] = self._residuals[name], new
        else:
            self._residuals[name] = either(finite, new, self._residuals[name])

    def _end_step(self) -> None:
        """Decide about the residuals of a whole step; the next one begins when a name comes again."""
        for name, before in self._before.items():
            assert self._good is not None, "every step with residuals was judged"
            self._residuals[name] = either(self._good, self._residuals[name], before)
        self._before, self._good = {}, None

    def state_dict(self) -> dict[str, Any]:
        """Return the residuals and the state of the wrapped rule, between two steps.

        Residuals differ from worker to worker: each saves its own and loads its own, or `gather_state`
        and `spread_state` do it for all.
        """
        self._end_step()
        inner = getattr(self.compressor, "state_dict", dict)  # a rule without memory is a plain function
        turns = {"turns": dict(self._turns)} if self._turns else {}
        return {"residuals": dict(self._residuals), **turns, "compressor": inner()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._residuals, self._turns = dict(state["residuals"]), dict(state.get("turns", {}))
        self._before, self._good = {}, None
        getattr(self.compressor, "load_state_dict", dict)(state["compressor"])

    def __repr__(self) -> str:
        settings = f", dtype='{self.dtype}'" if self.dtype != "float32" else ""
        settings += ", whole_steps=True" if self.whole_steps else ""
        return f"ErrorFeedback({self.compressor!r}{settings})"


def _wide(grad: Tensor) -> torch.dtype:
    """Return the type sums with a gradient are taken in: float32 at least."""
    return torch.promote_types(grad.dtype, torch.float32)


def _sum(residual: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient with what was not sent before, in new memory."""
    total = fresh(grad.shape, _wide(grad), grad.device)
    return torch.add(residual, grad, out=total)


def _target(grad: Tensor, wanted: Tensor) -> Tensor:
    """Return what is handed on, in the gradient's type: the bare gradient where it is zero everywhere."""
    if grad.numel() == 0:
        return grad
    if grad.device.type == "cpu" and grad.ndim and bool(grad[0].any()):  # mostly saves the pass
        return wanted.to(grad.dtype)
    low, high = grad.aminmax()  # one pass; eight times faster than any()
    return either((low != 0) | (high != 0), wanted, grad.to(wanted.dtype)).to(grad.dtype)


def _rest(wanted: Tensor, sent: Tensor, mean: Tensor) -> Tensor:
    """Return what was wanted and not sent, in the memory of what was wanted unless a result lies there.

    New memory took three times as long as the subtraction.
    """
    held = wanted.untyped_storage()._cdata
    is_needed = held in (sent.untyped_storage()._cdata, mean.untyped_storage()._cdata)
    return wanted - sent if is_needed else wanted.sub_(sent)


def either(condition: Tensor, yes: Tensor, no: Tensor, /) -> Tensor:
    """Return one of two tensors; on the CPU, where nothing waits, without a pass over the memory.

    Args:
        condition: 0-dim boolean.
        yes: Returned where it is true.
        no: Returned where it is not; shaped and typed as `yes`.

    Returns:
        One of the two: on the CPU the very tensor, elsewhere a new one.

    Example:
        >>> either(torch.tensor(True), torch.tensor(1.0), torch.tensor(2.0))
        tensor(1.)
    """
    if condition.device.type == "cpu":
        return yes if condition else no
    return torch.where(condition, yes, no)


def all_finite(tensors: Sequence[Tensor], /) -> Tensor:
    """Tell whether every element of every tensor is finite, without waiting for the device.

    Args:
        tensors: Tensors of any shapes on one device.

    Returns:
        0-dim boolean; true for no elements.

    Example:
        >>> all_finite([torch.ones(2), torch.tensor([1.0, float("nan")])])
        tensor(False)
    """
    ends = [end for tensor in tensors if tensor.numel() for end in tensor.aminmax()]
    return torch.stack(ends).isfinite().all() if ends else torch.tensor(True)
