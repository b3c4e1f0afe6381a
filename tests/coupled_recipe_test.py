"""Groups of channels in a recipe keep the limits that it names, through all stages."""

import json

import pytest

from small import RECIPE, tonsor, write


@pytest.mark.slow
def test_a_recipe_shrinks_in_multiples_and_leaves_alone_what_it_names(tmp_path):
    first, _, rest = RECIPE.partition("[[prune]]")
    _, _, rest = rest.partition("[finetune]")
    keys = 'rule = "channel_groups", normalise = "mean", multiple_of = 8, at_least = 8, ignore = ["3"]'
    ours = f"[[prune]]\npattern = {{ {keys} }}\nsparsity = 0.5\nepochs = 1\nevery = 10\n\n[finetune]"
    path = write(tmp_path, first + ours + rest)
    done = tonsor("run", path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "run" / "shrink" / "receipt.json").read_text())["shrink"]
    assert {group["name"]: group["units"] - group["removed"] for group in told["groups"]} == {
        "1.weight": 16,
        "3.weight": 16,
    }
