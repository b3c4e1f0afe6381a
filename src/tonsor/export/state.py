"""A model's tensors as a safetensors file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.export.exported import Exported
from tonsor.files import read_tensors, write_tensors


def to_safetensors(model: nn.Module, inputs: Tensor | tuple[Any, ...], path: Path, /) -> Exported:
    """Write a model's `state_dict` as safetensors, read it back, and compare bit for bit.

    The file loads with `model.load_state_dict(safetensors.torch.load_file(path))`, without unpickling.
    The format knows no ties: a tensor that has two names is written twice.

    Args:
        model: The model; its state must hold nothing but tensors.
        inputs: Not looked at: a state has no inputs. Here so that all formats are called alike.
        path: Where the file shall stand.

    Returns:
        What was written; its difference is 0.

    Raises:
        ValueError: If the state holds something that is no tensor, or if the file read back differs.
        OSError: If the file cannot be written; what stood there before is kept.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> to_safetensors(nn.Linear(2, 1), torch.ones(1, 2), path).max_difference
        0.0
    """
    state: Mapping[str, Any] = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"export.safetensors: '{name}' is a {type(value).__name__}; the format holds nothing but "
                "tensors: save the module's extra state apart"
            )
    write_tensors(path, state, about={"format": "pt"})
    reread, _ = read_tensors(path)
    differing = [name for name in state if not _is_same(state[name], reread.get(name))]
    if differing or len(reread) != len(state):
        path.unlink()
        raise ValueError(f"export.safetensors: {path} read back differs in {', '.join(differing)}")
    return Exported("safetensors", path.name, path.stat().st_size, 0.0, 0.0)


def _is_same(tensor: Tensor, reread: Tensor | None) -> bool:
    """Return whether two tensors have one type, one shape and the same bits."""
    if reread is None or (tensor.dtype, tensor.shape) != (reread.dtype, reread.shape):
        return False
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return torch.equal(flat.view(torch.uint8), reread.reshape(-1).view(torch.uint8))
