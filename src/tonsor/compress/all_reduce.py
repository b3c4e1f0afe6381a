"""Average in codes: each worker sums a share of every gradient, and says the sum in the same code."""

import zlib
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from tonsor.compress.codec import Codec, blocks_of, code_bytes, empty_parts
from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.draws import Draws, Streams
from tonsor.compress.protocol import Averaged

SMALL = 1024  # a gradient with fewer elements for each worker is summed by one of them
Fold = Callable[[Sequence[Tensor], Tensor, int, Draws | None], Tensor]


def all_reduce(
    grads: dict[str, Tensor],
    comm: Comm,
    codec: Codec,
    /,
    *,
    streams: Streams | None = None,
    fold: Fold | None = None,
) -> Averaged:
    r"""Average matrices and larger gradients in a code, others in full.

    Every gradient is cut into one share for each worker, its owner. With C the code, and j the owner of a
    share: :math:`m = \frac{1}{W}\,(x_j + \sum_{i \ne j} C(x_i))` in float32, and the mean is
    :math:`C(m)` for all. So no sum is rounded to few bits, and what a worker sends does not grow with
    their number. Each loss is written down where it arises: worker i gave :math:`C(x_i)` of another's
    share, and of its own :math:`x_j + W\,(C(m) - m)`, so that the mean of what was given is the mean.
    Its own share a worker takes as it is, or the error of the second code would be coded once more with
    error feedback and could grow.

    Who owns what is told by a gradient's name and size, not by its bucket. Messages: an all-to-all of
    codes, an all-to-all of coded means, and a mean of what is sent in full; each is left out where there
    is nothing of its kind.

    Args:
        grads: Gradients by name.
        comm: The workers.
        codec: Writes numbers and reads them.
        streams: Where the draws of a code come from that rounds at random.
        fold: Makes of an owner's list of shares, their mean, the size of a block and draws what it says
            instead of the mean.

    Returns:
        The mean, and what this worker gave.

    Example:
        >>> from tonsor.compress.grid import Grid
        >>> g = {"w": torch.tensor([[127.0, -3.2, 0.4, 0.0, 1.0, 2.0, 3.0, 4.0]])}
        >>> all_reduce(g, Comm(), Grid(levels=127, block=4)).mean["w"][0, :4]
        tensor([127.,  -3.,   0.,   0.])
    """
    coded = {name: grad for name, grad in grads.items() if _saves(codec, grad)}
    averaged = dense({name: grad for name, grad in grads.items() if name not in coded}, comm)
    if coded:
        part = _Shares(coded, comm, codec, streams)
        part.give()
        part.take(fold)
        for name, grad in coded.items():
            averaged.mean[name] = part.mean[name].view(grad.shape).to(grad.dtype)
            averaged.sent[name] = part.sent[name].view(grad.shape).to(grad.dtype)
        if streams is not None:
            streams.advance({name: averaged.mean[name] for name in coded})
    return averaged


