"""Gradients are averaged over workers in few bytes."""

from collections.abc import Callable
from typing import Any

from tonsor.compress.auto import Auto as Auto
from tonsor.compress.auto_ddp import auto as auto
from tonsor.compress.comm import Comm as Comm
from tonsor.compress.ddp import compress_ddp as compress_ddp
from tonsor.compress.dense import dense as dense
from tonsor.compress.diloco import DiLoCo as DiLoCo
from tonsor.compress.diloco import local_sgd as local_sgd
from tonsor.compress.ef21 import EF21 as EF21
from tonsor.compress.error_budget import ErrorBudget as ErrorBudget
from tonsor.compress.feedback import ErrorFeedback as ErrorFeedback
from tonsor.compress.galore import GaLore as GaLore
from tonsor.compress.held import HeldGradients as HeldGradients
from tonsor.compress.local_clip import LocalClip as LocalClip
from tonsor.compress.only_large import OnlyLarge as OnlyLarge
from tonsor.compress.per_layer import PerLayer as PerLayer
from tonsor.compress.powersgd import PowerSGD as PowerSGD
from tonsor.compress.protocol import Averaged as Averaged
from tonsor.compress.protocol import Compressor as Compressor
from tonsor.compress.topk import TopK as TopK
from tonsor.compress.warmup import Warmup as Warmup

RULES: dict[str, Callable[..., Any]] = {
    "dense": dense,
    "TopK": TopK,
    "PowerSGD": PowerSGD,
}
WRAPPERS: dict[str, Callable[..., Any]] = {
    "ErrorFeedback": ErrorFeedback,
    "EF21": EF21,
    "Warmup": Warmup,
    "OnlyLarge": OnlyLarge,
    "PerLayer": PerLayer,
    "LocalClip": LocalClip,
    "ErrorBudget": ErrorBudget,
}
