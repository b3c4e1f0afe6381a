"""Random numbers that are told by seed, name, step and place alone, the same on every device."""

import hashlib
from typing import Any, final

import torch
from torch import Tensor

from tonsor.compress.feedback import all_finite

SPREAD, FIRST, SECOND = -1640531527, 2146121005, -2073254261  # odd; of a mixer for 32 bits


@final
class Draws:
    """Give 32 random bits for each place of a vector, by mixing its number with a key.

    No generator stands behind it, so the numbers of a place do not depend on which others were drawn, and
    the key may lie on the device. On a CPU it took a third of the time of `Tensor.random_`.

    Args:
        seed: Any number, 64 bits.
        step: 0-dim int64; another step gives other numbers.

    Example:
        >>> draws = Draws(0, torch.tensor(0))
        >>> all_of_it, end = torch.empty(6, dtype=torch.int32), torch.empty(2, dtype=torch.int32)
        >>> draws.bits_(all_of_it, 0)
        >>> draws.bits_(end, 4)
        >>> torch.equal(all_of_it[4:], end)
        True
    """

    def __init__(self, seed: int, step: Tensor, /) -> None:
        key = step * -7046029254386353131 + _signed(seed, 64)  # wraps, as all that follows
        for factor in (-4658895280553007687, -7723592293110705685):
            key = (key ^ ((key >> 31) & 0x1FFFFFFFF)) * factor
        self._low, self._high = key.to(torch.int32), (key >> 32).to(torch.int32)
        self._places = torch.empty(0, dtype=torch.int32, device=step.device)
        self._scratch = self._places

    def bits_(self, out: Tensor, start: int, /) -> None:
        """Fill an int32 vector with the bits of the places from `start` on."""
        count = out.numel()
        if self._places.numel() < count:
            self._places = torch.arange(count, dtype=torch.int32, device=out.device).mul_(SPREAD)
            self._scratch = torch.empty_like(self._places)
        shifted = self._scratch.narrow(0, 0, count)
        torch.add(self._places.narrow(0, 0, count), self._low + _signed(start * SPREAD, 32), out=out)
        out.bitwise_xor_(torch.bitwise_right_shift(out, 16, out=shifted)).mul_(FIRST).add_(self._high)
        out.bitwise_xor_(torch.bitwise_right_shift(out, 15, out=shifted)).mul_(SECOND)

    def floats(self, count: int, start: int, /) -> Tensor:
        """Return the bits of so many places as float32 from `-2 ** 31` to `2 ** 31`."""
        drawn = torch.empty(count, dtype=torch.int32, device=self._low.device)
        self.bits_(drawn, start)
        return drawn.to(torch.float32)


@final
class Streams:
    """Count the steps of each parameter, and give the draws of a worker for its next step.

    A step whose mean is not finite does not count, so it leaves no trace; the count stays on the device.

    Args:
        seed: Of all streams.

    Example:
        >>> streams = Streams(0)
        >>> streams.advance({"w": torch.ones(2)})
        >>> streams.advance({"w": torch.tensor([torch.inf])})
        >>> streams.state_dict()
        {'w': tensor(1)}
    """

    def __init__(self, seed: int, /) -> None:
        self.seed = seed
        self._steps: dict[str, Tensor] = {}

    def draws(self, name: str, part: str, device: torch.device, /) -> Draws:
        """Return the draws of one parameter for one part of the work."""
        digest = hashlib.sha256(f"{self.seed} {part} {name}".encode()).digest()
        step = self._steps.get(name)
        step = torch.zeros((), dtype=torch.int64, device=device) if step is None else step.to(device)
        return Draws(int.from_bytes(digest[:8]), step)

    def advance(self, mean: dict[str, Tensor], /) -> None:
        """Count a step of each parameter whose mean is finite."""
        for name, tensor in mean.items():
            counts = all_finite([tensor]).to(tensor.device, torch.int64)
            step = self._steps.get(name)
            self._steps[name] = counts if step is None else step.to(tensor.device) + counts

    def state_dict(self) -> dict[str, Any]:
        """Return the counts by name, equal on all workers."""
        return dict(self._steps)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._steps = dict(state)


def _signed(number: int, bits: int) -> int:
    """Return the number with its lowest bits alone, as a signed integer of that width."""
    half = 1 << (bits - 1)
    return (number + half) % (2 * half) - half
