import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress import Auto, auto


@pytest.fixture(autouse=True)
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_backward_tells_when_each_gradient_is_there(monkeypatch):
    came = []
    monkeypatch.setattr(Auto, "arrived", lambda _, name: came.append(name))
    model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    model.module[0].bias.requires_grad_(False)
    rule, comm = auto(DistributedDataParallel(model.module), error=0.5)
    model(torch.ones(1, 4)).sum().backward()
    assert sorted(came) == ["0.weight", "1.bias", "1.weight"]
    assert rule.error == 0.5
    assert comm.size == 1


def test_a_setting_that_is_not_known_is_told():
    with pytest.raises(TypeError, match="unexpected keyword argument 'errors'"):
        auto(DistributedDataParallel(nn.Linear(2, 2)), errors=0.5)
