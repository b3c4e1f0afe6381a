"""Gradients are averaged over workers in few bytes."""

from collections.abc import Callable
from typing import Any

from tonsor.compress.comm import Comm as Comm
from tonsor.compress.dct import DCTTopK as DCTTopK
from tonsor.compress.ddp import compress_ddp as compress_ddp
from tonsor.compress.dense import dense as dense
from tonsor.compress.dgc import DGC as DGC
from tonsor.compress.feedback import ErrorFeedback as ErrorFeedback
from tonsor.compress.message import pack_sparse as pack_sparse
from tonsor.compress.message import unpack_sparse as unpack_sparse
from tonsor.compress.powersgd import PowerSGD as PowerSGD
from tonsor.compress.protocol import Averaged as Averaged
from tonsor.compress.protocol import Compressor as Compressor
from tonsor.compress.randomk import RandomK as RandomK
from tonsor.compress.sparse import Sparse as Sparse
from tonsor.compress.sparse import join as join
from tonsor.compress.sparse import sparse as sparse
from tonsor.compress.threshold import Threshold as Threshold
from tonsor.compress.topk import TopK as TopK

RULES: dict[str, Callable[..., Any]] = {
    "dense": dense,
    "TopK": TopK,
    "RandomK": RandomK,
    "Threshold": Threshold,
    "DGC": DGC,
    "DCTTopK": DCTTopK,
    "PowerSGD": PowerSGD,
}
WRAPPERS: dict[str, Callable[..., Any]] = {
    "ErrorFeedback": ErrorFeedback,
}
