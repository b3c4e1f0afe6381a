"""The methods of the compress room as the benchmarks compare them."""

from collections.abc import Callable

from tonsor.compress import Compressor, ErrorFeedback, PowerSGD, TopK, dense

METHODS: dict[str, Callable[[], Compressor]] = {
    "dense": lambda: dense,
    "PowerSGD, rank 1": lambda: ErrorFeedback(PowerSGD(rank=1)),
    "PowerSGD, rank 2": lambda: ErrorFeedback(PowerSGD(rank=2)),
    "PowerSGD, rank 4": lambda: ErrorFeedback(PowerSGD(rank=4)),
    "top-k, 1 %": lambda: ErrorFeedback(TopK(density=0.01)),
    "top-k, 0.1 %": lambda: ErrorFeedback(TopK(density=0.001)),
}
