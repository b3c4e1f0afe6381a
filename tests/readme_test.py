"""Every block of code in the README and the guides is run."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch

from tonsor.recipe.build import check_rules
from tonsor.recipe.schema import Recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))


def blocks(language, pages=PAGES):
    found = []
    for page in pages:
        found += [
            (page.name, text) for text in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
        ]
    return found


def test_the_python_blocks_run_one_after_the_other(capsys):
    torch.manual_seed(0)
    names = _run(blocks("python"))
    printed = capsys.readouterr().out
    assert names["shrunk"].max_difference < 1e-5
    assert "out_features=32" in printed
    assert printed.splitlines()[-1].startswith("80%")


@pytest.mark.filterwarnings(  # Lightning's own
    "ignore:.*isinstance.treespec, LeafSpec.:FutureWarning",
    "ignore:.*does not have many workers:UserWarning",
)
@pytest.mark.parametrize("guide", GUIDES, ids=lambda p: p.name)
def test_the_python_blocks_of_a_guide_run_one_after_the_other(guide, tmp_path, monkeypatch):
    """A guide stands by itself; what it writes lands in the folder it is run in."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    assert _run(blocks("python", [guide]))


def _run(found):
    """Run blocks of code in one namespace, and return it."""
    names = {}
    for page, text in found:
        if "# doc: under torchrun" in text:
            with _one_worker():
                exec(compile(text, page, "exec"), names)
        else:
            exec(compile(text, page, "exec"), names)
    return names


class _one_worker:  # noqa: N801
    """A process group of one, as torchrun would make it."""

    def __enter__(self):
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )

    def __exit__(self, *_):
        torch.distributed.destroy_process_group()


def test_the_recipes_have_no_mistake():
    (found,) = blocks("toml")
    recipe = Recipe.model_validate(tomllib.loads(found[1]))
    check_rules(recipe)
    assert recipe.shrink is not None


def test_every_command_that_is_shown_exists():
    lines = [line.split("#")[0].strip() for _, text in blocks("sh") for line in text.splitlines()]
    targets = [line.split()[1] for line in lines if line.startswith("make ")]
    assert targets
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
    commands = [line for line in lines if "tonsor run" in line]
    assert commands
    for command in commands:
        assert (ROOT / command.split("tonsor run ")[1].split()[0]).exists()


@pytest.mark.parametrize("page", PAGES + GUIDES, ids=lambda p: p.name)
def test_no_link_is_dead(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
