"""Layers: a weight seen as matrices, and the module whose inputs those matrices multiply."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tonsor.prune.from_inputs import KINDS

CONVOLUTIONS = KINDS[1:]
PIECE = 1 << 23  # unfolded elements held at once
PARTS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")  # of an attention with sizes of their own

Raw: TypeAlias = tuple[Tensor, ...]  # what a module was fed: one tensor, or query, key and value


@dataclass(frozen=True, eq=False)
class Layer:
    """Hold a weight with the module that owns it; found by `layer_of`.

    Args:
        name: The weight's name.
        owner: The module that is called.
        weight: The parameter.
        bias: The bias that goes with it, perhaps a part of a parameter; or none.
        parameters: The parameters behind weight and bias, by name.
        groups: How many matrices the weight holds, each with input features of its own.

    Example:
        >>> layer = layer_of(nn.Conv2d(4, 6, 3, groups=2), "weight")
        >>> layer.groups
        2
        >>> [piece.shape for piece in layer.features((torch.zeros(5, 4, 8, 8),))]   # 5 x 6 x 6 places
        [torch.Size([2, 180, 18])]
    """

    name: str
    owner: Any
    weight: Tensor
    bias: Tensor | None
    parameters: Mapping[str, Tensor]
    groups: int

    @property
    def geometry(self) -> tuple[Any, ...]:
        """What has to be equal for two layers to see the same features of the same input."""
        names = ("kernel_size", "stride", "dilation", "groups", "padding", "padding_mode")
        return (isinstance(self.owner, CONVOLUTIONS), *(getattr(self.owner, name, None) for name in names))

    def upright(self, like_weight: Tensor, /) -> Tensor:
        """Return a tensor shaped like the weight as `(out, in/groups, ...)`; twice is nothing."""
        return like_weight.t() if _is_transposed(self.owner) else like_weight

    def features(self, raw: Raw, /) -> Iterator[Tensor]:
        """Yield what the weight multiplies, `(groups, positions, features)`, in pieces that fit."""
        if isinstance(self.owner, CONVOLUTIONS):
            yield from _unfolded(self.owner, raw[0])
            return
        rows = [x.detach().reshape(-1, x.shape[-1]) for x in raw]
        longest = max(len(x) for x in rows)  # zeros add nothing to a sum; the scale of a group is its own
        yield torch.stack([nn.functional.pad(x, (0, 0, 0, longest - len(x))) for x in rows])

    def watch(self, see: Callable[[Raw], None], /) -> RemovableHandle:
        """Call `see` with what the module is fed, each time it is called."""
        if isinstance(self.owner, nn.MultiheadAttention):
            watch = _watch_out_proj if self.name.endswith("out_proj.weight") else _watch_in_proj
            return watch(self, see)
        return self.owner.register_forward_pre_hook(  # type: ignore[no-any-return]
            lambda _, inputs, named: see((inputs[0] if inputs else next(iter(named.values())),)),
            with_kwargs=True,
        )


def layer_of(model: nn.Module, name: str, /) -> Layer | None:
    """Return the layer of a weight, or None where its inputs have no features or it is tied elsewhere.

    Linear layers, convolutions, the projections of `nn.MultiheadAttention` and Hugging Face's transposed
    `Conv1D` are layers.

    Args:
        model: The model.
        name: Name of the weight.

    Example:
        >>> layer_of(nn.Linear(3, 2), "weight").groups, layer_of(nn.Embedding(3, 2), "weight")
        (1, None)
        >>> layer_of(nn.MultiheadAttention(4, 2), "in_proj_weight").groups    # query, key and value
        3
        >>> layer_of(nn.MultiheadAttention(4, 2), "out_proj.bias") is None
        True
    """
    path, _, attribute = name.rpartition(".")
    owner = model.get_submodule(path)
    weight = getattr(owner, attribute)
    parent = model.get_submodule(path.rpartition(".")[0]) if path else owner
    if (
        sum(parameter is weight for module in model.modules() for parameter in module._parameters.values())
        > 1
    ):
        return None
    if isinstance(owner, nn.MultiheadAttention):
        return _of_in_proj(owner, name, attribute)
    if isinstance(parent, nn.MultiheadAttention) and attribute == "weight":
        parameters = _parameters(owner, name, "bias")
        return Layer(name, parent, weight, _bias(owner, "bias"), parameters, 1)
    if attribute != "weight" or not (isinstance(owner, KINDS) or _is_transposed(owner)):
        return None
    groups = getattr(owner, "groups", 1)
    return Layer(name, owner, weight, _bias(owner, "bias"), _parameters(owner, name, "bias"), groups)


def _of_in_proj(owner: nn.MultiheadAttention, name: str, attribute: str) -> Layer | None:
    """Return the layer of an input projection, all three in one or each by itself."""
    weight = getattr(owner, attribute)
    parameters = _parameters(owner, name, "in_proj_bias")
    if attribute == "in_proj_weight":
        return Layer(name, owner, weight, _bias(owner, "in_proj_bias"), parameters, 3)
    if attribute not in PARTS:
        return None
    bias = _bias(owner, "in_proj_bias")
    if bias is not None:
        bias = bias.detach().chunk(3)[PARTS.index(attribute)]
    return Layer(name, owner, weight, bias, parameters, 1)


def _bias(owner: nn.Module, name: str) -> Tensor | None:
    """Return a bias, if there is one."""
    bias: Tensor | None = getattr(owner, name, None)
    return bias


def _parameters(owner: nn.Module, name: str, bias: str) -> dict[str, Tensor]:
    """Return the parameters of a layer by name."""
    path, _, attribute = name.rpartition(".")
    found = {name: getattr(owner, attribute)}
    if getattr(owner, bias, None) is not None:
        found[f"{path}.{bias}" if path else bias] = getattr(owner, bias)
    return found


def _is_transposed(owner: Any) -> bool:
    """Return whether a module is Hugging Face's `Conv1D`, a linear layer that stores (in, out)."""
    return type(owner).__name__ == "Conv1D" and hasattr(owner, "nf")


