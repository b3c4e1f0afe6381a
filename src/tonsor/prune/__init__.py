"""Weights are scored and set to zero."""

from collections.abc import Callable, Mapping

from torch import Tensor

from tonsor.masked import clear_state_ as clear_state_
from tonsor.masked import mask_gradients_ as mask_gradients_
from tonsor.prune.alps import alps as alps
from tonsor.prune.block import Block as Block
from tonsor.prune.budget import Budget as Budget
from tonsor.prune.budget import find_sparsity as find_sparsity
from tonsor.prune.by_curvature import grasp as grasp
from tonsor.prune.by_curvature import obd as obd
from tonsor.prune.by_flow import synflow as synflow
from tonsor.prune.by_gradient import gradient as gradient
from tonsor.prune.by_gradient import snip as snip
from tonsor.prune.by_gradient import taylor as taylor
from tonsor.prune.by_gradient import taylor_squared as taylor_squared
from tonsor.prune.by_importance import by_importance as by_importance
from tonsor.prune.by_input import input_channel as input_channel
from tonsor.prune.by_input import thinet as thinet
from tonsor.prune.by_input import wanda as wanda
from tonsor.prune.by_inverse import obs as obs
from tonsor.prune.by_inverse import obs_update_ as obs_update_
from tonsor.prune.by_movement import Movement as Movement
from tonsor.prune.by_movement import movement as movement
from tonsor.prune.by_output import apoz as apoz
from tonsor.prune.by_output import hrank as hrank
from tonsor.prune.by_output import mean_activation as mean_activation
from tonsor.prune.by_output import output_variance as output_variance
from tonsor.prune.by_output import slimming as slimming
from tonsor.prune.by_sensitivity import same_sensitivity as same_sensitivity
from tonsor.prune.by_shape import by_table as by_table
from tonsor.prune.by_shape import erk as erk
from tonsor.prune.by_shape import uniform_plus as uniform_plus
from tonsor.prune.by_value import lamp as lamp
from tonsor.prune.by_value import owl as owl
from tonsor.prune.by_weight import magnitude as magnitude
from tonsor.prune.by_weight import random as random
from tonsor.prune.cost import bytes_on_disk as bytes_on_disk
from tonsor.prune.cost import macs as macs
from tonsor.prune.cost import parameters as parameters
from tonsor.prune.distill import same_outputs as same_outputs
from tonsor.prune.distill import soft_targets as soft_targets
from tonsor.prune.eliminate import eliminate as eliminate
from tonsor.prune.find import find_masks as find_masks
from tonsor.prune.from_training import DenseGradient as DenseGradient
from tonsor.prune.from_training import gathered as gathered
from tonsor.prune.heal import heal as heal
from tonsor.prune.layers import Layer as Layer
from tonsor.prune.layers import layer_of as layer_of
from tonsor.prune.layerwise import prune_layerwise as prune_layerwise
from tonsor.prune.patterns import Channel as Channel
from tonsor.prune.patterns import Element as Element
from tonsor.prune.protocol import Collector as Collector
from tonsor.prune.protocol import Importance as Importance
from tonsor.prune.protocol import Limited as Limited
from tonsor.prune.protocol import Masking as Masking
from tonsor.prune.protocol import Masks as Masks
from tonsor.prune.protocol import Pattern as Pattern
from tonsor.prune.protocol import Scope as Scope
from tonsor.prune.protocol import Stats as Stats
from tonsor.prune.protocol import Watch as Watch
from tonsor.prune.pruner import Pruner as Pruner
from tonsor.prune.recalibrate import recalibrate_ as recalibrate_
from tonsor.prune.refit import refit as refit
from tonsor.prune.refit import refit_ as refit_
from tonsor.prune.refit import retarget as retarget
from tonsor.prune.regrowing import regrow as regrow
from tonsor.prune.regrowing import rigl as rigl
from tonsor.prune.regrowing import sparse_evolution as sparse_evolution
from tonsor.prune.repaired import Repaired as Repaired
from tonsor.prune.rewind import Rewind as Rewind
from tonsor.prune.rewind import Round as Round
from tonsor.prune.rewind import train_in_rounds as train_in_rounds
from tonsor.prune.rounds import find_in_rounds as find_in_rounds
from tonsor.prune.scan import Measured as Measured
from tonsor.prune.scan import read_scan as read_scan
from tonsor.prune.scan import scan_sensitivity as scan_sensitivity
from tonsor.prune.scopes import across as across
from tonsor.prune.scopes import local as local
from tonsor.prune.scopes import n_of_m as n_of_m
from tonsor.prune.scopes import per_output as per_output
from tonsor.prune.sensitivity_table import Sensitivity as Sensitivity
from tonsor.prune.sensitivity_table import mean_loss as mean_loss
from tonsor.prune.sensitivity_table import sensitivity as sensitivity
from tonsor.prune.soft import SoftPruner as SoftPruner
from tonsor.prune.solvers import LayerRule as LayerRule
from tonsor.prune.solvers import Repair as Repair
from tonsor.prune.sparsegpt import sparsegpt as sparsegpt
from tonsor.prune.statistics import STATISTICS as STATISTICS
from tonsor.prune.statistics import collect as collect
from tonsor.prune.statistics import needs as needs
from tonsor.tensors import apply_masks_ as apply_masks_

IMPORTANCES: dict[str, Callable[..., Tensor]] = {
    "magnitude": magnitude,
    "random": random,
    "gradient": gradient,
    "taylor": taylor,
    "taylor_squared": taylor_squared,
    "movement": movement,
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
    "obd": obd,
    "obs": obs,
    "wanda": wanda,
    "input_channel": input_channel,
    "thinet": thinet,
    "mean_activation": mean_activation,
    "apoz": apoz,
    "output_variance": output_variance,
    "hrank": hrank,
    "slimming": slimming,
}
PATTERNS: dict[str, Callable[..., Pattern]] = {
    "element": Element,
    "channel": Channel,
    "block": Block,
}
SCOPES: dict[str, Callable[..., dict[str, Tensor]]] = {
    "local": local,
    "per_output": per_output,
    "across": across,
    "n_of_m": n_of_m,
    "erk": erk,
    "lamp": lamp,
    "uniform_plus": uniform_plus,
    "owl": owl,
    "by_table": by_table,
    "same_sensitivity": same_sensitivity,
}
COSTS: dict[str, Callable[..., float]] = {
    "parameters": parameters,
    "bytes_on_disk": bytes_on_disk,
    "macs": macs,
}
LAYER_RULES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "by_importance": by_importance,
    "sparsegpt": sparsegpt,
    "alps": alps,
}
# What moves masks instead of narrowing them: called like `find_masks`, with the fraction that moves.
REGROWS: dict[str, Callable[..., Masks]] = {
    "sparse_evolution": sparse_evolution,
    "rigl": rigl,
}
# Statistics that are gathered from the training itself, made with the weights by name.
WATCHES: dict[str, Callable[[Mapping[str, Tensor]], Watch]] = {
    "gradient": DenseGradient,
    "weight_gradient": Movement,
}
DISTILLATIONS: dict[str, Callable[..., Tensor]] = {
    "soft_targets": soft_targets,
    "same_outputs": same_outputs,
}
