"""Gradients are bounded between backward and step."""

from collections.abc import Callable
from typing import Any

from tonsor.clip.action import Action as Action
from tonsor.clip.action import clamp as clamp
from tonsor.clip.action import scale as scale
from tonsor.clip.action import skip as skip
from tonsor.clip.adagc import AdaGC as AdaGC
from tonsor.clip.agc import agc as agc
from tonsor.clip.autoclip import AutoClip as AutoClip
from tonsor.clip.by_example import per_example as per_example
from tonsor.clip.by_moment import SpikeClip as SpikeClip
from tonsor.clip.by_moment import UpdateClip as UpdateClip
from tonsor.clip.by_norm import global_norm as global_norm
from tonsor.clip.by_part import block_rms as block_rms
from tonsor.clip.by_part import group_norm as group_norm
from tonsor.clip.by_part import norm as norm
from tonsor.clip.by_value import value as value
from tonsor.clip.capped import Capped as Capped
from tonsor.clip.compose import Clip as Clip
from tonsor.clip.history import History as History
from tonsor.clip.history_spikes import Spike as Spike
from tonsor.clip.measure import Group as Group
from tonsor.clip.measure import Measure as Measure
from tonsor.clip.measure import PerTensor as PerTensor
from tonsor.clip.measure import Whole as Whole
from tonsor.clip.moments import Spikes as Spikes
from tonsor.clip.moments import Updates as Updates
from tonsor.clip.moving import MovingAverage as MovingAverage
from tonsor.clip.moving import Steered as Steered
from tonsor.clip.moving import ZScore as ZScore
from tonsor.clip.of_model import blocks as blocks
from tonsor.clip.of_model import unit_dims as unit_dims
from tonsor.clip.percentile import Deviations as Deviations
from tonsor.clip.percentile import Percentile as Percentile
from tonsor.clip.protocol import Clipper as Clipper
from tonsor.clip.protocol import Scaling as Scaling
from tonsor.clip.skipping import SkipSpikes as SkipSpikes
from tonsor.clip.slices import PerElement as PerElement
from tonsor.clip.slices import PerUnit as PerUnit
from tonsor.clip.steering import TargetFraction as TargetFraction
from tonsor.clip.streamed import Streaming as Streaming
from tonsor.clip.streamed import streaming as streaming
from tonsor.clip.suggested import Replay as Replay
from tonsor.clip.suggested import Suggestion as Suggestion
from tonsor.clip.suggested import suggest as suggest
from tonsor.clip.threshold import Threshold as Threshold
from tonsor.clip.threshold import fixed as fixed
from tonsor.clip.threshold import relative as relative
from tonsor.clip.twins import clip_grad_norm_ as clip_grad_norm_
from tonsor.clip.twins import clip_grad_value_ as clip_grad_value_
from tonsor.clip.twins import clip_grads_with_norm_ as clip_grads_with_norm_
from tonsor.clip.twins import get_total_norm as get_total_norm
from tonsor.clip.units import Units as Units
from tonsor.clip.zclip import ZClip as ZClip

RULES: dict[str, Callable[..., Any]] = {
    "value": value,
    "norm": norm,
    "global_norm": global_norm,
    "group_norm": group_norm,
    "block_rms": block_rms,
    "agc": agc,
    "AutoClip": AutoClip,
    "ZClip": ZClip,
    "AdaGC": AdaGC,
    "SpikeClip": SpikeClip,
    "UpdateClip": UpdateClip,
    "SkipSpikes": SkipSpikes,
    "TargetFraction": TargetFraction,
}

MEASURES: dict[str, Callable[..., Any]] = {
    "Whole": Whole,
    "Group": Group,
    "PerTensor": PerTensor,
    "PerUnit": PerUnit,
    "PerElement": PerElement,
    "Spikes": Spikes,
    "Updates": Updates,
}

THRESHOLDS: dict[str, Callable[..., Any]] = {
    "fixed": fixed,
    "relative": relative,
    "Percentile": Percentile,
    "Deviations": Deviations,
    "ZScore": ZScore,
    "MovingAverage": MovingAverage,
    "Steered": Steered,
}

ACTIONS: dict[str, Callable[..., Any]] = {
    "scale": scale,
    "clamp": clamp,
    "skip": skip,
}
