"""Training over two processes goes on after a cut: shrink the module on every worker, then wrap it anew."""

import pytest
import torch

from processes import results_by_rank
from shrink_workers import refused, trained, work


@pytest.mark.slow
def test_two_workers_end_alike_and_where_one_would(tmp_path):
    found = results_by_rank(work, tmp_path)
    assert found[0][0] == found[1][0]
    alone = trained(0, 1)
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(torch.tensor(found[0][1][name]), parameter.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_wrapped_model_is_refused_with_what_to_do(tmp_path):
    for said in results_by_rank(refused, tmp_path).values():
        assert "shrink its `.module` on every worker, drop the wrapper and wrap the module anew" in said
