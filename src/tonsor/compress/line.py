"""The line in which the buckets of a model wait to be averaged, and the thread that serves it."""

import traceback
from collections.abc import Iterator
from concurrent.futures import Future as Done
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from tonsor.compress.comm import Comm
from tonsor.compress.protocol import Compressor


class Bucket(NamedTuple):
    """What is known of a bucket when it joins the line.

    Example:
        >>> bucket = Bucket({}, torch.zeros(2), None, None, True)
        >>> bucket.is_last
        True
    """

    grads: dict[str, Tensor]  # views of the buffer
    buffer: Tensor
    ready: torch.cuda.Event | None  # on a GPU: what made the gradients has come so far
    scale: Tensor | None  # of the loss, 0-dim
    is_last: bool  # of this backward


@final
class Line:
    """Buckets that wait for their turn, and the one thread that serves them.

    Args:
        compressor: What averages them.
        comm: The workers.
        names: Of the parameters, by their id.
        scaler: Of the loss, or None.
        whole: The model's own group, for steps that no compressor sees.

    Example:
        >>> from tonsor.compress import dense
        >>> Line(dense, Comm(), {}, None, None).comm.size
        1
    """

    def __init__(
        self,
        compressor: Compressor,
        comm: Comm,
        names: dict[int, str],
        scaler: torch.amp.GradScaler | None,
        whole: dist.ProcessGroup | None,
        /,
    ) -> None:
        self.compressor = compressor
        self.comm = comm
        self.names = names
        self.scaler = scaler
        self.whole = whole
        self.leaves_step = False
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tonsor-compress")
        self.broken: str = ""
        self.stream: torch.cuda.Stream | None = None

    def put(self, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
        """Let a bucket wait for its turn; DDP calls this in the same order on all workers."""
        if bucket.index() == 0:
            self.leaves_step = getattr(self.compressor, "leaves_step", bool)()
        if self.leaves_step:
            return self._average_whole(bucket)
        buffer = bucket.buffer()
        parameters = [self.names[id(parameter)] for parameter in bucket.parameters()]
        if buffer.is_sparse:
            raise ValueError(
                f"compress_ddp: the gradient of '{parameters[0]}' is sparse and compressors take dense "
                "ones; make its layer with sparse=False"
            )
        grads = dict(zip(parameters, bucket.gradients(), strict=True))
        scale = None if self.scaler is None else self.scaler.scale(torch.ones((), device=buffer.device))
        ready = torch.cuda.current_stream(buffer.device).record_event() if buffer.is_cuda else None
        future: Future[Tensor] = Future(devices=[buffer.device] if buffer.is_cuda else None)
        done = self.thread.submit(
            self._average, Bucket(grads, buffer, ready, scale, bucket.is_last()), future
        )
        done.add_done_callback(partial(self._settle, future))
        return future.then(lambda averaged: averaged.value())  # carries an error's text through C++

    def _average_whole(self, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
        """Average a bucket as DDP itself does: no thread, no copy. Only whole steps are averaged so."""
        buffer = bucket.buffer()
        work = dist.all_reduce(buffer.div_(self.comm.size), group=self.whole, async_op=True)
        self.comm.bytes_sent += buffer.nbytes if self.comm.size > 1 else 0
        self.comm.meter.bytes_dense += buffer.nbytes
        self.comm.meter.steps += bucket.is_last()
        future: Future[Tensor] = work.get_future().then(lambda averaged: averaged.value()[0])
        return future

    def _average(self, bucket: Bucket, future: Future[Tensor]) -> None:
        """Put the mean into the bucket and hand the bucket back."""
        if self.broken:
            raise RuntimeError(
                f"compress_ddp: an earlier bucket failed ({self.broken}), so the workers are out of "
                "step; start anew"
            )
        with torch.no_grad(), self._beside(bucket):
            with self.comm.meter.bucket([bucket.buffer]):
                if bucket.scale is not None:
                    bucket.buffer.div_(bucket.scale)
                mean = self.compressor(bucket.grads, self.comm).mean
                for name, grad in bucket.grads.items():
                    grad.copy_(mean[name])
                if bucket.scale is not None:
                    bucket.buffer.mul_(bucket.scale)
            self.comm.meter.steps += bucket.is_last
            future.set_result(bucket.buffer)

    @contextmanager
    def _beside(self, bucket: Bucket) -> Iterator[None]:
        """On a GPU, work on a stream beside backward's, behind what made the bucket."""
        if bucket.ready is None:
            yield
            return
        self.stream = self.stream or torch.cuda.Stream(bucket.buffer.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(bucket.ready)
            bucket.buffer.record_stream(self.stream)
            if bucket.scale is not None:
                bucket.scale.record_stream(self.stream)
            yield

    def _settle(self, future: Future[Tensor], done: Done[None]) -> None:
        """Hand an error of the thread to whoever waits for the bucket, and to the other workers."""
        error = done.exception()
        if error is None:
            return
        if not self.broken:
            others = self.comm.reasons()
            told = "; ".join(f"worker {rank} failed: {why}" for rank, why in others.items())
            self.broken = told or repr(error)
            traceback.clear_frames(error.__traceback__)  # they hold the group, which is to be closed
            self.comm.leave("" if others else repr(error))
            error = RuntimeError(f"compress_ddp: {told}") if told else error
        future.set_exception(error)  # type: ignore[arg-type]
