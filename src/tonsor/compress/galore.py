"""The optimizer's state is held for a low-rank projection of each gradient matrix."""

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tonsor.compress.named import trained_of


@final
class GaLore:
    r"""Let any optimizer work on projected gradients, and project its step back onto the weights.

    For a matrix of m rows and n columns, n the larger side: P holds the r leading left singular vectors of
    the gradient G, found anew every `every` steps; the optimizer is handed :math:`R = P^\top G`, of r rows,
    and its step :math:`\Delta R` moves the weights by :math:`\alpha P \, \Delta R`. Where m is the larger
    side, or equal, G is projected from the right. So Adam's two moments take 2 r n numbers instead of 2 m n,
    and P takes m r more. When P changes, the moments stay as they are, as in the paper. Tensors of fewer
    than two dimensions, and matrices whose smaller side is not above the rank, are stepped as ever;
    a convolution counts as a matrix of shape (out, -1).

    Weight decay acts on the weights themselves: by the group's `lr` where the optimizer decouples it, as
    AdamW, and else on the gradient before it is projected. `optimizer` is the one inside, for schedulers.
    Projected gradients and their state are float32 at least. Not for optimizers that want a closure.

    Args:
        parameters: A model, or its parameters.
        optimizer: Called with a list of tensors: `partial(torch.optim.AdamW, lr=0.01)`.
        rank: r, at least 1; bigger is nearer to the optimizer alone, and takes more memory.
        every: Steps between two projections, at least 1; fewer follow the gradient more closely, and each
            costs an eigendecomposition of the smaller side.
        scale: Alpha, above 0: the step size of projected matrices against that of the others.

    Raises:
        ValueError: If a setting is out of its range, or no parameter requires a gradient.

    Example:
        >>> from functools import partial
        >>> layer = nn.Linear(4, 2, bias=False)
        >>> _ = nn.init.zeros_(layer.weight)
        >>> galore = GaLore(layer, partial(torch.optim.SGD, lr=1.0), rank=1, scale=0.5)
        >>> layer(torch.tensor([1.0, 2.0, 0.0, 0.0])).sum().backward()      # a gradient of rank 1
        >>> galore.step(); layer.weight.data
        tensor([[-0.5000, -1.0000,  0.0000,  0.0000],
                [-0.5000, -1.0000,  0.0000,  0.0000]])

    References:
        Zhao et al., 2024, "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection",
        https://arxiv.org/abs/2403.03507
    """

    def __init__(
        self,
        parameters: nn.Module | Iterable[Tensor],
        optimizer: Callable[[list[Tensor]], Optimizer],
        /,
        *,
        rank: int = 128,
        every: int = 200,
        scale: float = 0.25,
    ) -> None:
        if rank < 1 or every < 1 or not scale > 0:
            raise ValueError(
                "compress.GaLore: rank and every must be at least 1, scale above 0; "
                f"got rank={rank}, every={every}, scale={scale}"
            )
        self.rank = rank
        self.every = every
        self.scale = scale
        self.steps = 0
        self._named = trained_of(parameters, "compress.GaLore")
        self._bases: dict[str, Tensor] = {}
        # What the optimizer steps instead of a matrix: zeros before the step, and its step after it.
        self._stand_ins = {name: self._stand_in(p) for name, p in self._named.items() if self._projects(p)}
        self.optimizer = optimizer([self._stand_ins.get(name, p) for name, p in self._named.items()])
        self._groups = {id(t): group for group in self.optimizer.param_groups for t in group["params"]}

    def _projects(self, parameter: Tensor) -> bool:
        """Tell whether a parameter is a matrix that the rank makes smaller."""
        return parameter.ndim >= 2 and parameter.numel() > 0 and min(_matrix(parameter).shape) > self.rank

    def _stand_in(self, parameter: Tensor) -> Tensor:
        """Return zeros with the projected gradient's shape."""
        rows, columns = _matrix(parameter).shape
        shape = (rows, self.rank) if rows >= columns else (self.rank, columns)
        return nn.Parameter(parameter.new_zeros(shape, dtype=_wide(parameter)))

    @torch.no_grad()
    def step(self) -> None:
        """Project the gradients, let the optimizer step, and project its step back."""
        for name, stand_in in self._stand_ins.items():
            parameter = self._named[name]
            grad = parameter.grad
            stand_in.zero_()
            stand_in.grad = None if grad is None else self._projected(name, parameter, grad)
        self.optimizer.step()
        for name, stand_in in self._stand_ins.items():
            if stand_in.grad is not None:
                self._move(self._named[name], self._bases[name], stand_in)
                stand_in.grad = None
        self.steps += 1

    def zero_grad(self) -> None:
        """Free the gradients."""
        for parameter in self._named.values():
            parameter.grad = None

    def _projected(self, name: str, parameter: Tensor, grad: Tensor) -> Tensor:
        """Return the projected gradient, by a new base where it is time."""
        matrix = _matrix(grad).to(_wide(grad))
        group = self._groups[id(self._stand_ins[name])]
        if group.get("weight_decay", 0) and not group.get("decoupled_weight_decay", False):
            matrix = matrix + group["weight_decay"] * _matrix(parameter)
        if self.steps % self.every == 0 or name not in self._bases:
            self._bases[name] = _leading(matrix, self.rank, self._bases.get(name))
        base = self._bases[name]
        return matrix @ base if matrix.shape[0] >= matrix.shape[1] else base.t() @ matrix

    def _move(self, parameter: Tensor, base: Tensor, stand_in: Tensor) -> None:
        """Move a weight by the optimizer's step, projected back."""
        group = self._groups[id(stand_in)]
        if group.get("decoupled_weight_decay", False):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        rows, columns = _matrix(parameter).shape
        step = stand_in @ base.t() if rows >= columns else base @ stand_in
        parameter.add_(step.view(parameter.shape), alpha=self.scale)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer inside, the bases by parameter name, and the steps."""
        inner = self.optimizer.state_dict()
        held = {str(place): state for place, state in inner["state"].items()}
        groups = inner["param_groups"]
        return {"state": held, "param_groups": groups, "bases": dict(self._bases), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; raises ValueError if a base does not fit."""
        bases = {}
        for name, base in state["bases"].items():
            stand_in = self._stand_ins.get(name)
            if stand_in is None or self.rank != base.shape[1]:
                raise ValueError(
                    f"compress.GaLore: the base saved for '{name}', of shape {tuple(base.shape)}, fits no "
                    f"projected parameter at rank={self.rank}; make this of the same model and rank"
                )
            bases[name] = base.to(stand_in.device)
        held = {int(place): value for place, value in state["state"].items()}
        self.optimizer.load_state_dict({"state": held, "param_groups": state["param_groups"]})
        self._groups = {id(t): group for group in self.optimizer.param_groups for t in group["params"]}
        self._bases, self.steps = bases, state["steps"]


def _matrix(tensor: Tensor) -> Tensor:
    """Return a tensor as a matrix of one row for each output."""
    return tensor.reshape(tensor.shape[0], -1)


def _wide(tensor: Tensor) -> torch.dtype:
    """Return the type in which projected gradients are held."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _leading(matrix: Tensor, rank: int, before: Tensor | None) -> Tensor:
    """Return the leading singular vectors of the smaller side, or those from before for a bad gradient.

    They are eigenvectors of the smaller Gram matrix, which are found several times faster. Their signs are
    arbitrary; the largest element is made positive, so that moments fit where a direction stays.
    """
    finite = matrix.isfinite().all()
    scale = matrix.abs().amax()
    matrix = torch.where(finite & (scale > 0), matrix / scale, 0.0)  # squares stay in range
    gram = matrix.t() @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.t()
    base = torch.linalg.eigh(gram).eigenvectors[:, -rank:].flip(1)
    base = base * base.gather(0, base.abs().argmax(0, keepdim=True)).sign()
    return base if before is None else torch.where(finite, base, before.to(base.device))
