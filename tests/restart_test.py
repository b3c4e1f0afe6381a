"""A worker killed in the midst of things: torchrun starts all again, and they go on as if nothing was."""

import json
import os
import subprocess
import sys

import pytest

from small import RECIPE, environment, tonsor, write

pytestmark = pytest.mark.slow

MORTAL = """
import os, signal
from torch.nn.functional import cross_entropy

calls, last = [], {"0": 13, "1": 3}  # of the first start and the second

def loss(outputs, targets):
    calls.append(1)
    if os.environ["DIES"] and os.environ["RANK"] == "1":
        if len(calls) == last[os.environ["TORCHELASTIC_RESTART_COUNT"]]:
            os.kill(os.getpid(), signal.SIGKILL)
    return cross_entropy(outputs, targets)
"""

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tonsor.compress import ErrorFeedback, TopK, compress_ddp

dist.init_process_group("gloo")
rank, folder = dist.get_rank(), Path(sys.argv[1])

def train(path, dies):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(10, 40), torch.nn.Tanh(), torch.nn.Linear(40, 4))
    model, rule = DistributedDataParallel(net), ErrorFeedback(TopK(density=0.05))
    compress_ddp(model, rule)
    optimizer, step = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9), 0
    parts = {"model": net, "optimizer": optimizer, "rule": rule}
    if path and path.exists():
        saved = torch.load(path)
        step = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    began = step
    while step < 10:
        if dies and step == 6 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.zero_grad()
        x = torch.randn(8, 10, generator=torch.Generator().manual_seed(100 * step + rank))
        model(x).square().mean().backward()
        optimizer.step()
        step += 1
        if path:
            state = {"step": step, **{name: part.state_dict() for name, part in parts.items()}}
            torch.save(state, path.with_suffix(".new"))
            dist.barrier()
            os.replace(path.with_suffix(".new"), path)
    return began, net.state_dict()

began, weights = train(folder / f"worker-{rank}.pt", rank == 1)
_, whole = train(None, False)
assert all(torch.equal(weights[name], whole[name]) for name in whole)
Path(folder / f"worker-{rank}.began").write_text(str(began))
dist.barrier()
"""

TRAINING = RECIPE.partition("[[prune]]")[0].replace("epochs = 6", "epochs = 1").replace("= 50", "= 60") + (
    'loss = "mortal:loss"\n'
    'compress = { rule = "ErrorFeedback", compressor = { rule = "PowerSGD", rank = 1 } }\n'
    "\n[report]\nrounds = 2\n"
)


def torchrun(folder, *arguments, **extra):
    """Start two workers that may be started again once, and wait for them."""
    run = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", *run, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**environment(), "PYTHONPATH": os.pathsep.join(paths), **extra},
        timeout=150,
    )


def test_workers_go_on_where_others_were_killed_also_more_of_them(tmp_path):
    (tmp_path / "mortal.py").write_text(MORTAL)
    recipe, out = write(tmp_path, TRAINING), ("--out", tmp_path / "run")
    killed = torchrun(tmp_path, "-m", "tonsor", "run", recipe, *out, "--jsonl", DIES="yes")
    assert killed.returncode != 0  # it died twice, and was to be started again once
    steps = [json.loads(line) for line in killed.stdout.splitlines() if '"event": "step"' in line]
    assert [step["step"] for step in steps] == [*range(1, 13), 11, 12]
    for key in ("loss", "norm", "residual", "sent"):  # from the checkpoint of step 10, bit for bit
        assert [step[key] for step in steps[-2:]] == [step[key] for step in steps[-4:-2]]
    assert all(step["factor"] > 5 and step["residual"] > 0 for step in steps)
    kept = sorted(path.name for path in (tmp_path / "run" / "train" / "checkpoints").iterdir())
    assert kept == [f"step-10-worker-{worker}-of-2.safetensors" for worker in (0, 1)]

    three = {"cwd": tmp_path, "env": {**environment(), "DIES": ""}}
    went_on = tonsor("run", recipe, *out, "--workers", 3, **three)
    assert went_on.returncode == 0, went_on.stderr
    assert "train: 2 workers had come to step 10; 3 go on" in went_on.stdout
    receipt = json.loads((tmp_path / "run" / "train" / "receipt.json").read_text())
    assert receipt["workers"] == 3
    assert 'id="wire' in (tmp_path / "run" / "report.html").read_text()


def test_a_script_of_ones_own_goes_on_bit_for_bit(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    # else the workers that are started again may find the addresses of those before them (torch 2.13)
    result = torchrun(tmp_path, "script.py", tmp_path, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    assert result.returncode == 0, result.stderr
    assert [(tmp_path / f"worker-{rank}.began").read_text() for rank in (0, 1)] == ["6", "6"]
