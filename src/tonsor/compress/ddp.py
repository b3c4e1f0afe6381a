"""Compress the gradients of a DistributedDataParallel model."""

from collections.abc import Iterator
from concurrent.futures import Future as Done
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress.comm import Comm
from tonsor.compress.protocol import Compressor


def compress_ddp(
    model: DistributedDataParallel, compressor: Compressor, /, *, group: dist.ProcessGroup | None = None
) -> Comm:
    """Let a compressor average the gradients of the model, while backward goes on.

    Every bucket is handed to one thread, which works through them in the order they came and talks over a
    process group of its own, so that messages can neither overtake each other nor meet those of others.
    Gradients are keyed by their parameter's name in `model.module`. To be called once, on all workers of
    the model, before the first backward. Inside `no_sync` nothing is sent; the gradients accumulated there
    are compressed with the first backward outside. An error in the compressor is raised by `backward`,
    there and ever after, because the workers are then out of step.

    Args:
        model: The wrapped model; its gradients are dense.
        compressor: The rule; its state is saved and loaded by whoever made it.
        group: The model's workers, in a group that nothing else uses. None: one is made, which takes
            all processes of the job.

    Returns:
        The channel of this model, which counts the bytes sent. What DDP itself sends, as the buffers
        of the forward pass, does not go through it.

    Raises:
        ValueError: If a group has to be made and the model lives on a part of the processes only. From
            `backward`, if a gradient is sparse.

    Example:
        >>> from tonsor.compress import ErrorFeedback, PowerSGD
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> model = DistributedDataParallel(torch.nn.Linear(8, 8))
        >>> comm = compress_ddp(model, ErrorFeedback(PowerSGD(rank=2)))
        >>> model(torch.ones(1, 8)).sum().backward()
        >>> comm.bytes_sent                   # one worker alone sends nothing
        0
        >>> dist.destroy_process_group()
    """
    if group is None:
        if model.process_group.size() < dist.get_world_size():
            raise ValueError(
                f"compress_ddp: the model lives on {model.process_group.size()} of {dist.get_world_size()} "
                "processes, and only all of them together can make a group; pass group=dist.new_group(ranks)"
            )
        group = dist.new_group(backend=dist.get_backend(model.process_group))
    names = {id(parameter): name for name, parameter in model.module.named_parameters()}
    line = _Line(compressor, Comm(group), names, model.process_group)
    model.register_comm_hook(line, _Line.put)
    return line.comm


@final
class _Line:
    """Buckets that wait for their turn, and the one thread that serves them."""

    def __init__(
        self, compressor: Compressor, comm: Comm, names: dict[int, str], whole: dist.ProcessGroup
    ) -> None:
        self.compressor = compressor
        self.comm = comm
        self.names = names
        self.whole = whole  # the group of what no compressor sees
        self.leaves_step = False
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tonsor-compress")
        self.broken: BaseException | None = None
        self.stream: torch.cuda.Stream | None = None

    def put(self, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
        """Let a bucket wait for its turn; DDP calls this in the same order on all workers."""
        if bucket.index() == 0:
            self.leaves_step = getattr(self.compressor, "leaves_step", bool)()
        if self.leaves_step:
            return self._whole(bucket.buffer())
        buffer = bucket.buffer()
        parameters = [self.names[id(parameter)] for parameter in bucket.parameters()]
        if buffer.is_sparse:
            raise ValueError(
                f"compress_ddp: the gradient of '{parameters[0]}' is sparse and compressors take dense "
                "ones; make its layer with sparse=False"
            )
        grads = dict(zip(parameters, bucket.gradients(), strict=True))
        ready = torch.cuda.current_stream(buffer.device).record_event() if buffer.is_cuda else None
        future: Future[Tensor] = Future(devices=[buffer.device] if buffer.is_cuda else None)
        done = self.thread.submit(self._average, grads, buffer, ready, future)
        done.add_done_callback(partial(self._settle, future))
        return future.then(lambda averaged: averaged.value())  # carries an error's text through C++

    def _whole(self, buffer: Tensor) -> Future[Tensor]:
        """Average a bucket as DDP itself does: no thread, no copy. Only whole steps are averaged so."""
        work = dist.all_reduce(buffer.div_(self.comm.size), group=self.whole, async_op=True)
        self.comm.bytes_sent += buffer.nbytes if self.comm.size > 1 else 0
        future: Future[Tensor] = work.get_future().then(lambda averaged: averaged.value()[0])
        return future

    def _average(
        self, grads: dict[str, Tensor], buffer: Tensor, ready: torch.cuda.Event | None, future: Future[Tensor]
    ) -> None:
        """Put the mean into the bucket and hand the bucket back."""
        if self.broken is not None:
            raise RuntimeError(
                f"compress_ddp: an earlier bucket failed ({self.broken!r}), so the workers are out of "
                "step; start anew"
            )
        with torch.no_grad(), self._beside(buffer, ready):
            mean = self.compressor(grads, self.comm).mean
            for name, grad in grads.items():
                grad.copy_(mean[name])
            future.set_result(buffer)

    @contextmanager
    def _beside(self, buffer: Tensor, ready: torch.cuda.Event | None) -> Iterator[None]:
        """On a GPU, work on a stream beside backward's, behind what made the bucket."""
        if ready is None:
            yield
            return
        self.stream = self.stream or torch.cuda.Stream(buffer.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(ready)
            buffer.record_stream(self.stream)
            yield

    def _settle(self, future: Future[Tensor], done: Done[None]) -> None:
        """Hand an error of the thread to whoever waits for the bucket."""
        error = done.exception()
        if error is not None:
            self.broken = self.broken or error
            future.set_exception(error)  # type: ignore[arg-type]
