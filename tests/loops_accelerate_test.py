"""`attach` on Accelerate's prepared optimizer, which wraps one, accumulates and may hold a scaler."""

from functools import partial

import pytest
import torch

import tonsor
from loops import BOUND, loader, loss_of, net, plain, weights
from tonsor.clip import AutoClip, global_norm

accelerate = pytest.importorskip("accelerate")

pytestmark = pytest.mark.slow
CLIP = partial(global_norm, max_norm=BOUND)


@pytest.fixture
def accelerator():
    """Give what makes an Accelerator on the CPU; its global state is forgotten before and after."""
    forget()
    yield partial(accelerate.Accelerator, cpu=True)
    forget()


def forget():
    """Reset what Accelerate keeps for the whole process."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


def train(accelerator, prepared, attached=None, *, epochs=1, scaled=None):
    """Train as Accelerate's users do."""
    model, optimizer, batches = prepared
    for _ in range(epochs):
        for batch in batches:
            with accelerator.accumulate(model):
                loss = loss_of(model, batch)
                accelerator.backward(loss if scaled is None else loss * next(scaled))
                optimizer.step()
                optimizer.zero_grad()
    return weights(model)


def prepare(accelerator, **settings):
    """Return model, optimizer and batches, prepared."""
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, **settings)
    return accelerator.prepare(model, optimizer, loader())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("late", [True, False])
def test_the_sum_is_clipped_whether_attached_before_or_after_prepare(accelerator, accumulate, dtype, late):
    precision = "no" if dtype is None else "bf16"
    ours = accelerator(gradient_accumulation_steps=accumulate, mixed_precision=precision)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    early = None if late else tonsor.attach(optimizer, clip=CLIP)
    prepared = ours.prepare(model, optimizer, loader())
    attached = early or tonsor.attach(prepared[1], clip=CLIP, model=prepared[0])
    got = train(ours, prepared)
    expected, norms = plain(accumulate=accumulate, dtype=dtype)
    rough = 1e-5 if dtype is None else 1e-2
    torch.testing.assert_close(got, expected, rtol=rough, atol=rough)
    assert [row["before"] for row in attached.history.rows()] == pytest.approx(norms, rel=rough)


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_is_no_hindrance_and_its_overflow_is_skipped(accelerator, fused):
    ours = accelerator()
    ours.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # Accelerate makes one on a GPU alone
    prepared = prepare(ours, fused=fused)
    assert prepared[1].scaler is ours.scaler
    attached = tonsor.attach(prepared[1], clip=CLIP)
    expected, norms = plain()
    torch.testing.assert_close(train(ours, prepared), expected, rtol=1e-4, atol=1e-5)
    assert [row["before"] for row in attached.history.rows()] == pytest.approx(norms, rel=1e-5)
    before = weights(prepared[0])
    overflow = iter([float("inf")] * 4)
    train(ours, prepared, scaled=overflow)
    assert torch.equal(weights(prepared[0]), before)
    assert prepared[1].step_was_skipped != fused  # Accelerate cannot see a fused kernel leave out a step
    assert [row["nonfinite"] for row in attached.history.rows()] == [False] * 4 + [True] * 4 * fused


def test_masks_hold_and_constraints_come_last(accelerator):
    ours = accelerator()
    prepared = prepare(ours)
    mask = torch.arange(32).reshape(8, 4) % 3 > 0
    bound = partial(tonsor.constrain.value, clip_value=0.2)
    tonsor.attach(prepared[1], clip=CLIP, masks={"0.weight": mask}, constrain=bound, model=prepared[0])
    train(ours, prepared)
    weight = prepared[0][0].weight
    assert (weight[~mask] == 0).all() and (weight[mask] != 0).all()
    assert weights(prepared[0]).abs().max() == pytest.approx(0.2)


def test_its_own_clip_is_told(accelerator):
    ours = accelerator()
    model, optimizer, batches = prepare(ours)
    tonsor.attach(optimizer, clip=partial(global_norm, max_norm=0.8))
    with pytest.warns(UserWarning, match="another clip is already on"):
        for _ in range(6):
            for batch in batches:
                ours.backward(loss_of(model, batch))
                ours.clip_grad_norm_(model.parameters(), BOUND)
                optimizer.step()
                optimizer.zero_grad()


def test_a_registered_handle_is_saved_and_resumed(accelerator, tmp_path):
    def started():
        ours = accelerator()
        prepared = prepare(ours)
        attached = tonsor.attach(prepared[1], clip=AutoClip(percentile=50))
        ours.register_for_checkpointing(attached)
        return ours, prepared, attached

    whole = started()
    train(*whole[:2])
    whole[0].save_state(tmp_path / "half")
    expected = train(*whole[:2])
    resumed = started()
    resumed[0].load_state(tmp_path / "half")
    assert torch.equal(train(*resumed[:2]), expected)
    assert resumed[2].history.rows() == whole[2].history.rows()
