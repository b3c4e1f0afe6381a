"""Statistics of second order: the Gram matrix of what a module is fed."""

from collections.abc import Mapping

from torch import Tensor, nn

from tonsor.prune.from_loss import wide
from tonsor.prune.layers import Layer, layer_of
from tonsor.prune.moments import Moments


class InputGram:
    r"""Gather the Gram matrix of each layer's inputs: :math:`G = \frac{1}{N} \sum_n x_n x_n^\top`.

    The sum runs over all samples and positions. A feature is what one column of `weight.flatten(1)`
    multiplies: an input of a linear layer, an input channel at one place of the kernel of a convolution.
    An `nn.MultiheadAttention` has three groups for its `in_proj_weight` (query, key, value), and its
    `out_proj.weight` is seen as well, at the cost of a second run of the attention.

    Args:
        model: The model; a hook is hung on each module that owns one of the weights.
        weights: Weights by name.
        what: "gram", or "mean" for the mean input, which the refit of a bias needs.

    Raises:
        ValueError: If a weight is not that of a linear layer, a convolution or an attention projection.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> gathered = InputGram(model, {"weight": model.weight})
        >>> out = model(torch.tensor([[3.0, 0.0], [1.0, 2.0]]))
        >>> gathered.close()
        >>> gathered.result()
        {'weight': tensor([[[5., 1.],
                           [1., 2.]]])}

    References:
        Frantar and Alistarh, 2023, "SparseGPT", https://arxiv.org/abs/2301.00774
    """

    needs_loss = False

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], /, *, what: str = "gram") -> None:
        self._what = what
        self._types = {name: wide(weight) for name, weight in weights.items()}
        layers = {name: _layer(model, name, what) for name in weights}
        self._moments = {name: Moments(layer) for name, layer in layers.items()}
        self._hooks = [layer.watch(self._moments[name].add) for name, layer in layers.items()]

    def add(self, loss: Tensor | None, /) -> None:
        """Do nothing: the hooks have seen the batch."""

    def result(self) -> dict[str, Tensor]:
        """Return the Gram matrices, `(groups, features, features)`, or the means, `(groups, features)`."""
        for name, moments in self._moments.items():
            if not moments.count:
                raise ValueError(
                    f"prune.collect: no input was seen for weight '{name}': its module was not called by the"
                    " batches; leave the weight out"
                )
        return {name: getattr(m, self._what).to(self._types[name]) for name, m in self._moments.items()}

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()


def _layer(model: nn.Module, name: str, what: str) -> Layer:
    """Return the layer of a weight, or say that there is none."""
    layer = layer_of(model, name)
    if layer is None:
        owner = model.get_submodule(name.rpartition(".")[0])
        raise ValueError(
            f"prune.collect: 'input_{what}' is not defined for '{name}' of {type(owner).__name__}, only for"
            " the untied weights of linear layers, convolutions and attention projections; leave it out or"
            " take another importance"
        )
    return layer
