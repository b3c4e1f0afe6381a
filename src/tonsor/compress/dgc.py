"""Deep gradient compression: top-k with momentum that is not lost on the way."""

from typing import Any, final

import torch
from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.exchange import average_sparse, is_used, is_worth
from tonsor.compress.feedback import all_finite, either
from tonsor.compress.message import check_bits
from tonsor.compress.pages import fresh
from tonsor.compress.protocol import Averaged
from tonsor.compress.topk import check_density, count_of, take_largest
from tonsor.norms import joint_norm

FIRST, FACTOR = 0.25, 4.0  # the warm-up sends a quarter in its first stage, and a quarter of that in the next


@final
class DGC:
    r"""Send the largest elements of accumulated momentum, and keep the rest for later.

    With m = `momentum` and the gradient :math:`g` of this worker: :math:`u \leftarrow m u + g`,
    :math:`v \leftarrow v + u`, then the k elements of v of largest magnitude are sent, taken out of v, and
    set to zero in u as well, so that old momentum does not pull at what was just updated (momentum factor
    masking). Momentum is inside, before the sum over the steps, so **the optimizer's own momentum must be
    0**. v is the error feedback: do not wrap this in `ErrorFeedback`. With `max_norm` each gradient is
    clipped before it is accumulated, :math:`\|g_i / W\| \le W^{-1/2} c`, tensor by tensor; do not clip again.

    In a warm-up of `stage_steps` steps a stage the density falls from 25 % by a factor of 4 a stage down to
    `density`, so 25, 6.25, 1.56, 0.39, 0.1 %; a stage of the paper is an epoch. Sent in full are the
    gradients that `TopK` sends in full, as v, and u is not set to zero then: the mean has the plain momentum.
    A gradient that is zero everywhere on this worker keeps what it has accumulated, and a step whose mean is
    not finite leaves all as it was, as in `ErrorFeedback`. u and v are kept by parameter name, in float32 at
    least, and cost the memory of two gradients. Messages as of `TopK`.

    Args:
        density: The fraction of elements sent after the warm-up, in (0, 1]; bigger sends more.
        momentum: m, in [0, 1); bigger remembers longer.
        is_nesterov: Whether v gets :math:`g + m u` in place of u.
        max_norm: c, above 0, as the norm of a tensor's mean gradient would be bounded; smaller clips more.
            None: nothing is clipped.
        stage_steps: Steps of each stage of the warm-up; 0: no warm-up.
        bits: 16 or 2 to 8: bits a value; what is lost stays in v. None: values as they are.

    Raises:
        ValueError: If one of them is out of its range, or what was kept does not have the gradient's shape.

    Example:
        >>> rule = DGC(density=0.25, momentum=0.5)
        >>> g = {"w": torch.tensor([[4.0, 3.0], [0.0, 0.0]])}
        >>> for _ in range(2):        # the second time 3 is there as 3 + (0.5 · 3 + 3)
        ...     print(rule(g, Comm()).mean["w"][0])
        tensor([4., 0.])
        tensor([0.0000, 7.5000])

    References:
        Lin et al., 2018, "Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed
        Training", https://arxiv.org/abs/1712.01887
    """

    own_state = ("velocities", "residuals")

    def __init__(
        self,
        *,
        density: float = 0.001,
        momentum: float = 0.9,
        is_nesterov: bool = False,
        max_norm: float | None = None,
        stage_steps: int = 0,
        bits: int | None = None,
    ) -> None:
        check_density("compress.DGC", density)
        if not 0 <= momentum < 1:
            raise ValueError(f"compress.DGC: momentum must lie in [0, 1); got {momentum}")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"compress.DGC: max_norm must be above 0, or None; got {max_norm}")
        if stage_steps < 0:
            raise ValueError(f"compress.DGC: stage_steps must not be negative; got {stage_steps}")
        check_bits("compress.DGC", bits)
        self.density = density
        self.momentum = momentum
        self.is_nesterov = is_nesterov
        self.max_norm = max_norm
        self.stage_steps = stage_steps
        self.bits = bits
        self._velocities: dict[str, Tensor] = {}
        self._unsent: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean of what is sent, and this worker's share."""
        counts = {name: count_of(grad, self._density_for(name)) for name, grad in grads.items()}
        alone = [name for name, grad in grads.items() if is_worth(grad, counts[name], self.bits, comm)]
        used = {name: is_used(grad) for name, grad in grads.items()}
        before = {name: self._kept(name, grad) for name, grad in grads.items()}
        after = {name: self._accumulated(grad, *before[name], comm) for name, grad in grads.items()}
        wanted = {name: _unless_unused(used[name], after[name][1], grad) for name, grad in grads.items()}
        parts = {name: take_largest(wanted[name], counts[name]) for name in alone}
        averaged = average_sparse(parts, grads, comm, bits=self.bits)
        whole = dense({name: each for name, each in wanted.items() if name not in parts}, comm)
        averaged = Averaged(averaged.mean | whole.mean, averaged.sent | whole.sent)
        finite = all_finite(list(averaged.mean.values()))
        for name, (velocity, unsent) in after.items():
            if name in parts:
                velocity.view(-1).index_fill_(0, parts[name].places, 0)
                left = unsent.sub_(averaged.sent[name])
            else:  # what was sent is the very tensor
                left = unsent - averaged.sent[name]
            good = finite & used[name]
            self._velocities[name] = either(good, velocity, before[name][0])
            self._unsent[name] = either(good, left, before[name][1])
            self._steps[name] = self._steps.get(name, 0) + 1
        return averaged

    def _density_for(self, name: str) -> float:
        """Return the density of this step of a parameter."""
        if self.stage_steps == 0:
            return self.density
        stage = self._steps.get(name, 0) // self.stage_steps
        return max(self.density, FIRST / FACTOR ** min(stage, 99))

    def _kept(self, name: str, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return u and v of a parameter, zeros at first, on the gradient's device."""
        if name not in self._velocities:
            wide = torch.promote_types(grad.dtype, torch.float32)
            zeros = fresh(grad.shape, wide, grad.device, is_zero=True)
            self._velocities[name] = self._unsent[name] = zeros  # never written to
        kept = self._velocities[name], self._unsent[name]
        if kept[0].shape != grad.shape or kept[1].shape != grad.shape:
            raise ValueError(
                f"compress.DGC: what is kept for '{name}' has shape {tuple(kept[0].shape)}, its gradient "
                f"{tuple(grad.shape)}; load the state of this model, or start anew"
            )
        return kept[0].to(grad.device), kept[1].to(grad.device)

    def _accumulated(
        self, grad: Tensor, velocity: Tensor, unsent: Tensor, comm: Comm
    ) -> tuple[Tensor, Tensor]:
        """Return new tensors: u and v with the gradient in them."""
        new = grad.to(velocity.dtype)
        if self.max_norm is not None:
            norm = joint_norm([new])
            factor = (self.max_norm * comm.size**0.5 / norm).clamp(max=1)  # a norm of 0 gives inf, so 1
            new = new * torch.where(norm.isfinite(), factor, 1).to(new.dtype)
        first, second = (fresh(new.shape, new.dtype, new.device) for _ in range(2))
        torch.add(new, velocity, alpha=self.momentum, out=first)
        if self.is_nesterov:
            return first, torch.add(new, first, alpha=self.momentum, out=second).add_(unsent)
        return first, torch.add(unsent, first, out=second)

    def state_dict(self) -> dict[str, Any]:
        """Return u, v and the steps by parameter name.

        u and v differ from worker to worker: each saves its own and loads its own.
        """
        return {
            "velocities": dict(self._velocities),
            "residuals": dict(self._unsent),
            "steps": dict(self._steps),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._velocities = dict(state["velocities"])
        self._unsent = dict(state["residuals"])
        self._steps = dict(state["steps"])

    def __repr__(self) -> str:
        tuned = f"is_nesterov={self.is_nesterov}, max_norm={self.max_norm}, stage_steps={self.stage_steps}"
        return f"DGC(density={self.density}, momentum={self.momentum}, {tuned}, bits={self.bits})"


def _unless_unused(used: Tensor, unsent: Tensor, grad: Tensor) -> Tensor:
    """Return what is to be sent, in the gradient's type; where that is zero everywhere, so is this."""
    if used.device.type == "cpu":
        return unsent.to(grad.dtype) if used else grad
    return torch.where(used, unsent, 0).to(grad.dtype)
