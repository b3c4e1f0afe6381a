"""Trim the tensors of a training run: gradients, messages between machines, weights, the model itself.

Each room is a module of its own, imported when it is first used: `tonsor.clip`, `tonsor.constrain`,
`tonsor.compress`, `tonsor.prune`, `tonsor.shrink`, `tonsor.pack`, `tonsor.export`, `tonsor.report`; and
`tonsor.attach` puts rules on the optimizer of a loop we do not own. `clip_grad_norm_`, `clip_grad_value_`,
`get_total_norm` and `clip_grads_with_norm_` are torch's, made right and fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tonsor import clip as clip
    from tonsor import compress as compress
    from tonsor import constrain as constrain
    from tonsor import export as export
    from tonsor import pack as pack
    from tonsor import prune as prune
    from tonsor import report as report
    from tonsor import schedule as schedule
    from tonsor import shrink as shrink
    from tonsor.attached import Attached as Attached
    from tonsor.attached import attach as attach
    from tonsor.clip import clip_grad_norm_ as clip_grad_norm_
    from tonsor.clip import clip_grad_value_ as clip_grad_value_
    from tonsor.clip import clip_grads_with_norm_ as clip_grads_with_norm_
    from tonsor.clip import get_total_norm as get_total_norm

__version__ = "0.1.0"

_ROOMS = ("clip", "constrain", "compress", "prune", "shrink", "export", "report", "schedule")
_NAMES = {
    "attach": "tonsor.attached",
    "Attached": "tonsor.attached",
    "clip_grad_norm_": "tonsor.clip",
    "clip_grad_value_": "tonsor.clip",
    "clip_grads_with_norm_": "tonsor.clip",
    "get_total_norm": "tonsor.clip",
}


def __getattr__(name: str) -> Any:
    """Import a room when it is first asked for, so that the command answers before torch is loaded."""
    if name in _ROOMS:
        return import_module(f"tonsor.{name}")
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'tonsor' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted((*_ROOMS, *_NAMES, "__version__"))
