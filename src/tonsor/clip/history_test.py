import json
import math
import xml.etree.ElementTree as ET

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tonsor.clip import History
from tonsor.clip.history_rows import Ring


def filled(norms, **settings):
    history = History(**settings)
    for step, norm in enumerate(norms, 1):
        history.add(torch.tensor(float(norm)), step=step, after=torch.tensor(min(float(norm), 2.0)))
    return history


@settings(max_examples=50)
@given(count=st.integers(0, 170), capacity=st.integers(1, 90), last=st.integers(0, 120))
def test_a_ring_is_the_end_of_the_list(count, capacity, last):
    ring = Ring(capacity)
    for i in range(count):
        ring.put(torch.tensor([float(i), -float(i)]))
    kept = [float(i) for i in range(count)][-capacity:]
    expected = kept[len(kept) - min(last, len(kept)) :]
    assert ring.last(last)[:, 0].tolist() == expected if count else len(ring.last(last)) == 0
    copy = Ring(capacity)
    copy.fill(ring.last(capacity).clone(), ring.seen)
    for one in (ring, copy):
        one.put(torch.tensor([7.0, 7.0]))
    assert torch.equal(ring.last(capacity), copy.last(capacity))
    assert ring.seen == copy.seen == count + 1


def test_a_row_says_what_was_done():
    history = History()
    history.add(torch.tensor(4.0), step=1, after=torch.tensor(2.0), threshold=torch.tensor(2.0))
    history.add(torch.tensor(1.0), step=2, after=torch.tensor(1.0), threshold=torch.tensor(2.0))
    history.add(torch.tensor(3.0), step=3, threshold=torch.tensor(2.0))
    history.add(torch.tensor(3.0), step=4)
    flags = torch.tensor(True), torch.tensor(True)
    history.add(torch.tensor(math.nan), step=5, flags=flags)
    rows = history.rows()
    assert [row["clipped"] for row in rows] == [True, False, True, None, None]
    assert [row["nonfinite"] for row in rows] == [row["skipped"] for row in rows] == [False] * 4 + [True]
    assert rows[0] == {
        "number": 1,
        "step": 1,
        "before": 4.0,
        "after": 2.0,
        "threshold": 2.0,
        "clipped": True,
        "nonfinite": False,
        "skipped": False,
    }
    assert rows[4]["before"] is None


def test_the_memory_is_bounded():
    history = filled(range(1, 1001), capacity=10)
    assert len(history) == 10
    assert history.norms.tolist() == list(range(991, 1001))
    assert [row["number"] for row in history.rows(3)] == [998, 999, 1000]
    assert history._ring._rows.numel() == 10 * 5


def spiking(history, bad=100.0):
    """Add twenty calm steps and one in which row 2 of the second tensor explodes."""
    for step in range(1, 22):
        grads = {"quiet": torch.ones(3), "loud": torch.ones(4, 5)}
        if step == 21:
            grads["loud"][2, 1] = bad
        history.look(lambda given=grads: given)
        norm = torch.cat([grad.flatten() for grad in grads.values()]).norm()
        history.add(norm, step=step, named=lambda given=grads: given)
    return history


@pytest.mark.parametrize("tensors", [True, False])
@pytest.mark.parametrize("bad", [100.0, math.nan, math.inf, -math.inf])
def test_the_tensor_and_the_row_that_exploded_are_named(tensors, bad):
    (spike,) = spiking(History(tensors=tensors), bad).spikes
    assert spike.step == 21
    assert (spike.tensor, spike.row) == ("loud", 2)
    assert spike.usual == pytest.approx(math.sqrt(23))
    assert "most of it in loud, row 2" in str(spike)


def test_norms_of_single_tensors_are_kept_on_request():
    norms = spiking(History(tensors=True, capacity=5)).tensor_norms
    assert norms["quiet"].tolist() == pytest.approx([math.sqrt(3)] * 5)
    assert norms["loud"].tolist() == pytest.approx([math.sqrt(20)] * 4 + [math.sqrt(19 + 100**2)])
    assert spiking(History()).tensor_norms == {}


def test_a_gradient_that_is_missing_or_scaled_or_sparse_is_measured_right():
    history = History(tensors=True)
    sparse = torch.sparse_coo_tensor(
        [[3, 3, 1]], [[1.0, 2.0], [2.0, 2.0], [1.0, 0.0]], (6, 2), check_invariants=True
    )
    for grads in ({"a": torch.tensor(8.0), "b": sparse}, {"a": torch.tensor(4.0)}):
        history.look(lambda given=grads: given, scale=torch.tensor(2.0))
        history.add(torch.tensor(1.0), step=1)
    assert history.tensor_norms["a"].tolist() == [4, 2]
    assert history.tensor_norms["b"][0] == pytest.approx(math.sqrt(26) / 2)
    assert history.tensor_norms["b"][1].isnan()
    assert history._each.last(2)[0, 1, 1] == 3


def test_calm_steps_and_the_first_ones_are_no_spikes():
    assert filled([1.0, 100.0, *[1.0] * 30, 9.9]).spikes == []
    assert [spike.step for spike in filled([*[1.0] * 30, 10.1, 1.0, 50.0]).spikes] == [31, 33]


def test_every_row_is_in_the_file_at_once(tmp_path):
    path = tmp_path / "folder" / "norms.jsonl"
    history = History(path=path, capacity=3)
    for step, norm in enumerate([1.0, math.inf, 3.0, 4.0, 5.0], 1):
        history.add(torch.tensor(norm), step=step, after=torch.tensor(1.0))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(1, step + 1))
    assert lines[1]["before"] is None and lines[1]["nonfinite"]
    assert lines[1]["spike"]["step"] == 2
    assert lines[4]["before"] == 5
    again = History.read(path)
    assert again.norms.nan_to_num().tolist() == [1, 0, 3, 4, 5]
    assert [spike.step for spike in again.spikes] == [2]


def test_a_resumed_run_goes_on_where_it_was(tmp_path):
    path = tmp_path / "norms.jsonl"
    history = spiking(History(path=path))
    state = history.state_dict()
    history.add(torch.tensor(7.0), step=22)
    resumed = History(path=path)
    resumed.load_state_dict(state)
    resumed.add(torch.tensor(8.0), step=22)
    assert resumed.norms[-2:].tolist() == [*state["rows"][-1:, 0].tolist(), 8]
    assert resumed.spikes == spiking(History()).spikes
    assert [row["before"] for row in History.read(path).rows(1)] == [8]  # the later line counts


def test_a_line_cut_off_by_a_kill_is_left_out_and_a_broken_one_is_told(tmp_path):
    path = tmp_path / "norms.jsonl"
    filled([1, 2], path=path)
    whole = path.read_text()
    path.write_text(whole + '{"number": 3, "st')
    assert len(History.read(path)) == 2
    path.write_text("broken\n" + whole)
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        History.read(path)


def test_the_plot_is_an_svg_that_names_what_it_shows(tmp_path):
    history = spiking(History())
    history.add(torch.tensor(math.inf), step=22, after=torch.tensor(1.0), threshold=torch.tensor(1.0))
    text = history.plot(tmp_path / "norms.svg").read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    assert all(word in text for word in ("before", "threshold", "spike", "not finite", "gradient norm"))
    assert history.plot(tmp_path / "again.svg").read_text() == text
    assert History().plot(tmp_path / "empty.svg").exists()


@pytest.mark.parametrize("given", [{"capacity": 0}, {"spike": 1.0}, {"spike": math.nan}])
def test_settings_out_of_range_are_refused(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} must be"):
        History(**given)
