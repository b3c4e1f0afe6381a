"""Random networks are shrunk and equal, or refused: never wrong."""

import copy
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tonsor.shrink import channel_groups, shrink_
from tonsor.shrink.nets_random_test import STEPS, network
from tonsor.tensors import apply_masks_

pytestmark = pytest.mark.slow

# The suite takes 50; the night's run sets TONSOR_FUZZ=500.
COUNT = int(os.environ.get("TONSOR_FUZZ", "50"))
steps = st.lists(st.tuples(st.integers(0, len(STEPS) - 1), st.integers(2, 9)), min_size=2, max_size=6)


@given(chosen=steps, seed=st.integers(0, 10**6), whole=st.booleans())
@settings(max_examples=COUNT, suppress_health_check=list(HealthCheck))
def test_a_random_network_is_shrunk_and_equal_or_refused(chosen, seed, whole):
    torch.manual_seed(seed)
    model, x = network(chosen).double().eval(), torch.randn(2, 3, 4, 4).double()
    groups = channel_groups(model, x)
    if whole:  # all slices of some units, as a scope decides
        keep = {name: torch.rand(group.units) < 0.6 for name, group in groups.groups.items()}
        masks = groups.expand(keep, dict(model.named_parameters()))
    else:  # rows alone: what is left behind is constant
        masks = {n: torch.rand(len(p)) < 0.6 for n, p in model.named_parameters() if p.ndim > 1}
        shape = dict(model.named_parameters())
        masks = {n: m.view(-1, *[1] * (shape[n].ndim - 1)).expand_as(shape[n]) for n, m in masks.items()}
    masked = copy.deepcopy(model)
    apply_masks_(dict(masked.named_parameters()), masks)
    shrunk = shrink_(model, groups, masks)
    fresh = 3 * torch.randn(2, 3, 4, 4).double() + 1
    for y in (x, fresh):
        torch.testing.assert_close(model(y), masked(y), rtol=1e-9, atol=1e-9)
    assert shrunk.after <= shrunk.before
    model.train()
    model(x).sum().backward()
