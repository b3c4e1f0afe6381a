"""`tonsor netbench`, as a user runs it."""

import re

import pytest

from small import tonsor
from tonsor.recipe.crew import Crew
from tonsor.recipe.netbench import Question, netbench, sizes_of


@pytest.mark.slow
def test_two_workers_time_each_method_and_one_table_is_printed():
    options = ("--workers", 2, "--model", "tonsor.examples.models:lenet_300_100", "--shape", "4x784")
    result = tonsor("netbench", *options, "--steps", 2, "--method", "TopK")
    assert result.returncode == 0, result.stderr
    assert re.search(r"a mean takes [\d.e-]+ ms and [\d.e-]+ ms a MB; a gather takes", result.stdout)
    rows = dict(re.findall(r"^ (plain DDP|TopK) +(.*)$", result.stdout, re.MULTILINE))
    assert list(rows) == ["plain DDP", "TopK"]
    assert rows["plain DDP"].split()[2:4] == ["1.066", "1"]
    assert float(rows["TopK"].split()[3]) > 30


def test_mistakes_are_told_before_anything_is_measured():
    two = Crew(0, 2)
    with pytest.raises(ValueError, match="unknown method 'TopC'; did you mean 'TopK'"):
        netbench(two, Question(methods=["TopC"]), print)
    with pytest.raises(ValueError, match=r"steps=0, shape=\[16, 512\]"):
        netbench(two, Question(steps=0), print)
    with pytest.raises(ValueError, match=r"unknown name in torch\.nn 'Lineer'"):
        netbench(two, Question(model="torch.nn:Lineer"), print)
    with pytest.raises(ValueError, match="shape must be numbers, as 16,3,32,32; got '16,big'"):
        sizes_of("16,big")
