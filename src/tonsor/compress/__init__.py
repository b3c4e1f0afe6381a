"""Gradients are averaged over workers in few bytes."""

from collections.abc import Callable
from typing import Any

from tonsor.compress.auto import Auto as Auto
from tonsor.compress.auto_ddp import auto as auto
from tonsor.compress.comm import Comm as Comm
from tonsor.compress.dct import DCTTopK as DCTTopK
from tonsor.compress.ddp import compress_ddp as compress_ddp
from tonsor.compress.dense import dense as dense
from tonsor.compress.dgc import DGC as DGC
from tonsor.compress.diloco import DiLoCo as DiLoCo
from tonsor.compress.diloco import local_sgd as local_sgd
from tonsor.compress.ef21 import EF21 as EF21
from tonsor.compress.error_budget import ErrorBudget as ErrorBudget
from tonsor.compress.feedback import ErrorFeedback as ErrorFeedback
from tonsor.compress.fp8 import e4m3 as e4m3
from tonsor.compress.fp8 import e5m2 as e5m2
from tonsor.compress.fsdp import compress_fsdp as compress_fsdp
from tonsor.compress.galore import GaLore as GaLore
from tonsor.compress.half import bf16 as bf16
from tonsor.compress.half import fp16 as fp16
from tonsor.compress.held import HeldGradients as HeldGradients
from tonsor.compress.integers import int4 as int4
from tonsor.compress.integers import int8 as int8
from tonsor.compress.local_clip import LocalClip as LocalClip
from tonsor.compress.message import pack_sparse as pack_sparse
from tonsor.compress.message import unpack_sparse as unpack_sparse
from tonsor.compress.natural import Natural as Natural
from tonsor.compress.only_large import OnlyLarge as OnlyLarge
from tonsor.compress.own_state import gather_state as gather_state
from tonsor.compress.own_state import residual_norm as residual_norm
from tonsor.compress.own_state import spread_state as spread_state
from tonsor.compress.per_layer import PerLayer as PerLayer
from tonsor.compress.powersgd import PowerSGD as PowerSGD
from tonsor.compress.protocol import Averaged as Averaged
from tonsor.compress.protocol import Compressor as Compressor
from tonsor.compress.qsgd import QSGD as QSGD
from tonsor.compress.randomk import RandomK as RandomK
from tonsor.compress.sign import MajorityVote as MajorityVote
from tonsor.compress.sign import sign as sign
from tonsor.compress.sparse import Sparse as Sparse
from tonsor.compress.sparse import sparse as sparse
from tonsor.compress.terngrad import TernGrad as TernGrad
from tonsor.compress.threshold import Threshold as Threshold
from tonsor.compress.topk import TopK as TopK
from tonsor.compress.traffic import Traffic as Traffic
from tonsor.compress.warmup import Warmup as Warmup

RULES: dict[str, Callable[..., Any]] = {
    "dense": dense,
    "fp16": fp16,
    "bf16": bf16,
    "e4m3": e4m3,
    "e5m2": e5m2,
    "int8": int8,
    "int4": int4,
    "sign": sign,
    "MajorityVote": MajorityVote,
    "QSGD": QSGD,
    "TernGrad": TernGrad,
    "Natural": Natural,
    "TopK": TopK,
    "RandomK": RandomK,
    "Threshold": Threshold,
    "DGC": DGC,
    "DCTTopK": DCTTopK,
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
