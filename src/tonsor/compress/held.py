"""Gradients of micro-batches are added up in 8 or 16 bits."""

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tonsor.compress.coded import Coded, Kind
from tonsor.compress.named import trained_of


@final
class HeldGradients:
    """Take each gradient as soon as it is whole, add it to a sum in few bits, and free it.

    Between micro-batches the gradients then take 2.03 bytes a parameter ("int8") or 3.02 ("bfloat16")
    instead of 4; without feedback 1.02 or 2, and a sum of N gradients is rounded N times. While backward
    runs, the gradients of the parameters that autograd is at are alive as well.

    The loop is `backward()` for each micro-batch, then either `release()` and the optimizer's step, where
    all gradients are whole again for a moment, or `step(optimizer)`, where one is at a time. Sums are in
    float32 also where gradients are of half precision. What is not finite shows in the sum.

    Not for DDP, which averages gradients later, in buckets of its own.

    Args:
        parameters: A model, or its parameters; those that require no gradient are left out.
        kind: "int8", in blocks of 256 with a scale, or "bfloat16".
        feedback: Whether what rounding loses is held too, in 8 bits, and added to the next gradient.

    Raises:
        ValueError: If `kind` is not known, no parameter requires a gradient, or the model is in DDP.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> held = HeldGradients(layer)
        >>> for x in (1.0, 2.0):
        ...     layer(torch.tensor([x])).backward()
        >>> layer.weight.grad is None
        True
        >>> held.release(); layer.weight.grad
        tensor([[3.]])
    """

    def __init__(
        self,
        parameters: nn.Module | Iterable[Tensor],
        /,
        *,
        kind: Kind = "int8",
        feedback: bool = True,
    ) -> None:
        self.kind = kind
        self.feedback = feedback
        self._named = trained_of(parameters, "compress.HeldGradients")
        self._sums: dict[str, Coded] = {}
        self._names = {id(parameter): name for name, parameter in self._named.items()}
        self._made(torch.empty(0))
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._take)  # type: ignore[no-untyped-call]
            for parameter in self._named.values()
        ]

    @property
    def nbytes(self) -> int:
        """The bytes that are held."""
        return sum(t.nbytes for held in self._sums.values() for pair in held.layers for t in pair)

    def norm(self) -> Tensor:
        """Return the joint 2-norm of the sums, 0-dim, for clipping: multiply by `scale_` then."""
        norms = [torch.linalg.vector_norm(held.value()) for held in self._sums.values()]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    def scale_(self, factor: float | Tensor, /) -> None:
        """Multiply all sums, in place: by one over the number of micro-batches, or to clip them."""
        for held in self._sums.values():
            held.scale_(torch.as_tensor(factor, device=held.layers[0][0].device))

    @torch.no_grad()
    def release(self) -> None:
        """Put the sums into `.grad` and begin anew."""
        for name in list(self._sums):
            self._put(name)

    @torch.no_grad()
    def step(self, optimizer: Optimizer, /) -> None:
        """Let the optimizer step, with one gradient at a time, and begin anew.

        The optimizer's `step` is called once for each parameter, so an optimizer that looks at all
        gradients together is none for this, and hooks on it see one parameter at a time.

        Args:
            optimizer: Of the same parameters; those that have no sum are not stepped.
        """
        for name in list(self._sums):
            self._put(name)
            optimizer.step()
            self._named[name].grad = None

    def remove(self) -> None:
        """Take the hooks off the parameters; what is held is lost."""
        for hook in self._hooks:
            hook.remove()
        self._sums.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums by parameter name, to stop between two micro-batches."""
        return {
            name: [tensor.clone() for pair in held.layers for tensor in pair]
            for name, held in self._sums.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; raises ValueError if a sum fits no parameter."""
        sums = {}
        for name, tensors in state.items():
            parameter = self._named.get(name)
            held = None if parameter is None else self._made(parameter)
            mine = [] if held is None else [tensor for pair in held.layers for tensor in pair]
            if [(t.shape, t.dtype) for t in mine] != [(t.shape, t.dtype) for t in tensors] or held is None:
                raise ValueError(
                    f"compress.HeldGradients: the sum of '{name}' fits no parameter held here as "
                    f"{self.kind}; make this of the same model, with the same settings"
                )
            for tensor, saved in zip(mine, tensors, strict=True):
                tensor.copy_(saved)
            sums[name] = held
        self._sums = sums

    def _made(self, like: Tensor) -> Coded:
        """Return a sum of zeros for a parameter."""
        return Coded(like.numel(), like.device, kind=self.kind, feedback=self.feedback)

    @torch.no_grad()
    def _take(self, parameter: Tensor) -> None:
        """Add the gradient that has just arrived to its sum, and free it."""
        grad = parameter.grad
        if grad is None:
            return
        name = self._names[id(parameter)]
        if name not in self._sums:
            self._sums[name] = self._made(parameter)
        self._sums[name].add(grad.reshape(-1))
        parameter.grad = None

    def _put(self, name: str) -> None:
        """Put a sum into the gradient of its parameter, and free it."""
        parameter = self._named[name]
        parameter.grad = self._sums.pop(name).value().view(parameter.shape).to(parameter.dtype)
