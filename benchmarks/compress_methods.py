"""The methods of the compress room as the benchmarks compare them."""

from collections.abc import Callable

from tonsor.compress import (
    DGC,
    QSGD,
    Compressor,
    DCTTopK,
    ErrorFeedback,
    PowerSGD,
    RandomK,
    TernGrad,
    TopK,
    bf16,
    dense,
    int4,
    int8,
    sign,
)

METHODS: dict[str, Callable[[], Compressor]] = {
    "dense": lambda: dense,
    "bf16": lambda: ErrorFeedback(bf16),
    "int8": lambda: ErrorFeedback(int8),
    "int4": lambda: ErrorFeedback(int4),
    "sign": lambda: ErrorFeedback(sign),
    "QSGD": QSGD,
    "TernGrad": TernGrad,
    "PowerSGD, rank 1": lambda: ErrorFeedback(PowerSGD(rank=1)),
    "PowerSGD, rank 2": lambda: ErrorFeedback(PowerSGD(rank=2)),
    "PowerSGD, rank 4": lambda: ErrorFeedback(PowerSGD(rank=4)),
    "top-k, 1 %": lambda: ErrorFeedback(TopK(density=0.01)),
    "top-k, 1 %, 4 bits": lambda: ErrorFeedback(TopK(density=0.01, bits=4)),
    "top-k, 0.1 %": lambda: ErrorFeedback(TopK(density=0.001)),
    "top-k, 0.1 %, 4 bits": lambda: ErrorFeedback(TopK(density=0.001, bits=4)),
    "random-k, 1 %": lambda: ErrorFeedback(RandomK(density=0.01)),
    "DCT top-k, 1 %": lambda: ErrorFeedback(DCTTopK(density=0.01)),
    "DGC, 1 %": lambda: DGC(density=0.01, is_nesterov=True, stage_steps=30, bits=4),
    "DGC, 0.1 %": lambda: DGC(density=0.001, is_nesterov=True, stage_steps=60, bits=4),
}
PLAIN = ("DGC, 1 %", "DGC, 0.1 %")  # have the momentum in themselves: the optimizer has none
