"""The ways of pruning that `prune_quality.py` compares: each gives a pruned network at a sparsity."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from prune_lab import Lab, Masks
from torch import Tensor, nn

from tonsor import prune
from tonsor.prune import Pruner, apply_masks_
from tonsor.schedule import cubic

EARLY = 0.1  # the early step that is rewound to, as a share of the dense training
ROUND = 0.2  # what an iterative round removes of what is left


def one_shot(importance: Callable, lab: Lab, sparsity: float, **parts) -> tuple[nn.Module, Masks]:
    """Prune the trained network at one stroke."""
    model = lab.dense()
    masks = lab.masks(model, sparsity, importance=importance, **parts)
    apply_masks_(lab.weights(model), masks)
    return model, masks


CRITERIA = {
    "random": partial(one_shot, prune.random),
    "magnitude": partial(one_shot, prune.magnitude),
    "magnitude, local": partial(one_shot, prune.magnitude, scope=prune.local),
    "Taylor": partial(one_shot, prune.taylor),
    "Wanda": partial(one_shot, prune.wanda, scope=prune.per_output),
}


def gradual(lab: Lab, sparsity: float) -> nn.Module:
    """Prune the trained network along the cubic ramp over half of the steps, then train on."""
    model = lab.dense()
    pruner = Pruner(
        lab.weights(model),
        prune.find_masks,
        schedule=partial(cubic, final=sparsity, stop=lab.net.tuning // 2),
        every=10,
    )
    lab.train(model, lab.net.tuning, rate=0.5, after_step=lambda step: pruner.step())
    return model


def at_the_start(importance: Callable, lab: Lab, sparsity: float, **parts) -> nn.Module:
    """Prune the network before it is trained at all."""
    model = lab.fresh()
    masks = lab.masks(model, sparsity, importance=importance, **parts)
    apply_masks_(lab.weights(model), masks)
    lab.train(model, lab.net.steps, masks=masks)
    return model


def one_round(lab: Lab, sparsity: float) -> nn.Module:
    """Prune the trained network at one stroke, rewind to the early step and train from there."""
    model, early = _trained(lab)
    return _again(lab, model, early, prune.find_masks(lab.weights(model), sparsity))


def each(method: Callable, lab: Lab, sparsities: Sequence[float]) -> Iterator[tuple[float, nn.Module]]:
    """Run a method for every sparsity by itself."""
    for sparsity in sparsities:
        yield sparsity, method(lab, sparsity)


def rounds(
    lab: Lab, sparsities: Sequence[float], *, back_to: str = "nothing"
) -> Iterator[tuple[float, nn.Module]]:
    """Prune by magnitude in rounds, each trained as long as the dense network was from the early step on.

    Args:
        lab: The network.
        sparsities: Where to look at the network on the way.
        back_to: What the weights become after each pruning: "nothing" leaves them (the rate alone starts
            again), "early" are those of the early step (the lottery ticket), "fresh" are other random ones.
    """
    model, early = _trained(lab)
    masks: Masks = {}
    for level in _levels(sparsities):
        masks = prune.find_masks(lab.weights(model), level, within=masks)
        start = {"nothing": model.state_dict(), "early": early}.get(back_to)
        model = _again(lab, model, start or lab.fresh(seed=lab.seed + 100).state_dict(), masks)
        if level in sparsities:
            yield level, model


def _trained(lab: Lab) -> tuple[nn.Module, dict[str, Tensor]]:
    """Train the network from its beginning, and return it with its weights at the early step."""
    model, kept = lab.fresh(), {}

    def keep(step: int) -> None:
        if step == round(EARLY * lab.net.steps):
            kept.update({name: value.clone() for name, value in model.state_dict().items()})

    lab.train(model, lab.net.steps, after_step=keep)
    return model, kept


def _again(lab: Lab, model: nn.Module, start: dict[str, Tensor], masks: Masks) -> nn.Module:
    """Train from given weights under the masks, as long as the dense network was after its early step."""
    model.load_state_dict(start)
    apply_masks_(lab.weights(model), masks)
    early = round(EARLY * lab.net.steps)
    lab.train(model, lab.net.steps - early, first=early, masks=masks)
    return model


def _levels(stops: Sequence[float]) -> list[float]:
    """Return the sparsities of the rounds: a fifth of what is left goes each time, and every stop is met."""
    levels: list[float] = []
    for stop in stops:
        while (level := 1 - (1 - ROUND) * (1 - (levels[-1] if levels else 0))) < stop - 0.005:
            levels.append(level)
        levels.append(stop)
    return levels


SCHEDULES = {
    "cubic ramp": partial(each, gradual),
    "at the start: random": partial(each, partial(at_the_start, prune.random)),
    "one round, rewound": partial(each, one_round),
    "rounds": rounds,
    "rounds, rewound": partial(rounds, back_to="early"),
    "rounds, drawn afresh": partial(rounds, back_to="fresh"),
}
