"""A sensitivity scan measures what it says, changes nothing, and goes on where it was stopped."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tonsor.prune import (
    Channel,
    Measured,
    Sensitivity,
    apply_masks_,
    find_masks,
    mean_loss,
    read_scan,
    same_sensitivity,
    scan_sensitivity,
    sensitivity,
)


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3))


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    pairs = [(20, torch.randn(20, 4, generator=generator)), (7, torch.randn(7, 4, generator=generator))]
    return [(x, torch.randint(0, 3, (n,), generator=generator)) for n, x in pairs]


def judge(seed=0):
    return partial(mean_loss, batches=batches(seed), loss=nn.functional.cross_entropy)


def bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def counting(evaluate, stop_after=None):
    """Return a judge that counts its calls, and stops the scan as Ctrl-C does."""

    def counted(model):
        counted.calls += 1
        if counted.calls == stop_after:
            raise KeyboardInterrupt
        return evaluate(model)

    counted.calls = 0
    return counted


def test_every_row_is_the_loss_with_that_weight_pruned_and_the_others_dense():
    model, evaluate = small(), judge()
    rows = list(scan_sensitivity(model, evaluate, sparsities=[0.5, 0.9]))
    assert [(row.weight, row.sparsity) for row in rows] == [
        ("", 0.0),
        *((name, s) for name in ("0.weight", "4.weight") for s in (0.5, 0.9)),
    ]
    inputs, targets = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    for row in rows:
        fresh = small().eval()
        weights = dict(fresh.named_parameters())
        if row.weight:
            weight = weights[row.weight].detach().numpy().reshape(-1)
            lowest = np.argsort(np.abs(weight), kind="stable")[: round(row.sparsity * weight.size)]
            weight[lowest] = 0
            assert (row.removed, row.size) == (len(lowest), weight.size)
        expected = nn.functional.cross_entropy(fresh(inputs), targets).item()
        assert row.figures["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_model_is_as_before_bit_for_bit_whatever_the_judge_does():
    model = small().train()
    before, state = bits(model), torch.get_rng_state()

    def rough(model):
        model.train()
        loss = mean_loss(model, batches=batches(), loss=nn.functional.cross_entropy)
        return {"loss": loss, "drawn": torch.rand(()).item()}

    rows = list(scan_sensitivity(model, rough, sparsities=[0.5]))
    assert unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert len({row.figures["drawn"] for row in rows}) == 1


@pytest.mark.parametrize("when", [1, 2, 4])
def test_after_an_error_the_model_is_as_before_too(when):
    model = small()
    before = bits(model)
    with pytest.raises(KeyboardInterrupt):
        list(scan_sensitivity(model, counting(judge(), when)))
    assert unchanged(model, before)


def test_a_weight_keeps_even_its_nan_and_its_negative_zero():
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[-0.0, 1.0], [2.0, 3.0]])
    list(scan_sensitivity(model, lambda m: 0.0, sparsities=[0.75]))
    assert torch.signbit(model.weight.data[0, 0])


def test_a_scan_that_was_stopped_goes_on_and_ends_with_the_same_rows(tmp_path):
    path = tmp_path / "scan.jsonl"
    whole = list(scan_sensitivity(small(), judge(), sparsities=[0.3, 0.6, 0.9]))
    with pytest.raises(KeyboardInterrupt):
        list(scan_sensitivity(small(), counting(judge(), 5), sparsities=[0.3, 0.6, 0.9], path=path))
    assert len(read_scan(path)) == 4
    evaluate = counting(judge())
    assert list(scan_sensitivity(small(), evaluate, sparsities=[0.3, 0.6, 0.9], path=path)) == whole
    assert evaluate.calls == 4  # the dense model once more, and what was left
    assert read_scan(path) == whole
    assert [p.name for p in tmp_path.iterdir()] == ["scan.jsonl"]


def test_more_sparsities_are_added_to_a_file_and_another_importance_is_measured_anew(tmp_path):
    path = tmp_path / "scan.jsonl"
    list(scan_sensitivity(small(), judge(), sparsities=[0.5], path=path))
    evaluate = counting(judge())
    assert len(list(scan_sensitivity(small(), evaluate, sparsities=[0.5, 0.75], path=path))) == 5
    assert evaluate.calls == 3
    rows = partial(find_masks, pattern=Channel())
    again = list(scan_sensitivity(small(), judge(), sparsities=[0.5], find=rows, path=path))
    assert again == list(scan_sensitivity(small(), judge(), sparsities=[0.5], find=rows))


def test_a_file_of_another_model_of_other_data_or_of_no_scan_is_refused(tmp_path):
    path = tmp_path / "scan.jsonl"
    list(scan_sensitivity(small(), judge(), sparsities=[0.5], path=path))
    content = path.read_text()
    with pytest.raises(ValueError, match="a model of other weights"):
        list(scan_sensitivity(small(1), judge(), sparsities=[0.5], path=path))
    with pytest.raises(ValueError, match="measured on other data"):
        list(scan_sensitivity(small(), judge(1), sparsities=[0.5], path=path))
    assert path.read_text() == content
    for wrong in ("", "{", "[1]", '{"a": 1}\n', "\x00"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="not the file of a sensitivity scan"):
            list(scan_sensitivity(small(), judge(), path=path))


def test_tied_weights_are_measured_once_and_pruned_at_both_places():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    seen = []
    rows = list(
        scan_sensitivity(
            model, lambda m: seen.append(int(m[1].weight.count_nonzero())) or 0.0, sparsities=[0.67]
        )
    )
    assert [row.weight for row in rows] == ["", "0.weight"]
    assert seen == [9, 3]


def test_mistakes_are_told():
    model = small()
    with pytest.raises(ValueError, match=r"unknown parameter '0\.wieght'; did you mean '0\.weight'"):
        list(scan_sensitivity(model, judge(), weights=["0.wieght"]))
    for wrong in ([], [0.0], [1.0], [0.5, 50]):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
            list(scan_sensitivity(model, judge(), sparsities=wrong))
    with pytest.raises(ValueError, match="figures with 'loss'"):
        list(scan_sensitivity(model, lambda m: {"accuracy": 1.0}))
    with pytest.raises(ValueError, match="the first row must be the dense model's"):
        Sensitivity(())
    with pytest.raises(ValueError, match="there was no batch"):
        mean_loss(model, batches=[], loss=nn.functional.mse_loss)


def test_the_table_predicts_what_was_measured_and_allocates_within_a_bound():
    table = sensitivity(small(), judge())
    for row in table.rows[1:]:
        level = max(
            r.figures["loss"]
            for r in table.rows
            if r.weight in ("", row.weight) and r.sparsity <= row.sparsity
        )
        assert table.predict({row.weight: row.removed / row.size}) == pytest.approx(level)
    bound = table.dense + 0.05
    found = table.allocate(max_loss=bound)
    assert table.predict(found) <= bound + 1e-9
    share = sum(table.sizes[name] * s for name, s in found.items()) / sum(table.sizes.values())
    assert table.predict(table.allocate(sparsity=share)) == pytest.approx(table.predict(found), rel=0.02)
    for wrong in ({}, {"sparsity": 0.5, "max_loss": 1.0}):
        with pytest.raises(ValueError, match="either sparsity or max_loss"):
            table.allocate(**wrong)


def test_a_loss_that_is_not_finite_is_a_sparsity_no_allocation_takes():
    rows = [
        Measured("a", s, int(10 * s), 10, {"loss": loss}) for s, loss in ((0.3, 1.1), (0.6, float("inf")))
    ]
    table = Sensitivity((Measured("", 0.0, 0, 0, {"loss": 1.0}), *rows))
    assert table.allocate(max_loss=9.0) == {"a": 0.3}


def test_the_scope_of_same_sensitivity_prunes_as_the_table_says_and_never_brings_back():
    table = sensitivity(small(), judge())
    weights = {name: w.detach() for name, w in small().named_parameters() if w.ndim > 1}
    scope = partial(same_sensitivity, curves=table.curves)
    before = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    for sparsity in np.linspace(0, 0.95, 20):
        keep = scope({name: w.abs() for name, w in weights.items()}, float(sparsity))
        shares = table.same(float(sparsity))
        for name, kept in keep.items():
            assert int((~kept).sum()) == round(shares[name] * kept.numel())
            assert not (kept & ~before[name]).any()
        before = keep
    masks = find_masks(weights, 0.5, scope=scope)
    apply_masks_(weights, masks)
    total = sum(mask.numel() for mask in masks.values())
    assert abs(sum(int((~mask).sum()) for mask in masks.values()) - 0.5 * total) <= 1
    with pytest.raises(ValueError, match="in curves: unknown weight 'c'"):
        scope({"c": torch.ones(2)}, 0.5)
