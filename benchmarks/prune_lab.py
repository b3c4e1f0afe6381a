"""A trained network with its data, to try ways of pruning on: `prune_quality.py` measures with it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from tonsor.examples.data import fashion_mnist
from tonsor.examples.models import lenet_5, lenet_300_100, resnet
from tonsor.files import read_tensors, write_tensors
from tonsor.modes import evaluating
from tonsor.prune import Pruner, apply_masks_, collect, find_masks, mask_gradients_, needs
from tonsor.schedule import cosine

BATCH = 128
CALIBRATION = 8  # batches for statistics
Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Net:
    """Say how a network is built and trained; steps are of 128 samples, 430 an epoch."""

    build: Callable[[], nn.Module]
    see: Callable[[Tensor], Tensor]  # makes the network's inputs of images (N, 1, 28, 28)
    rate: float
    steps: int  # of the dense training
    tuning: int  # of the fine-tuning after pruning


NETS = {
    "LeNet-300-100": Net(lenet_300_100, lambda x: x.flatten(1), 0.05, 2150, 860),
    "LeNet-5": Net(lenet_5, lambda x: x, 0.02, 1290, 215),
    "ResNet": Net(resnet, lambda x: avg_pool2d(x, 2), 0.1, 1720, 215),
}


@dataclass
class Lab:
    """Hold one network of one seed: how it begins, how it is trained, and what it is after training.

    Args:
        name: A name in `NETS`.
        seed: Decides the initial weights and the order of the data.
        cache: Folder for the trained weights.
    """

    name: str
    seed: int
    cache: Path

    @property
    def net(self) -> Net:
        """How the network is built and trained."""
        return NETS[self.name]

    @cached_property
    def data(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The inputs and targets by the name of the split."""
        parts = {name: part.tensors for name, part in fashion_mnist().items()}
        return {name: (self.net.see(x), y) for name, (x, y) in parts.items()}

    def fresh(self, seed: int | None = None) -> nn.Module:
        """Return the network with its initial weights; another seed gives others."""
        torch.manual_seed(self.seed if seed is None else seed)
        return self.net.build().to(memory_format=torch.channels_last)  # trains 1.2 to 1.6 times as fast

    @property
    def _file(self) -> Path:
        """Where the trained weights lie."""
        return self.cache / f"{self.name}-{self.seed}.safetensors"

    @property
    def is_trained(self) -> bool:
        """Whether the network has been trained before."""
        return self._file.exists()

    def dense(self) -> nn.Module:
        """Return the trained network; it is trained once and kept."""
        model = self.fresh()
        if self.is_trained:
            model.load_state_dict(read_tensors(self._file)[0])
            return model
        self.train(model, self.net.steps)
        write_tensors(self._file, model.state_dict(), about={"network": self.name})
        return model

    def batches(self, steps: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the mini-batches of the steps: a new order every epoch, from the seed alone."""
        inputs, targets = self.data["train"]
        of_epoch = len(inputs) // BATCH
        for step in range(first, first + steps):
            epoch, place = divmod(step, of_epoch)
            if place == 0 or step == first:
                start = torch.Generator().manual_seed(1000 * self.seed + epoch)
                order = torch.randperm(len(inputs), generator=start)
            chosen = order[place * BATCH : (place + 1) * BATCH]
            yield inputs[chosen], targets[chosen]

    def train(
        self,
        model: nn.Module,
        steps: int,
        *,
        first: int = 0,
        rate: float = 1.0,
        masks: Mapping[str, Tensor] | None = None,
        pruner: Pruner | None = None,
        after_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Train with momentum and a cosine rate that ends at zero; masked weights stay zero."""
        named = dict(model.named_parameters())
        optimizer = torch.optim.SGD(
            model.parameters(), lr=self.net.rate, momentum=0.9, weight_decay=1e-4, nesterov=True
        )
        model.train()
        for step, (inputs, targets) in enumerate(self.batches(steps, first), 1):
            for group in optimizer.param_groups:
                group["lr"] = self.net.rate * rate * cosine(step - 1, initial=1.0, final=0.0, stop=steps)
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            if pruner is not None:
                pruner.observe()
                masks = pruner.masks
            mask_gradients_(named, masks or {})
            optimizer.step()
            if pruner is not None:
                pruner.step(optimizer)
                masks = pruner.masks
            apply_masks_(named, masks or {})
            after_step(step)

    def accuracy(self, model: nn.Module) -> float:
        """Return the accuracy on the test images, in percent."""
        inputs, targets = self.data["test"]
        with evaluating(model), torch.no_grad():
            hits = [
                (model(x).argmax(1) == y).sum()
                for x, y in zip(inputs.split(500), targets.split(500), strict=True)
            ]
        return 100 * float(sum(hits)) / len(targets)

    def samples(self) -> list[tuple[Tensor, Tensor]]:
        """Return the batches for statistics."""
        return list(self.batches(CALIBRATION))

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weights that are pruned: those of two or more dimensions."""
        return {name: p for name, p in model.named_parameters() if p.ndim > 1}

    def masks(self, model: nn.Module, sparsity: float, /, *, importance, weights=None, **parts) -> Masks:
        """Find masks, with the statistics that the importance asks for."""
        weights, names = weights or self.weights(model), needs(importance)
        stats = collect(model, self.samples(), names=names, weights=weights, loss=cross_entropy)
        return find_masks(weights, sparsity, importance=importance, stats=stats, **parts)
