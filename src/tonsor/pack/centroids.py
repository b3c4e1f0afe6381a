"""Shared values are trained on: the gradients of all elements of one value are summed into it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from tonsor.modes import call, evaluating
from tonsor.pack.shared import Shared, to_half
from tonsor.schedule import cosine
from tonsor.spelling import unknown


@final
class Centroids:
    r"""Train the tables of shared weights instead of the weights.

    .. math:: \frac{\partial L}{\partial T_k} = \sum_{c_i = k} \frac{\partial L}{\partial w_i}

    A step is: backward, `gather()`, the step of an optimizer over `parameters()`, `write()`. The codes stand
    still, so zeros stay zero, and a file gets no longer.

    Args:
        parameters: The model's parameters by name; those that are shared get the shared values at once.
        shared: Some of them, shared.

    Raises:
        ValueError: If a name is not known or a shape differs; nothing is written then.

    Example:
        >>> from tonsor.pack import kmeans
        >>> w = nn.Parameter(torch.tensor([1.0, 1.0, 0.0, 3.0]))
        >>> centroids = Centroids({"w": w}, {"w": kmeans(w, bits=2)})
        >>> w.grad = torch.tensor([0.5, 0.25, 9.0, 1.0])
        >>> centroids.gather(); centroids.parameters()[0].grad     # of the values 1 and 3
        tensor([[0.7500, 1.0000]])

    References:
        Han et al., 2016, "Deep Compression", https://arxiv.org/abs/1510.00149 (section 3.3)
    """

    def __init__(self, parameters: Mapping[str, Tensor], shared: Mapping[str, Shared]) -> None:
        for name, given in shared.items():
            if name not in parameters:
                raise ValueError(f"pack.Centroids: {unknown('parameter', name, parameters)}")
            if parameters[name].shape != given.codes.shape:
                raise ValueError(
                    f"pack.Centroids: '{name}' has shape {tuple(parameters[name].shape)}, "
                    f"and its codes have {tuple(given.codes.shape)}; share it anew"
                )
        self._weights = {name: parameters[name] for name in shared}
        self._learned = {name: s.learned.detach().clone().requires_grad_() for name, s in shared.items()}
        self._shared = {name: s.with_learned(self._learned[name]) for name, s in shared.items()}
        self._places = {name: s.places() for name, s in shared.items()}
        self.write()

    def parameters(self) -> list[Tensor]:
        """Return what is trained, one tensor for each shared weight."""
        return list(self._learned.values())

    def gather(self) -> None:
        """Sum the gradients of the weights into those of the tables; without one a table stands still."""
        for name, weight in self._weights.items():
            self._learned[name].grad = None
            if weight.grad is not None:
                table = self._shared[name].table()
                sums = torch.zeros_like(table).flatten()
                sums.index_add_(0, self._places[name], weight.grad.detach().reshape(-1).to(sums.dtype))
                table.backward(sums.view(table.shape))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def write(self) -> None:
        """Write the shared values into the weights, in place."""
        for name, weight in self._weights.items():
            weight.copy_(self._shared[name].values())

    @torch.no_grad()
    def shared(self) -> dict[str, Shared]:
        """Return what was trained, tables rounded to half precision where they fit, as they are packed."""
        return {
            name: given.with_learned(learned.clone() if given.rule == "uniform" else to_half(learned.clone()))
            for name, given in self._shared.items()
            for learned in [self._learned[name].detach()]
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the tables by name."""
        return {name: learned.detach().clone() for name, learned in self._learned.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the tables of `state_dict`, and write the weights.

        Raises:
            ValueError: If a name or a shape is another; nothing is changed then.
        """
        shapes = {name: tuple(learned.shape) for name, learned in self._learned.items()}
        if {name: tuple(learned.shape) for name, learned in state.items()} != shapes:
            raise ValueError(
                "pack.Centroids: the state is of other weights, or of other bits; share them anew"
            )
        for name, learned in self._learned.items():
            learned.copy_(state[name])
        self.write()


def finetune_(
    model: nn.Module,
    shared: Mapping[str, Shared],
    batches: Iterable[tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor],
    /,
    *,
    lr: float = 1e-3,
    steps: int | None = None,
) -> dict[str, Shared]:
    """Train the values that weights share, and nothing else, with Adam; the model's weights follow, in place.

    The model stays in evaluation mode, so that running statistics stand still. The learning rate falls to
    zero along a cosine where the number of steps is known.

    Args:
        model: The model.
        shared: Its shared parameters by name.
        batches: Pairs of inputs (a tensor, a tuple or a mapping) and targets.
        loss: From outputs and targets to a number.
        lr: Of Adam; a higher one moves values faster.
        steps: How many batches there will be, for the schedule; constant if not given.

    Returns:
        The shared weights as they are in the model now, ready to be packed.

    Raises:
        ValueError: If `shared` does not fit the model, or the loss is not finite; the weights are then those
            before the step.

    Example:
        >>> from tonsor.pack import share
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 0.5)
        >>> data = [(torch.ones(1, 1), torch.full((1, 1), 1.0))] * 60
        >>> shared = finetune_(model, share(model, bits=2), data, nn.functional.mse_loss, lr=0.1, steps=60)
        >>> 0.9 < model.weight.item() < 1.1
        True

    References:
        Han et al., 2016, "Deep Compression", https://arxiv.org/abs/1510.00149 (section 3.3)
    """
    centroids = Centroids(dict(model.named_parameters()), shared)
    parameters = centroids.parameters()
    optimizer = torch.optim.Adam(parameters, lr=lr) if parameters else None
    for step, (inputs, targets) in enumerate(batches if optimizer else ()):
        # inside the loop: a generator that yields under no_grad leaves it on
        with evaluating(model), torch.enable_grad():
            model.zero_grad()
            found = loss(call(model, inputs), targets)
            if not bool(found.isfinite()):
                raise ValueError(f"pack.finetune_: the loss of batch {step} is {found.item()}; lower lr={lr}")
            found.backward()  # type: ignore[no-untyped-call]
            centroids.gather()
        assert optimizer is not None, "there are batches only where there is one"
        if steps is not None:
            optimizer.param_groups[0]["lr"] = cosine(step, initial=lr, final=0.0, stop=steps)
        optimizer.step()
        centroids.write()
    model.zero_grad()
    done = centroids.shared()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in done:
                parameter.copy_(done[name].values())
    return done
