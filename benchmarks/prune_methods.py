"""The ways of pruning that `prune_quality.py` compares: each gives a pruned network at a sparsity."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from prune_lab import Lab, Masks
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tonsor import prune
from tonsor.prune import Pruner, apply_masks_
from tonsor.schedule import cosine, cubic
from tonsor.shrink import channel_groups

EARLY = 0.1  # the early step that is rewound to, as a share of the dense training
ROUND = 0.2  # what an iterative round removes of what is left


def one_shot(importance: Callable, lab: Lab, sparsity: float, **parts) -> tuple[nn.Module, Masks]:
    """Prune the trained network at one stroke."""
    model = lab.dense()
    masks = lab.masks(model, sparsity, importance=importance, **parts)
    apply_masks_(lab.weights(model), masks)
    return model, masks


def flowing(lab: Lab, sparsity: float) -> tuple[nn.Module, Masks]:
    """Prune by synaptic flow in a hundred rounds, as its paper asks."""
    model = lab.dense()
    weights, images = lab.weights(model), lab.samples()[:1]

    def collect() -> prune.Stats:
        return prune.collect(model, images, names=["synaptic_flow"], weights=weights)

    find = partial(prune.find_masks, importance=prune.synflow)
    masks = prune.find_in_rounds(weights, sparsity, find=find, collect=collect)
    apply_masks_(weights, masks)
    return model, masks


def surgeon(lab: Lab, sparsity: float) -> tuple[nn.Module, Masks]:
    """Prune by the inverse Fisher matrix, and let the weights that stay make up for those that go."""
    model = lab.dense()
    weights, names = lab.weights(model), prune.needs(prune.obs)
    stats = prune.collect(model, lab.samples()[:2], names=names, weights=weights, loss=cross_entropy)
    masks = prune.find_masks(weights, sparsity, importance=prune.obs, stats=stats)
    prune.obs_update_(weights, masks, stats)
    return model, masks


def healed(repair: Callable, lab: Lab, sparsity: float) -> tuple[nn.Module, Masks]:
    """Prune by magnitude, then refit each layer to the dense outputs, without labels."""
    model, masks = one_shot(prune.magnitude, lab, sparsity)
    model.load_state_dict(lab.dense().state_dict())
    prune.heal(model, masks, lab.samples(), repair=repair)
    return model, masks


def layerwise(rule: Callable, lab: Lab, sparsity: float) -> tuple[nn.Module, Masks]:
    """Prune layer by layer with a rule that changes the weights as it goes."""
    model = lab.dense()
    masks, _ = prune.prune_layerwise(model, sparsity, lab.samples(), rule=rule, repair=None, target="current")
    return model, masks


CRITERIA = {
    "random": partial(one_shot, prune.random),
    "magnitude": partial(one_shot, prune.magnitude),
    "magnitude, local": partial(one_shot, prune.magnitude, scope=prune.local),
    "magnitude, LAMP": partial(one_shot, prune.magnitude, scope=prune.lamp),
    "magnitude, ERK": partial(one_shot, prune.magnitude, scope=prune.erk),
    "gradient": partial(one_shot, prune.gradient),
    "Taylor": partial(one_shot, prune.taylor),
    "Taylor, squared": partial(one_shot, prune.taylor_squared),
    "movement": partial(one_shot, prune.movement),
    "GraSP": partial(one_shot, prune.grasp),
    "SynFlow": flowing,
    "OBD": partial(one_shot, prune.obd),
    "OBS": surgeon,
    "Wanda": partial(one_shot, prune.wanda, scope=prune.per_output),
    "magnitude + refit": partial(healed, prune.refit),
    "SparseGPT": partial(layerwise, prune.sparsegpt),
    "ALPS": partial(layerwise, prune.alps),
}


def by_units(
    importance: Callable, lab: Lab, sparsity: float, *, maps: bool = False
) -> tuple[nn.Module, Masks]:
    """Prune whole units, each layer alike; `maps` leaves out what makes no feature maps."""
    model = lab.dense()
    groups = channel_groups(model, lab.samples()[0][0][:2])
    weights = {name: w for name, w in lab.weights(model).items() if w.ndim == 4 or not maps}
    parts = {"importance": importance, "pattern": groups, "scope": prune.local}
    masks = lab.masks(model, sparsity, weights=weights, **parts)
    apply_masks_(weights, masks)
    return model, masks


UNITS = {
    "random": partial(by_units, prune.random),
    "magnitude": partial(by_units, partial(prune.magnitude, power=2.0)),
    "Taylor": partial(by_units, prune.taylor),
    "mean activation": partial(by_units, prune.mean_activation),
    "APoZ": partial(by_units, prune.apoz),
    "output variance": partial(by_units, prune.output_variance),
    "input channel": partial(by_units, prune.input_channel),
    "ThiNet": partial(by_units, prune.thinet),
    "HRank": partial(by_units, prune.hrank, maps=True),
    "slimming": partial(by_units, prune.slimming, maps=True),
}


def regrowing(rule: Callable, lab: Lab, sparsity: float) -> nn.Module:
    """Train a sparse network from its beginning, its masks moving until three quarters of the way."""
    model = lab.fresh()
    weights = lab.weights(model)
    start = lab.masks(model, sparsity, importance=prune.random, scope=prune.erk)
    apply_masks_(weights, start)
    pruner = Pruner(
        weights,
        rule,
        schedule=partial(cosine, initial=0.3, final=0.0, stop=lab.net.steps * 3 // 4),
        every=50,
        collect=prune.DenseGradient(weights),
        within=start,
        regrow=True,
    )
    lab.train(model, lab.net.steps, pruner=pruner)
    return model


def gradual(lab: Lab, sparsity: float) -> nn.Module:
    """Prune the trained network along the cubic ramp over half of the steps, then train on."""
    model = lab.dense()
    pruner = Pruner(
        lab.weights(model),
        prune.find_masks,
        schedule=partial(cubic, final=sparsity, stop=lab.net.tuning // 2),
        every=10,
    )
    lab.train(model, lab.net.tuning, rate=0.5, pruner=pruner)
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
    "one round, rewound": partial(each, one_round),
    "RigL": partial(each, partial(regrowing, prune.rigl)),
    "SET": partial(each, partial(regrowing, prune.sparse_evolution)),
    "at the start: SNIP": partial(each, partial(at_the_start, prune.snip)),
    "at the start: GraSP": partial(each, partial(at_the_start, prune.grasp)),
    "at the start: random": partial(each, partial(at_the_start, prune.random)),
    "rounds": rounds,
    "rounds, rewound": partial(rounds, back_to="early"),
    "rounds, drawn afresh": partial(rounds, back_to="fresh"),
}
