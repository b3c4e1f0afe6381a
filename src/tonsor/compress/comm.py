"""Messages between workers: each is packed, sent at once, and counted."""

from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor

from tonsor.compress.traffic import Meter, Traffic

LEFT = "tonsor.left."  # in the store of the workers, with a rank: why it left


@final
class Comm:
    """Average, gather and exchange lists of tensors over the workers, one message a call.

    All workers must make the same calls in the same order, with tensors of equal shapes and types where
    `like` does not say otherwise. Each call returns new tensors when its message has arrived (on a GPU:
    when it is queued on the stream).

    `size` is the number of workers and `rank` the number of this one. `bytes_sent` counts what this worker
    handed over: the bytes of its packed message, once a call. What the network then carries depends on
    the backend and on the number W of workers: a ring moves `2 (W - 1) / W` times that for a mean,
    `W - 1` times that for a gather, and just that for an all-to-all. Alone, nothing is handed over and
    the count stays 0. `traffic` also tells the time taken.

    Args:
        group: The workers. None: this process alone; torch.distributed need not be initialised.

    Example:
        >>> comm = Comm()
        >>> comm.mean([torch.tensor([1.0, 3.0])])
        [tensor([1., 3.])]
        >>> comm.size, comm.rank, comm.bytes_sent
        (1, 0, 0)
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.size = 1 if group is None else group.size()
        self.rank = 0 if group is None else group.rank()
        self.bytes_sent = 0
        self.meter = Meter()
        self._group = group

    def mean(self, tensors: Sequence[Tensor], /) -> list[Tensor]:
        """Return the mean of each tensor over the workers: one all-reduce, bit-equal on all of them.

        The message has the widest type of the list. Every worker divides before the sum is taken, so that
        the sum of half-precision numbers does not overflow where their mean would not.

        Args:
            tensors: Tensors on one device; an empty list sends nothing.

        Returns:
            New tensors, shaped and typed as those that came.

        Example:
            >>> Comm().mean([torch.tensor(2.0), torch.tensor([4.0], dtype=torch.float16)])
            [tensor(2.), tensor([4.], dtype=torch.float16)]
        """
        if not tensors:
            return []
        widest = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
        message = torch.cat([tensor.reshape(-1).to(widest) for tensor in tensors]).div_(self.size)
        if self.size > 1:
            with self.meter.message(message):
                dist.all_reduce(message, group=self._group)
            self.bytes_sent += message.nbytes
        parts = message.split_with_sizes([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]

    def gather(
        self, tensors: Sequence[Tensor], /, like: Sequence[Sequence[Tensor]] | None = None
    ) -> list[list[Tensor]]:
        """Return the tensors of every worker, by rank: one all-gather of their bytes.

        Args:
            tensors: Tensors on one device, of any types; where no worker has any, nothing is sent.
            like: For each rank tensors that are shaped and typed as those which come from there, the same
                on all workers; their values are not looked at. Every message is filled up to the longest,
                and counted so. None: all workers have what is like `tensors`.

        Returns:
            For each rank a list of new tensors.

        Raises:
            ValueError: If `tensors` do not take the bytes that `like` gives this worker.

        Example:
            >>> Comm().gather([torch.tensor([1.5]), torch.tensor([2], dtype=torch.int32)])
            [[tensor([1.5000]), tensor([2], dtype=torch.int32)]]
        """
        expected = [tensors] * self.size if like is None else like
        if not any(expected):
            return [[] for _ in expected]
        lengths = [sum(t.nbytes for t in row) for row in expected]
        if (own := sum(t.nbytes for t in tensors)) != lengths[self.rank]:
            raise ValueError(
                f"Comm.gather: worker {self.rank} has {own} bytes, `like` says {lengths[self.rank]}"
            )
        message = _packed(tensors, expected, max(lengths))
        messages = [message]
        if self.size > 1:
            messages = [torch.empty_like(message) for _ in range(self.size)]
            with self.meter.message(message):
                dist.all_gather(messages, message, group=self._group)
            self.bytes_sent += message.nbytes
        return [_unpacked(message, row) for message, row in zip(messages, expected, strict=True)]

    def all_to_all(
        self, rows: Sequence[Sequence[Tensor]], like: Sequence[Sequence[Tensor]], /
    ) -> list[list[Tensor]]:
        """Return what each worker has for this one: one all-to-all of bytes, of any lengths.

        The bytes of tensors to other workers are counted; what a worker has for itself stays where it is.

        Args:
            rows: For each rank the tensors that go there, of any types, all on one device.
            like: For each rank tensors that are shaped and typed as those which come from there; their
                values are not looked at. What worker i expects from j must be what j has for i.

        Returns:
            For each rank a list of new tensors.

        Example:
            >>> Comm().all_to_all([[torch.tensor([1.5])]], [[torch.empty(1)]])
            [[tensor([1.5000])]]
        """
        own = [tensor.clone() for tensor in rows[self.rank]]
        if self.size == 1:
            return [own]
        outgoing = [[] if rank == self.rank else row for rank, row in enumerate(rows)]
        expected = [[] if rank == self.rank else row for rank, row in enumerate(like)]
        lengths, sizes = ([sum(t.nbytes for t in row) for row in side] for side in (outgoing, expected))
        message = _packed([tensor for row in outgoing for tensor in row], expected, sum(lengths))
        came = message.new_empty(sum(sizes))
        with self.meter.message(message):
            dist.all_to_all_single(came, message, sizes, lengths, group=self._group)
        self.bytes_sent += message.nbytes
        got = [_unpacked(part, row) for part, row in zip(came.split_with_sizes(sizes), expected, strict=True)]
        return [*got[: self.rank], own, *got[self.rank + 1 :]]

    def traffic(self) -> Traffic:
        """Return what was sent so far, and how long it took; nothing waits for the device.

        Example:
            >>> comm = Comm()
            >>> before = comm.traffic()
            >>> _ = comm.mean([torch.ones(3)])
            >>> (comm.traffic() - before).bytes_sent     # alone
            0
        """
        seconds = self.meter.seconds()
        return Traffic(self.meter.steps, self.bytes_sent, self.meter.bytes_dense, *seconds)

    def leave(self, reason: str, /) -> None:
        """Close the channel for good: who waits for this worker gets an error instead of waiting on.

        Args:
            reason: What the others are told by `reasons`; empty tells nothing.

        Example:
            >>> Comm().leave("a mistake of mine")
        """
        if self._group is None:
            return
        group = self._group
        del self._group  # so that no message can go to others by mistake
        with suppress(RuntimeError):  # who kept the store may be gone
            if reason:
                group.get_group_store().set(f"{LEFT}{self.rank}", reason)
        dist.destroy_process_group(group)

    def reasons(self) -> dict[int, str]:
        """Return why others left, by rank.

        Example:
            >>> Comm().reasons()
            {}
        """
        found: dict[int, str] = {}
        if self._group is None:
            return found
        store = self._group.get_group_store()
        with suppress(RuntimeError):  # who kept the store may be gone
            for rank in range(self.size):
                if store.check([f"{LEFT}{rank}"]):
                    found[rank] = store.get(f"{LEFT}{rank}").decode()
        return found


def _packed(tensors: Sequence[Tensor], expected: Sequence[Sequence[Tensor]], nbytes: int) -> Tensor:
    """Return a message of so many bytes, on the device of what goes or comes; what is not filled is zero."""
    device = next((tensor.device for row in (tensors, *expected) for tensor in row), None)
    parts = [tensor.reshape(-1).view(torch.uint8) for tensor in tensors]
    rest = nbytes - sum(part.numel() for part in parts)
    return torch.cat([*parts, torch.zeros(rest, dtype=torch.uint8, device=device)])


def _unpacked(message: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors of a message of bytes; each is copied, which also aligns it."""
    sizes = [tensor.nbytes for tensor in like]
    parts = message.narrow(0, 0, sum(sizes)).split_with_sizes(sizes)
    return [
        part.clone().view(tensor.dtype).view(tensor.shape) for part, tensor in zip(parts, like, strict=True)
    ]
