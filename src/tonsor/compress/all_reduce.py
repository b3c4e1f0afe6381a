"""Average in codes: each worker sums a share of every gradient, and says the sum in the same code."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import final

import torch
from torch import Tensor

from tonsor.compress.codec import Codec, blocks_of, code_bytes, empty_parts, pieces_of
from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.draws import Draws, Streams
from tonsor.compress.protocol import Averaged
from tonsor.compress.vector import Vector, join, vector_of

UNEVEN = 1.5  # times the bytes of all codes that a gather of codes of unequal length may move
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
    codes, a gather of coded means (an all-to-all where they are very unequal), and a mean of what is sent
    in full; each is left out where there is nothing of its kind.

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
        vectors = {name: vector_of(name, grad, comm.size, codec) for name, grad in coded.items()}
        places = {} if streams is not None else join(vectors)
        part = _Shares(vectors, comm, streams)
        part.give()
        part.take(fold)
        for name, grad in coded.items():
            pieces = places.get(name, [(name, 0, grad.numel())])
            for found, made in ((averaged.mean, part.mean), (averaged.sent, part.sent)):
                parts = [made[whole].narrow(0, start, count) for whole, start, count in pieces]
                found[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
                found[name] = found[name].view(grad.shape).to(grad.dtype)
        if streams is not None:
            streams.advance({name: averaged.mean[name] for name in coded})
    return averaged


@final
class _Shares:
    """What the workers say to each other about the vectors of a bucket."""

    def __init__(self, vectors: dict[str, Vector], comm: Comm, streams: Streams | None) -> None:
        self.vectors = vectors
        self.comm = comm
        self.streams = streams
        self.mean = {name: torch.empty_like(vector.values) for name, vector in vectors.items()}
        self.sent = self.mean
        if comm.size > 1:
            self.sent = {name: torch.empty_like(vector.values) for name, vector in vectors.items()}
        self.came: list[Iterator[Tensor]] = []

    def give(self) -> None:
        """Send every other worker the codes of its shares."""
        rows: list[list[Tensor]] = [[] for _ in range(self.comm.size)]
        for name, vector in self.vectors.items():
            for start, count, ranks in vector.others(self.comm.rank):
                codec = vector.codec_for(start, count)
                part = f"{self.comm.rank} from {start}"
                code = self._encode(name, codec, vector.values.narrow(0, start, count), part)
                codec.decode(code, self.sent[name].narrow(0, start, count))
                for rank in ranks:
                    first, length = vector.shares[rank]
                    rows[rank] += pieces_of(codec, code, first - start, length)
        if self.comm.size > 1:
            mine = self._room(self.comm.rank)
            like = [[] if rank == self.comm.rank else mine for rank in range(self.comm.size)]
            self.came = [iter(row) for row in self.comm.all_to_all(rows, like)]

    def take(self, fold: Fold | None) -> None:
        """Average the own shares, send the codes of that to all and read theirs."""
        row: list[Tensor] = []
        for name, vector in self._owned_by(self.comm.rank):
            row += self._average(name, vector, fold)
        if self.comm.size > 1:
            self.came = [iter(came) for came in self._to_all(row)]
        for name, vector in self.vectors.items():
            for start, count, ranks in vector.others(self.comm.rank):
                codec = vector.codec_for(start, count)
                codec.decode(self._next(ranks, codec), self.mean[name].narrow(0, start, count))

    def _to_all(self, row: list[Tensor]) -> list[list[Tensor]]:
        """Send the codes of the own means to all, and return everyone's.

        A gather fills a slow link better, but makes all send as much as the longest.
        """
        like = [self._room(rank) for rank in range(self.comm.size)]
        lengths = [sum(part.nbytes for part in room) for room in like]
        if self.comm.size * max(lengths) <= UNEVEN * sum(lengths):
            return self.comm.gather(row, like)
        return self.comm.all_to_all([row] * self.comm.size, like)

    def _average(self, name: str, vector: Vector, fold: Fold | None) -> list[Tensor]:
        """Return the code of the mean of an own share; write what it says and what this worker gave."""
        rank, size = self.comm.rank, self.comm.size
        own, mean = vector.share(rank, vector.values), vector.share(rank, self.mean[name])
        shares = self._shares(vector)
        middle = _mean(shares)
        said = middle
        if fold is not None:
            said = fold(shares, middle, vector.codec.block, self._draws(name, f"tie of {rank}"))
        codec = vector.codec_for(*vector.shares[rank])
        code = self._encode(name, codec, said, f"mean of {rank}")
        codec.decode(code, mean)
        if size > 1:
            torch.add(own, mean - middle, alpha=size, out=vector.share(rank, self.sent[name]))
        return code

    def _shares(self, vector: Vector) -> Sequence[Tensor]:
        """Return what each worker has of the own share, by rank: one's own, and what came."""
        rank, size, (start, count) = self.comm.rank, self.comm.size, vector.shares[self.comm.rank]
        own = vector.share(rank, vector.values)
        if size == 1:
            return [own]
        rows = own.new_empty(size * count)
        sides: list[Sequence[int]] = [range(rank), range(rank + 1, size)]
        if count % vector.unit:  # codes that end within a unit cannot be put together
            sides = [[other] for side in sides for other in side]
        for ranks in filter(None, sides):
            codec = vector.codec_for(start, count, len(ranks))
            codec.decode(self._next(ranks, codec), rows.narrow(0, ranks[0] * count, len(ranks) * count))
        shares = list(rows.split_with_sizes([count] * size))
        shares[rank] = own
        return shares

    def _next(self, ranks: Sequence[int], codec: Codec) -> list[Tensor]:
        """Return the next code that came from each of these workers, put together."""
        codes = [list(islice(self.came[rank], len(codec.layout(1)))) for rank in ranks]
        return codes[0] if len(codes) == 1 else [torch.cat(parts) for parts in zip(*codes, strict=True)]

    def _owned_by(self, rank: int) -> list[tuple[str, Vector]]:
        """Return the vectors of which a worker owns a share."""
        return [(name, vector) for name, vector in self.vectors.items() if vector.shares[rank][1]]

    def _room(self, rank: int) -> list[Tensor]:
        """Return what the codes of the shares look like that a worker owns."""
        found: list[Tensor] = []
        for _, vector in self._owned_by(rank):
            found += empty_parts(vector.codec, vector.shares[rank][1], vector.values.device)
        return found

    def _draws(self, name: str, part: str) -> Draws | None:
        """Return random numbers of one use; the place in the share is theirs."""
        if self.streams is None:
            return None
        return self.streams.draws(name, part, self.vectors[name].values.device)

    def _encode(self, name: str, codec: Codec, values: Tensor, part: str) -> list[Tensor]:
        """Return the code of some neighbours."""
        parts = empty_parts(codec, values.numel(), values.device)
        codec.encode(values, parts, self._draws(name, part))
        return parts


def _saves(codec: Codec, grad: Tensor) -> bool:
    """Tell whether the code, filled up to whole blocks, takes fewer bytes than a matrix at least."""
    filled = blocks_of(grad.numel(), codec.block) * codec.block
    return grad.ndim >= 2 and 0 < code_bytes(codec, filled) < grad.nbytes


def _mean(shares: Sequence[Tensor]) -> Tensor:
    """Return the mean, in the order of the ranks; no partial sum overflows where the mean does not."""
    if len(shares) == 1:
        return shares[0]
    total = shares[0] / len(shares)
    for share in shares[1:]:
        total.add_(share, alpha=1 / len(shares))
    return total
