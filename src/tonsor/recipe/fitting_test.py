import copy
import json

import pytest
import torch
from torch import nn

from tonsor import pack
from tonsor.examples import digits
from tonsor.recipe.context import Interrupted
from tonsor.recipe.fitting import fit_budget
from tonsor.recipe.fitting_how import How, divergence
from tonsor.recipe.packed_files import unpack_file
from tonsor.shrink import load
from tonsor.tensors import fingerprint

DATA = digits()
QUICK = {"steps": 4, "shares": (1.0, 0.4), "most": 6, "apart": divergence, "choices": (2, 4, 8)}


def network():
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 10))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = DATA["train"].tensors
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


class Accuracy:
    """Measures on the test images, and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model):
        self.calls += 1
        x, y = DATA["test"].tensors
        return float((model(x).argmax(1) == y).double().mean())


BATCHES = [(x, None) for x in DATA["train"].tensors[0].split(200)]
EXAMPLE = DATA["test"].tensors[0][:8]


def fitted(model, folder, evaluate=None, how=QUICK, **limits):
    return fit_budget(model, EXAMPLE, evaluate or Accuracy(), BATCHES, folder, how=How(**how), **limits)


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    """Return the folder of a search for 2000 bytes, and what it came to."""
    folder = tmp_path_factory.mktemp("small")
    before = fingerprint(model.state_dict())
    found = fitted(model, folder, max_bytes=2000)
    assert fingerprint(model.state_dict()) == before
    return folder, found


def test_the_file_keeps_the_budget_and_holds_the_model_that_was_judged(small, model):
    folder, found = small
    pick = found.figures["pick"]
    assert found.path == folder / "picked.tonsor"
    assert found.path.stat().st_size == pick["bytes"] <= 2000
    unpacked = pack.unpack(pack.load(found.path))
    assert fingerprint(unpacked) == fingerprint(found.model.state_dict())
    assert Accuracy()(found.model) == pick["metric"]
    assert pick["fall"] == pytest.approx(100 * (Accuracy()(model) - pick["metric"]))
    assert pick["fall"] < 8


def test_the_pick_is_the_best_of_those_that_fit_and_stands_on_the_frontier(small):
    figures = small[1].figures
    fits = [row for row in figures["rows"] if row["bytes"] <= 2000]
    assert figures["pick"]["metric"] == max(row["metric"] for row in fits)
    assert figures["pick"]["name"] in figures["frontier"]
    assert {row["share"] for row in figures["rows"]} >= {1.0, 0.4}
    written = json.loads((small[0] / "fit.json").read_text())
    assert written["pick"]["bytes"] == figures["pick"]["bytes"]
    assert "picked: metric" in (small[0] / "frontier.svg").read_text()


def test_every_file_of_a_cut_model_gives_it_back(small, tmp_path):
    for row in small[1].figures["rows"]:
        file = small[0] / "candidates" / f"{row['name']}.tonsor"
        assert file.stat().st_size == row["bytes"]
        files = unpack_file(file, tmp_path / "a.safetensors")
        if row["share"] < 1:
            assert len(files) == 2
            assert Accuracy()(load(network(), files[0])) == row["metric"]


def test_a_search_that_is_done_measures_nothing_again(small, model):
    evaluate = Accuracy()
    again = fitted(model, small[0], evaluate, max_bytes=2000)
    assert evaluate.calls == 0
    assert again.figures == small[1].figures


def test_a_search_that_is_stopped_goes_on_to_the_same_pick(small, model, tmp_path):
    count, told = Accuracy(), []
    how = QUICK | {"tell": told.append, "stop": lambda: count.calls == 4}
    with pytest.raises(Interrupted, match="stopped after 3 candidates"):
        fitted(model, tmp_path, count, how, max_bytes=2000)
    assert [event["done"] for event in told if event["event"] == "fit"] == [1, 2, 3]
    assert not (tmp_path / "picked.tonsor").exists()
    (tmp_path / "candidates" / "half.tonsor.1.partial").write_bytes(b"half written")
    rest = Accuracy()
    found = fitted(model, tmp_path, rest, max_bytes=2000)
    assert not list(tmp_path.rglob("*.partial"))
    assert rest.calls == len(small[1].figures["rows"]) - 3
    assert found.path.read_bytes() == small[1].path.read_bytes()


def test_rows_of_other_weights_or_data_are_refused(small, model):
    other = copy.deepcopy(model)
    other[0].bias.data.add_(1.0)
    with pytest.raises(ValueError, match="is of other weights; choose another folder"):
        fitted(other, small[0], max_bytes=2000)
    with pytest.raises(ValueError, match="is of other calibration"):
        fit_budget(model, EXAMPLE, Accuracy(), BATCHES[:1], small[0], how=How(**QUICK), max_bytes=2000)


def test_a_budget_out_of_reach_names_the_nearest_and_keeps_the_rows(small, model):
    rows = len(list((small[0] / "candidates").glob("cut-*.json")))
    with pytest.raises(ValueError, match=r"no candidate keeps the budget .*The nearest: .*--tune"):
        fitted(model, small[0], how=QUICK | {"most": 2}, max_bytes=1300, max_fall=0.0)
    assert len(list((small[0] / "candidates").glob("cut-*.json"))) == rows + 2
    with pytest.raises(ValueError, match="foreseen to keep the budget"):
        fitted(model, small[0].parent / "new", how=QUICK | {"most": 2}, max_bytes=300)


def test_the_smallest_file_is_picked_where_the_fall_is_limited(model, tmp_path):
    found = fitted(model, tmp_path, how=QUICK | {"most": 4, "shares": (1.0,)}, max_fall=2.0).figures
    fits = [row["bytes"] for row in found["rows"] if row["fall"] <= 2.0]
    assert found["pick"]["bytes"] == min(fits) < found["dense"]["bytes"] / 8


def test_a_limit_in_time_is_kept_by_what_was_measured(model, tmp_path):
    how = QUICK | {"most": 3, "steps": 0, "batch": 16}
    found = fitted(model, tmp_path, how=how, latency_ms=1000.0).figures
    assert found["pick"]["latency_ms"] <= 1000.0
    assert found["pick"]["metric"] == max(row["metric"] for row in found["rows"])
    assert found["rows"][0]["sparsity"] == 0.0
    assert set(found["rows"][0]["bits"].values()) == {8}
    with pytest.raises(ValueError, match=r"no candidate keeps the budget .* ms of 1e-09.*; allow more$"):
        fitted(model, tmp_path, how=how, latency_ms=1e-9)


def test_the_pick_is_trained_with_its_zeros_held(small, model):
    seen = []

    def tune(candidate, masks):
        seen.append({name: float(mask.float().mean()) for name, mask in masks.items()})
        x, y = DATA["train"].tensors
        optimizer = torch.optim.Adam(candidate.parameters(), lr=3e-3)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(candidate(x), y).backward()
            optimizer.step()

    found = fitted(model, small[0], how=QUICK | {"tune": tune, "tuned": "mine"}, max_bytes=2000)
    tuned = [row for row in found.figures["rows"] if row["name"].endswith("mine")]
    assert len(tuned) == len(seen) >= 1
    assert found.figures["pick"]["metric"] >= small[1].figures["pick"]["metric"]
    assert found.path.stat().st_size <= 2000
    first = small[1].figures["pick"]
    assert tuned[0]["sparsity"] == first["sparsity"]
    assert tuned[0]["nonzeros"] <= first["nonzeros"] + 5
