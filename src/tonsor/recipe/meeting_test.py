from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from tonsor.recipe.meeting import agreed


def together(store, size, order):
    with ThreadPoolExecutor(size) as threads:
        waiting = {rank: threads.submit(agreed, store, rank, size) for rank in order}
        return [waiting[rank].result(20) for rank in range(size)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_workers_agree_on_a_name_that_is_new_each_time(order):
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=20))
    names = [together(store, 3, order) for _ in range(3)]  # the store keeps all that was said before
    assert all(len(set(each)) == 1 for each in names)
    assert len({each[0] for each in names}) == 3


def test_one_worker_needs_nobody():
    assert len(agreed(dist.HashStore(), 0, 1)) == 32


def test_those_who_do_not_come_are_named():
    store = dist.HashStore()
    store.set("tonsor.here.1", "a worker that is dead")
    with pytest.raises(RuntimeError, match=r"workers \[1, 2\] of 3 did not come"):
        agreed(store, 0, 3, limit=0.0)