@final
class _Shares:
    """The gradients of a bucket as flat float32 vectors, and who owns what of them."""

    def __init__(self, grads: dict[str, Tensor], comm: Comm, codec: Codec, streams: Streams | None) -> None:
        self.comm = comm
        self.codec = codec
        self.streams = streams
        self.values = {name: grad.reshape(-1).to(torch.float32) for name, grad in grads.items()}
        self.spans = {
            name: spans(name, value.numel(), codec.block, comm.size) for name, value in self.values.items()
        }
        self.mean = {name: torch.empty_like(value) for name, value in self.values.items()}
        self.sent = self.mean
        if comm.size > 1:
            self.sent = {name: torch.empty_like(value) for name, value in self.values.items()}
        self.came: list[list[Tensor]] = [[] for _ in range(comm.size)]

    def give(self) -> None:
        """Send every other worker the codes of its shares."""
        rows: list[list[Tensor]] = []
        for rank in range(self.comm.size):
            rows.append([])
            for name, span in self._spans_of(rank):
                if rank != self.comm.rank:
                    parts = self._encode(
                        name, self.values[name].narrow(0, *span), f"{self.comm.rank} for {rank}"
                    )
                    self.codec.decode(parts, self.sent[name].narrow(0, *span))
                    rows[-1] += parts
        if self.comm.size > 1:
            mine = self._room(self.comm.rank)
            like = [[] if rank == self.comm.rank else mine for rank in range(self.comm.size)]
            self.came = self.comm.all_to_all(rows, like)

    def take(self, fold: Fold | None) -> None:
        """Average the own shares, send the codes of that to all and read theirs."""
        row: list[Tensor] = []
        for name, span in self._spans_of(self.comm.rank):
            own, mean = self.values[name].narrow(0, *span), self.mean[name].narrow(0, *span)
            shares = [
                own if r == self.comm.rank else self._read(r, torch.empty_like(own))
                for r in range(self.comm.size)
            ]
            middle = _mean(shares)
            said = middle
            if fold is not None:
                said = fold(shares, middle, self.codec.block, self._draws(name, f"tie of {self.comm.rank}"))
            parts = self._encode(name, said, f"mean of {self.comm.rank}")
            self.codec.decode(parts, mean)
            row += parts
            if self.comm.size > 1:
                torch.add(own, mean - middle, alpha=self.comm.size, out=self.sent[name].narrow(0, *span))
        if self.comm.size > 1:
            like = [self._room(rank) for rank in range(self.comm.size)]
            self.came = self.comm.all_to_all([row] * self.comm.size, like)
        for rank in range(self.comm.size):
            for name, span in self._spans_of(rank):
                if rank != self.comm.rank:
                    self._read(rank, self.mean[name].narrow(0, *span))

    def _spans_of(self, rank: int) -> list[tuple[str, tuple[int, int]]]:
        """Return the shares a worker owns, those of no elements left out."""
        owned = [(name, by_rank[rank]) for name, by_rank in self.spans.items()]
        return [(name, span) for name, span in owned if span[1]]

    def _room(self, rank: int) -> list[Tensor]:
        """Return what the codes of the shares look like that a worker owns."""
        found: list[Tensor] = []
        for name, span in self._spans_of(rank):
            found += empty_parts(self.codec, span[1], self.values[name].device)
        return found

    def _draws(self, name: str, part: str) -> Draws | None:
        """Return random numbers of one use; the place in the share is theirs."""
        if self.streams is None:
            return None
        return self.streams.draws(name, part, self.values[name].device)

    def _encode(self, name: str, values: Tensor, part: str) -> list[Tensor]:
        """Return the code of a share."""
        parts = empty_parts(self.codec, values.numel(), values.device)
        self.codec.encode(values, parts, self._draws(name, part))
        return parts

    def _read(self, rank: int, values: Tensor) -> Tensor:
        """Write and return the next share that came from a worker."""
        length = len(self.codec.layout(values.numel()))
        parts, self.came[rank] = self.came[rank][:length], self.came[rank][length:]
        self.codec.decode(parts, values)
        return values


def spans(name: str, count: int, block: int, size: int, /) -> list[tuple[int, int]]:
    """Cut a gradient into one share for each worker, of whole blocks and nearly equal.

    A small gradient goes to one worker. Which worker gets the first share is told by the name, so that
    many small ones are spread.

    Args:
        name: Of the gradient.
        count: Its elements.
        block: Elements that stay together.
        size: Workers.

    Returns:
        For each rank the first element and the number of elements, perhaps 0.

    Example:
        >>> spans("w", 5000, 256, 2)
        [(0, 2560), (2560, 2440)]
    """
    shares = size if count >= SMALL * size else 1
    blocks = blocks_of(count, block)
    ends = [min(count, blocks * (share + 1) // shares * block) for share in range(shares)]
    found = [(start, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    found += [(0, 0)] * (size - shares)
    turn = zlib.crc32(name.encode()) % size
    return found[turn:] + found[:turn]


def _saves(codec: Codec, grad: Tensor) -> bool:
    """Tell whether the code takes fewer bytes than the gradient, a matrix at least."""
    return grad.ndim >= 2 and grad.numel() > 0 and code_bytes(codec, grad.numel()) < grad.nbytes


def _mean(shares: Sequence[Tensor]) -> Tensor:
    """Return the mean, in the order of the ranks; no partial sum overflows where the mean does not."""
    if len(shares) == 1:
        return shares[0]
    total = shares[0] / len(shares)
    for share in shares[1:]:
        total.add_(share, alpha=1 / len(shares))
    return total
