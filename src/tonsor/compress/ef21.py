"""Each worker sends how its gradient differs from what the others know of it."""

from typing import Any, final

import torch
from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.feedback import all_finite, either
from tonsor.compress.inner import load_state, state_of
from tonsor.compress.protocol import Averaged, Compressor


@final
class EF21:
    r"""Send the difference between the gradient and an estimate of it that all workers share.

    Worker i keeps an estimate :math:`h_i`, all keep their mean :math:`H`:
    :math:`(\bar m, m_i) = C(v_i - h_i)`, :math:`h_i \leftarrow h_i + m_i`,
    :math:`H \leftarrow H + \bar m`, and H is the mean that is returned. What is compressed gets small
    as the gradients settle, so that the error does too, also where the workers' gradients differ. With
    `momentum` what is tracked is :math:`v_i \leftarrow \beta v_i + (1 - \beta) g_i`, from
    :math:`v_i = g_i` at first, which lets small batches do.

    `sent` is the estimate :math:`h_i`. No residual is kept, so this stands in the place of
    `ErrorFeedback` and not inside it. It costs the memory of two gradients, with momentum of three, in
    float32 at least. Where the mean is not finite, everything stays as it was, on all workers alike.
    When a loss scale changes, the estimates are behind for some steps.

    Args:
        compressor: The rule that is wrapped; one that sends a part of its input, as `TopK` or `PowerSGD`.
        momentum: Beta in [0, 1); bigger smooths over more steps, and 0 needs no memory for it.

    Raises:
        ValueError: If `momentum` is out of its range, or a loaded estimate does not have the gradient's
            shape.

    Example:
        >>> from tonsor.compress import TopK
        >>> rule = EF21(TopK(density=0.25))
        >>> g = {"w": torch.tensor([[4.0, 3.0], [0.0, 0.0]])}
        >>> for _ in range(2):
        ...     print(rule(g, Comm()).mean["w"][0])
        tensor([4., 0.])
        tensor([4., 3.])

    References:
        Richtarik et al., 2021, "EF21: A New, Simpler, Theoretically Better, and Practically Faster Error
        Feedback", https://arxiv.org/abs/2106.05203
        Fatkhullin et al., 2023, "Momentum Provably Improves Error Feedback!",
        https://arxiv.org/abs/2305.15155
    """

    own_state = ("own", "smooth")

    def __init__(self, compressor: Compressor, /, *, momentum: float = 0.0) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"compress.EF21: momentum must lie in [0, 1); got {momentum}")
        self.compressor = compressor
        self.momentum = momentum
        self._own: dict[str, Tensor] = {}  # h of this worker
        self._joint: dict[str, Tensor] = {}  # H, the same on all
        self._smooth: dict[str, Tensor] = {}  # v of this worker

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the shared estimate of the mean, and this worker's estimate of its gradient."""
        for name, grad in grads.items():
            self._prepare(name, grad)
        tracked = {name: self._tracked(name, grad) for name, grad in grads.items()}
        news = {name: (tracked[name] - self._own[name]).to(grad.dtype) for name, grad in grads.items()}
        averaged = self.compressor(news, comm)
        finite = all_finite(list(averaged.mean.values()))
        mean, sent = {}, {}
        for name, grad in grads.items():
            joint = self._joint[name] + averaged.mean[name]
            own = self._own[name] + averaged.sent[name]
            mean[name], sent[name] = joint.to(grad.dtype), own.to(grad.dtype)
            self._joint[name] = either(finite, joint, self._joint[name])
            self._own[name] = either(finite, own, self._own[name])
            if self.momentum:  # NaN: no good step has been seen yet
                before = self._smooth.get(name, torch.full_like(own, torch.nan))
                self._smooth[name] = either(finite, tracked[name], before.to(grad.device))
        return Averaged(mean, sent)

    def _prepare(self, name: str, grad: Tensor) -> None:
        """Make the estimates at first, zeros, and put them on the gradient's device."""
        for kept in (self._own, self._joint):
            if name not in kept:
                kept[name] = torch.zeros_like(grad, dtype=torch.promote_types(grad.dtype, torch.float32))
            if kept[name].shape != grad.shape:
                raise ValueError(
                    f"compress.EF21: the estimate kept for '{name}' has shape {tuple(kept[name].shape)}, "
                    f"its gradient {tuple(grad.shape)}; load the state of this model, or start anew"
                )
            kept[name] = kept[name].to(grad.device)

    def _tracked(self, name: str, grad: Tensor) -> Tensor:
        """Return what the estimate follows: the gradient, or its moving average."""
        wide = grad.to(self._own[name].dtype)
        if not self.momentum or name not in self._smooth:
            return wide
        before = self._smooth[name].to(grad.device)
        return torch.where(before.isnan(), wide, before.lerp(wide, 1 - self.momentum))

    def state_dict(self) -> dict[str, Any]:
        """Return the estimates and the state of the wrapped rule; each worker saves and loads its own."""
        return {
            "own": dict(self._own),
            "joint": dict(self._joint),
            "smooth": dict(self._smooth),
            "compressor": state_of(self.compressor),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._own, self._joint = dict(state["own"]), dict(state["joint"])
        self._smooth = dict(state["smooth"])
        load_state(self.compressor, state["compressor"])

    def __repr__(self) -> str:
        return f"EF21({self.compressor!r}, momentum={self.momentum})"
