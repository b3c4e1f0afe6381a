"""What compression costs and saves: bytes, and the time before, in and behind the messages."""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

Mark = float | torch.cuda.Event  # a moment: seconds, or a place in a stream


@final
@dataclass(frozen=True)
class Traffic:
    """Hold what was sent so far and how long it took; a difference of two is what lies between them.

    Args:
        steps: Backward passes whose gradients were averaged.
        bytes_sent: What this worker handed over, packed.
        bytes_dense: What it would have handed over uncompressed.
        encode: Seconds before the last message of a bucket that were spent computing.
        send: Seconds in messages, which is also the wait for the slowest worker.
        decode: Seconds behind the last message.

    Example:
        >>> before, now = Traffic(steps=1, bytes_sent=100), Traffic(steps=3, bytes_sent=300, bytes_dense=8000)
        >>> between = now - before
        >>> between.steps, between.bytes_sent, between.factor
        (2, 200, 40.0)
    """

    steps: int = 0
    bytes_sent: int = 0
    bytes_dense: int = 0
    encode: float = 0.0
    send: float = 0.0
    decode: float = 0.0

    def __sub__(self, before: "Traffic") -> "Traffic":
        """Return what has happened since."""
        return Traffic(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    @property
    def factor(self) -> float | None:
        """How many times fewer bytes were sent than uncompressed; None where none were."""
        return self.bytes_dense / self.bytes_sent if self.bytes_sent else None


@final
class Meter:
    """Take the time of buckets and of the messages in them, without waiting for the device.

    On a GPU moments are marked in the stream and read when they have passed, so a reading may be a step
    behind. One thread measures; any may read.

    Example:
        >>> meter = Meter()
        >>> with meter.bucket([torch.ones(2)]), meter.message(torch.ones(2)):
        ...     pass
        >>> seconds = meter.seconds()
        >>> len(seconds), min(seconds) >= 0, meter.bytes_dense
        (3, True, 8)
    """

    def __init__(self) -> None:
        self.steps = 0
        self.bytes_dense = 0
        self._seconds = [0.0, 0.0, 0.0]  # encode, send, decode
        self._marks: list[Mark] | None = None  # of the bucket at work: begin, then each message's two
        self._passing: deque[list[Mark]] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def bucket(self, tensors: Sequence[Tensor], /) -> Iterator[None]:
        """Measure the work on a bucket of gradients."""
        self._marks = [_mark(tensors[0])] if tensors else None
        try:
            yield
            if self._marks is not None:
                self._passing.append([*self._marks, _mark(tensors[0])])
                self.bytes_dense += sum(tensor.nbytes for tensor in tensors)
        finally:
            self._marks = None
        self._read()

    @contextmanager
    def message(self, tensor: Tensor, /) -> Iterator[None]:
        """Measure a message, in a bucket or out of one."""
        begin = _mark(tensor)
        yield
        if self._marks is not None:
            self._marks += [begin, _mark(tensor)]
        else:
            end = _mark(tensor)
            self._passing.append([begin, begin, end, end])

    def seconds(self) -> tuple[float, float, float]:
        """Return the time in encode, send and decode of what has passed."""
        self._read()
        encode, send, decode = self._seconds
        return encode, send, decode

    def _read(self) -> None:
        """Add up the buckets that have passed, in their order."""
        with self._lock:
            while self._passing and _has_passed(self._passing[0][-1]):
                marks = self._passing.popleft()
                spans = [_between(*pair) for pair in pairwise(marks)]
                send = sum(spans[1::2])
                decode = spans[-1] if len(spans) > 1 else 0.0
                for part, span in enumerate((sum(spans) - send - decode, send, decode)):
                    self._seconds[part] += span


def _mark(tensor: Tensor) -> Mark:
    """Return this moment, where the tensor is worked on."""
    if not tensor.is_cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(tensor.device))
    return event


def _has_passed(mark: Mark) -> bool:
    """Tell whether the device has come to a moment."""
    return isinstance(mark, float) or bool(mark.query())  # type: ignore[no-untyped-call]


def _between(begin: Mark, end: Mark) -> float:
    """Return the seconds between two moments that have passed; both lie on one device."""
    if isinstance(begin, float):
        return end - begin if isinstance(end, float) else 0.0
    assert not isinstance(end, float)
    return float(begin.elapsed_time(end)) / 1000
