"""A model as few bytes in memory, and back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tonsor.pack.by_kmeans import kmeans
from tonsor.pack.coding import Coding
from tonsor.pack.decode import decode
from tonsor.pack.encode import encode
from tonsor.pack.entry import Entry
from tonsor.pack.named import State, check_masks, in_threads, masked, told, untied
from tonsor.pack.share import Bits, bits_of
from tonsor.pack.shared import Shared, Sharing
from tonsor.spelling import unknown


@dataclass(frozen=True)
class Packed:
    """Hold packed tensors by name; `unpack` gives them back, `save` writes them.

    Args:
        entries: What was packed, by name.
        ties: Names that stand for another name's tensor.
        about: What else shall be kept, as JSON has it.

    Example:
        >>> import torch
        >>> packed = pack({"w": torch.zeros(1000, 1000)})
        >>> packed.names, packed.bytes < 20, packed.unpacked_bytes
        (['w'], True, 4000000)
    """

    entries: Mapping[str, Entry]
    ties: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of all tensors, tied ones too."""
        return [*self.entries, *self.ties]

    @property
    def bytes(self) -> int:
        """What the tensors take, without the header of a file."""
        return sum(len(entry.payload) for entry in self.entries.values())

    @property
    def unpacked_bytes(self) -> int:
        """What the tensors take when they are unpacked, tied ones once."""
        return sum(entry.unpacked_bytes for entry in self.entries.values())


def pack(
    state: State,
    /,
    *,
    bits: Bits = None,
    masks: Mapping[str, Tensor] | None = None,
    sharing: Sharing = kmeans,
    shared: Mapping[str, Shared] | None = None,
    coding: Coding | None = None,
    about: Mapping[str, Any] | None = None,
) -> Packed:
    """Make a model few bytes: few values, the positions of zeros, and entropy coding.

    Only sharing changes values. What `unpack` returns is, bit for bit, what `share` with the same arguments
    gives, and the tensor itself where it is not shared: without `bits` nothing is lost.

    Args:
        state: A model, or tensors by name; it is left as it is.
        bits: As `share` takes them; nothing is shared if not given.
        masks: As `share` takes them; they also remove what is not shared.
        sharing: As `share` takes it.
        shared: Weights that are shared already, as `finetune_` returns them; they need no bits.
        coding: What may be used, and how many threads.
        about: What else shall be kept, as JSON has it.

    Returns:
        The packed tensors, each in the way that was measured to be the shortest.

    Raises:
        ValueError: If `share` would refuse, a shared weight is none of the state's, or a tensor is sparse,
            quantised or no tensor.

    Example:
        >>> import torch
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> model = torch.nn.Linear(400, 100)
        >>> small = pack(model, bits=4, masks={"weight": model.weight.abs() > 0.045})   # a tenth stays
        >>> small.unpacked_bytes / small.bytes > 40
        True

    References:
        Han et al., 2016, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
        Quantization and Huffman Coding", https://arxiv.org/abs/1510.00149
    """
    tensors, ties = untied(state)
    coding, masks, given = coding or Coding(), masks or {}, dict(shared or {})
    check_masks(tensors, masks)
    _check_shared(tensors, given)
    chosen = bits_of({name: tensor for name, tensor in tensors.items() if name not in given}, bits)

    def packed(name: str) -> Entry:
        ready: Tensor | Shared = given[name] if name in given else masked(name, tensors, masks)
        if name in chosen:
            ready = sharing(ready, bits=chosen[name])
        return encode(ready, coding)

    entries = in_threads(lambda name: told(name, packed, name), tensors, coding.threads)
    return Packed(entries, ties, dict(about or {}))


def _check_shared(tensors: Mapping[str, Tensor], shared: Mapping[str, Shared]) -> None:
    """Refuse shared weights that are none of the state's."""
    for name, done in shared.items():
        if name not in tensors:
            raise ValueError(f"pack: {unknown('shared weight', name, tensors)}")
        if (done.codes.shape, done.dtype) != (tensors[name].shape, tensors[name].dtype):
            raise ValueError(f"pack: '{name}' has another shape or type than its codes; share it anew")


def unpack(packed: Packed, /, *, names: Iterable[str] | None = None, threads: int = 2) -> dict[str, Tensor]:
    """Return packed tensors as they were promised.

    Args:
        packed: What `pack` or `load` returned.
        names: Those that are wanted; all if not given.
        threads: Tensors that are decoded at once.

    Returns:
        Tensors by name, on the CPU; tied names have one tensor.

    Raises:
        ValueError: If a name is not known, or the bytes of a tensor are broken: says which.

    Example:
        >>> import torch
        >>> state = unpack(pack({"w": torch.tensor([0.5, -0.5])}))
        >>> state["w"]
        tensor([ 0.5000, -0.5000])
    """
    wanted = packed.names if names is None else list(names)
    for name in wanted:
        if name not in packed.entries and name not in packed.ties:
            raise ValueError(f"pack.unpack: {unknown('tensor', name, packed.names)}")
    first = {name: packed.ties.get(name, name) for name in wanted}
    distinct = dict.fromkeys(first.values())
    tensors = in_threads(lambda name: told(name, decode, packed.entries[name]), distinct, threads)
    return {name: tensors[first[name]] for name in wanted}