def _unfolded(owner: Any, x: Tensor) -> Iterator[Tensor]:
    """Yield the patches that a convolution multiplies, padded, strided and dilated as it does."""
    sizes = owner.kernel_size
    x = x.detach() if x.ndim == len(sizes) + 2 else x.detach().unsqueeze(0)
    mode = "constant" if owner.padding_mode == "zeros" else owner.padding_mode
    patches = nn.functional.pad(x, owner._reversed_padding_repeated_twice, mode=mode)
    for dim, (size, step, gap) in enumerate(zip(sizes, owner.stride, owner.dilation, strict=True), start=2):
        patches = patches.unfold(dim, gap * (size - 1) + 1, step)[..., ::gap]
    places = len(sizes) + 2  # samples, channels and positions; the dimensions of the kernel follow
    for piece in torch.split(patches, max(1, PIECE // max(1, patches[0].numel()))):
        parts = piece.reshape(len(piece), owner.groups, -1, *piece.shape[2:])
        order = (1, 0, *range(3, places + 1), 2, *range(places + 1, parts.ndim))
        yield parts.permute(order).flatten(1, places - 1).flatten(2)


def _watch_in_proj(layer: Layer, see: Callable[[Raw], None]) -> RemovableHandle:
    """Call `see` with query, key and value, or with the one that the weight works on."""

    def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Pick the arguments by place or name."""
        given = dict(zip(("query", "key", "value"), inputs, strict=False)) | named
        wanted = ("query", "key", "value")
        attribute = layer.name.rpartition(".")[2]
        see(tuple(given[n] for n in (wanted if attribute not in PARTS else [wanted[PARTS.index(attribute)]])))

    return layer.owner.register_forward_pre_hook(hook, with_kwargs=True)  # type: ignore[no-any-return]


def _watch_out_proj(layer: Layer, see: Callable[[Raw], None]) -> RemovableHandle:
    """Call `see` with what the output projection multiplies: attention's output where it is the identity.

    The projection's own forward is never called, so the attention runs once more without it.
    """
    busy: list[bool] = []

    def hook(owner: Any, inputs: tuple[Any, ...], named: dict[str, Any], _: Any) -> None:
        """Run the attention again with the identity for a projection."""
        if busy:
            return
        busy.append(True)
        identity = {"out_proj.weight": torch.eye(owner.embed_dim).to(layer.weight)}
        if layer.bias is not None:
            identity["out_proj.bias"] = torch.zeros_like(layer.bias)
        try:
            output, _weights = torch.func.functional_call(owner, identity, inputs, named)
        finally:
            busy.clear()
        see((output,))

    return layer.owner.register_forward_hook(hook, with_kwargs=True)  # type: ignore[no-any-return]
