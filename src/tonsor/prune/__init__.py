"""Weights are scored and set to zero."""

from collections.abc import Callable

from torch import Tensor

from tonsor.prune.by_gradient import taylor as taylor
from tonsor.prune.by_input import wanda as wanda
from tonsor.prune.by_weight import magnitude as magnitude
from tonsor.prune.by_weight import random as random
from tonsor.prune.find import find_masks as find_masks
from tonsor.prune.patterns import Channel as Channel
from tonsor.prune.patterns import Element as Element
from tonsor.prune.protocol import Collector as Collector
from tonsor.prune.protocol import Importance as Importance
from tonsor.prune.protocol import Limited as Limited
from tonsor.prune.protocol import Masks as Masks
from tonsor.prune.protocol import Pattern as Pattern
from tonsor.prune.protocol import Scope as Scope
from tonsor.prune.protocol import Stats as Stats
from tonsor.prune.pruner import Pruner as Pruner
from tonsor.prune.scopes import across as across
from tonsor.prune.scopes import local as local
from tonsor.prune.scopes import n_of_m as n_of_m
from tonsor.prune.scopes import per_output as per_output
from tonsor.prune.statistics import STATISTICS as STATISTICS
from tonsor.prune.statistics import collect as collect
from tonsor.prune.statistics import needs as needs
from tonsor.tensors import apply_masks_ as apply_masks_

IMPORTANCES: dict[str, Callable[..., Tensor]] = {
    "magnitude": magnitude,
    "random": random,
    "taylor": taylor,
    "wanda": wanda,
}
PATTERNS: dict[str, Callable[..., Pattern]] = {
    "element": Element,
    "channel": Channel,
}
SCOPES: dict[str, Callable[..., dict[str, Tensor]]] = {
    "local": local,
    "per_output": per_output,
    "across": across,
    "n_of_m": n_of_m,
}
