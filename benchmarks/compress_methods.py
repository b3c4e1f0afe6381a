"""The methods of the compress room as the benchmarks compare them."""

from collections.abc import Callable

from torch import nn

from tonsor.compress import (
    DGC,
    EF21,
    QSGD,
    Comm,
    Compressor,
    DCTTopK,
    DiLoCo,
    ErrorBudget,
    ErrorFeedback,
    LocalClip,
    MajorityVote,
    Natural,
    PowerSGD,
    RandomK,
    TernGrad,
    Threshold,
    TopK,
    bf16,
    dense,
    e4m3,
    e5m2,
    fp16,
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
    "DGC, 1 %": lambda: DGC(density=0.01, is_nesterov=True, max_norm=1.0, bits=4),
    "DGC, 0.1 %": lambda: DGC(density=0.001, is_nesterov=True, max_norm=1.0, bits=4),
}
PLAIN = ("DGC, 1 %", "DGC, 0.1 %")  # have the momentum in themselves: the optimizer has none
NORM = 1.0  # of the mean gradient of each tensor


def clipped(name: str, rule: Compressor) -> Compressor:
    """Return the rule behind a clipping of each worker's own gradients; DGC has its own."""
    return rule if name in PLAIN else LocalClip(rule, max_norm=NORM)


MORE: dict[str, Callable[[], Compressor]] = {  # in whole trainings alone; these DGC have a warm-up
    "fp16": lambda: ErrorFeedback(fp16),
    "e4m3": lambda: ErrorFeedback(e4m3),
    "e5m2": lambda: ErrorFeedback(e5m2),
    "natural": Natural,
    "majority vote": MajorityVote,
    "threshold, 1 %": lambda: ErrorFeedback(Threshold(density=0.01)),
    "EF21, top-k, 1 %": lambda: EF21(TopK(density=0.01)),
    "DGC, 1 %": lambda: DGC(density=0.01, is_nesterov=True, max_norm=1.0, bits=4, stage_steps=30),
    "DGC, 0.1 %": lambda: DGC(density=0.001, is_nesterov=True, max_norm=1.0, bits=4, stage_steps=60),
    "error budget 0.5, PowerSGD": lambda: ErrorFeedback(ErrorBudget(PowerSGD(rank=1), error=0.5)),
}


Meeting = Callable[[nn.Module, Comm], DiLoCo]


def meeting(every: int, compressor: Callable[[], Compressor], lr: float, momentum: float) -> Meeting:
    """Return what lets workers train apart for some steps."""
    return lambda model, comm: DiLoCo(model, comm, compressor(), every=every, lr=lr, momentum=momentum)


MEETINGS: dict[str, Meeting] = {
    "local SGD, 16 steps, int4": meeting(16, METHODS["int4"], 1.0, 0.0),
    "local SGD, 150 steps, int4": meeting(150, METHODS["int4"], 1.0, 0.0),
    "DiLoCo (1, 0.3), 150 steps, int4": meeting(150, METHODS["int4"], 1.0, 0.3),
    "DiLoCo (1, 0.3), 40 steps, sign": meeting(40, METHODS["sign"], 1.0, 0.3),
    "DiLoCo (0.7, 0.9), 25 steps, int4": meeting(25, METHODS["int4"], 0.7, 0.9),
}
