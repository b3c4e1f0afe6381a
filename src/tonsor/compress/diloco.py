"""Workers train apart and meet every so many steps."""

from typing import Any, final

import torch
from torch import Tensor, nn

from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.feedback import all_finite, either
from tonsor.compress.inner import load_state, state_of
from tonsor.compress.protocol import Compressor
from tonsor.tensors import fingerprint


@final
class DiLoCo:
    r"""Let each worker take H steps of its own, then move all weights by the mean of what came of it.

    With the weights :math:`\theta` of the last meeting and :math:`\theta_i` of worker i now, the outer
    gradient is :math:`\Delta = \frac{1}{W} \sum_i (\theta - \theta_i)`, averaged by any compressor, and the
    outer step is Nesterov's: :math:`b \leftarrow \mu b + \Delta`,
    :math:`\theta \leftarrow \theta - \eta (\Delta + \mu b)`. With :math:`\eta = 1` and :math:`\mu = 0` it is
    local SGD: the weights are averaged. Optimizer states stay each worker's own. Floating buffers, as the
    running statistics of batch norm, are averaged whole.

    Call `step()` after each step of the optimizer, and `finish()` when this worker's data end. Workers may
    take unequal numbers of steps: one that has finished takes part in the meetings of the others without a
    weight of its own, and `finish` returns when all have finished, with the same weights on all. A worker
    that ends without it lets the others wait until the time limit of the process group.

    A meeting whose mean is not finite is undone: all workers go back to what they had after the last one.
    The memory is two float32 copies of the parameters, and what the compressor keeps. Only parameters that
    require a gradient when this is made take part.

    Args:
        model: The plain model, not in DDP, with the same weights on all workers.
        comm: The workers.
        compressor: Averages the outer gradients, all in one call; `ErrorFeedback(TopK())`, say.
        every: H, steps of a worker between two meetings, at least 1; bigger sends less.
        lr: Eta, above 0.
        momentum: Mu, in [0, 1).

    Raises:
        ValueError: If a setting is out of its range, or the workers start from different weights.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 1.0)
        >>> diloco = DiLoCo(model, Comm(), every=2, lr=0.5, momentum=0.0)
        >>> for _ in range(2):
        ...     with torch.no_grad():
        ...         _ = model.weight.add_(1.0)        # what an optimizer's step would do
        ...     diloco.step()
        False
        True
        >>> model.weight.item()                       # from 1 half the way to 3
        2.0

    References:
        Douillard et al., 2023, "DiLoCo: Distributed Low-Communication Training of Language Models",
        https://arxiv.org/abs/2311.08105
        Stich, 2019, "Local SGD Converges Fast and Communicates Little", https://arxiv.org/abs/1805.09767
    """

    def __init__(
        self,
        model: nn.Module,
        comm: Comm,
        compressor: Compressor = dense,
        /,
        *,
        every: int = 500,
        lr: float = 0.7,
        momentum: float = 0.9,
    ) -> None:
        if every < 1 or not lr > 0 or not 0 <= momentum < 1:
            raise ValueError(
                "compress.DiLoCo: every must be at least 1, lr above 0, momentum in [0, 1); "
                f"got every={every}, lr={lr}, momentum={momentum}"
            )
        self.model = model
        self.comm = comm
        self.compressor = compressor
        self.every = every
        self.lr = lr
        self.momentum = momentum
        self.rounds = 0
        self._since = 0  # steps of this worker since the last meeting
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
        self._anchors = {name: _wide(t) for name, t in (self._trained | self._buffers).items()}
        self._momenta = {name: torch.zeros_like(self._anchors[name]) for name in self._trained}
        self._check_replicas()

    def step(self) -> bool:
        """Count a step of this worker; every so many meet the others. Returns whether they have met."""
        self._since += 1
        if self._since < self.every:
            return False
        self._meet(is_done=False)
        return True

    def finish(self) -> None:
        """Take part in meetings until all workers have finished; the last brings in what is left."""
        while not self._meet(is_done=True):
            pass

    @torch.no_grad()
    def _meet(self, *, is_done: bool) -> bool:
        """Average what the workers did, step, and tell whether all of them are done."""
        device = next(iter(self._anchors.values())).device
        rows = self.comm.gather([torch.tensor([self._since, is_done], device=device)])
        told = torch.cat([row[0] for row in rows]).view(-1, 2).tolist()
        active = sum(steps > 0 for steps, _ in told)
        if active:
            # The mean is over all workers; those that took no step have no part in it.
            share = self.comm.size / active if self._since else 0.0
            moved = {n: (self._anchors[n] - p) * share for n, p in self._trained.items()}
            outer = self.compressor(moved, self.comm).mean
            means = self.comm.mean([_wide(buffer) * share for buffer in self._buffers.values()])
            self._move(outer, dict(zip(self._buffers, means, strict=True)))
            self.rounds += 1
        self._since = 0
        return all(done for _, done in told)

    def _move(self, outer: dict[str, Tensor], buffers: dict[str, Tensor]) -> None:
        """Make the outer step, unless a mean is not finite, and give the model what came of it."""
        finite = all_finite([*outer.values(), *buffers.values()])
        for name, mean in outer.items():
            momentum = self.momentum * self._momenta[name] + mean
            anchor = self._anchors[name] - self.lr * (mean + self.momentum * momentum)
            self._momenta[name] = either(finite, momentum, self._momenta[name])
            self._anchors[name] = either(finite, anchor, self._anchors[name])
        for name, mean in buffers.items():
            self._anchors[name] = either(finite, mean, self._anchors[name])
        for name, tensor in (self._trained | self._buffers).items():
            tensor.copy_(self._anchors[name])

    def _check_replicas(self) -> None:
        """Refuse workers that do not start from the same weights."""
        if not self._trained:
            raise ValueError("compress.DiLoCo: no parameter of the model requires a gradient")
        digest = torch.frombuffer(bytearray.fromhex(fingerprint(self._anchors)), dtype=torch.uint8)
        device = next(iter(self._trained.values())).device
        digests = [row[0].tolist() for row in self.comm.gather([digest.to(device)])]
        if any(other != digests[0] for other in digests):
            raise ValueError(
                "compress.DiLoCo: the workers start from different weights; make the model with the same "
                "seed on all, or load the same state_dict"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of the last meeting, the momenta, the counts, and the compressor's state.

        The model and the worker's own optimizer are saved beside it, by each worker for itself.
        """
        return {
            "anchors": dict(self._anchors),
            "momenta": dict(self._momenta),
            "since": self._since,
            "rounds": self.rounds,
            "compressor": state_of(self.compressor),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; raises ValueError if it is of another model."""
        if strange := state["anchors"].keys() ^ self._anchors.keys():
            raise ValueError(
                "compress.DiLoCo: the state is of another model: "
                f"{', '.join(sorted(strange))} on one side only"
            )
        for mine, theirs in ((self._anchors, state["anchors"]), (self._momenta, state["momenta"])):
            for name, kept in mine.items():
                mine[name] = theirs[name].to(kept.device, kept.dtype)
        self._since, self.rounds = state["since"], state["rounds"]
        load_state(self.compressor, state["compressor"])


def local_sgd(model: nn.Module, comm: Comm, compressor: Compressor = dense, /, *, every: int = 8) -> DiLoCo:
    r"""Let each worker take H steps of its own optimizer, then average the weights.

    :math:`\theta \leftarrow \frac{1}{W} \sum_i \theta_i`: `DiLoCo` without an outer step size and momentum;
    everything said there holds here.

    Args:
        model: The plain model, not in DDP, with the same weights on all workers.
        comm: The workers.
        compressor: Averages how far the weights have moved.
        every: H, steps of a worker between two meetings; bigger sends less.

    Returns:
        A handle: call `step()` after each step of the optimizer, and `finish()` at the end.

    Example:
        >>> local = local_sgd(nn.Linear(2, 2), Comm(), every=1)
        >>> local.step()                              # after optimizer.step()
        True

    References:
        Stich, 2019, "Local SGD Converges Fast and Communicates Little", https://arxiv.org/abs/1805.09767
    """
    return DiLoCo(model, comm, compressor, every=every, lr=1.0, momentum=0.0)


def _wide(tensor: Tensor) -> Tensor:
    """Return a copy in float32 at least."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
