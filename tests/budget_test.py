"""A pass of a recipe that is told what may be left, not how much goes."""

import json

import pytest

from small import RECIPE, tonsor, write
from tonsor.files import read_tensors

HEAD, TAIL = RECIPE.split("[[prune]]")[0], RECIPE[RECIPE.index("[finetune]") :]


def run(folder, passes):
    """Run the small recipe with other passes and return its report."""
    out = folder / "run"
    result = tonsor("run", write(folder, HEAD + passes + TAIL), "--out", out, "--quiet")
    assert result.returncode == 0, result.stderr
    return json.loads((out / "report.json").read_text()), out


@pytest.mark.slow
def test_half_the_multiplications_are_half_in_the_model_that_was_shrunk(tmp_path):
    pruning = """
[[prune]]
pattern = "channel_groups"
budget = { rule = "macs", share = 0.5 }
epochs = 1
every = 10
"""
    report, _ = run(tmp_path, pruning)
    dense, small = report["models"]["dense"]["macs"], report["models"]["shrunk"]["macs"]
    assert dense == 64 * 32 + 32 * 16 + 16 * 10
    assert 0.4 * dense < small <= 0.5 * dense


@pytest.mark.slow
def test_a_limit_in_bytes_holds_at_the_end_of_the_pass(tmp_path):
    pruning = """
[[prune]]
budget = { rule = "bytes_on_disk", bits = 8, limit = 1000 }
epochs = 1
every = 10
"""
    _, out = run(tmp_path, pruning)
    masks, _ = read_tensors(next((out / "prune").glob("masks*")))
    sizes = [(mask.numel(), int(mask.sum()), len(mask)) for mask in masks.values()]
    smallest = [min(n, -(-n // 8) + kept, 4 * (rows + 1) + 2 * kept) for n, kept, rows in sizes]
    assert 900 < sum(smallest) <= 1000
