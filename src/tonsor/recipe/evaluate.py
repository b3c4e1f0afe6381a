"""Judge a model on a whole data set."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tonsor.modes import call, evaluating
from tonsor.recipe.batches import fetch, place

CHUNK = 1000  # samples that go through the model at once


def evaluate(
    model: nn.Module,
    dataset: Dataset[Any],
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    metric: Callable[[Tensor, Tensor], float],
) -> dict[str, float]:
    """Return loss and metric over a data set; the model is left as it was.

    Args:
        model: The model, on any device.
        dataset: Map-style.
        loss: Gives the mean over its batch.
        metric: Called once, with all outputs and targets.

    Returns:
        `loss` and `accuracy`, the value of the metric whatever its name.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> from tonsor.recipe.losses import mse, r2
        >>> data = TensorDataset(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 3.0]))
        >>> evaluate(nn.Identity(), data, loss=mse, metric=r2)
        {'loss': 0.0, 'accuracy': 1.0}
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    count = len(dataset)  # type: ignore[arg-type]  # map-style datasets have a length
    outputs, targets, total = [], [], 0.0
    with evaluating(model):
        for indices in torch.split(torch.arange(count), CHUNK):
            inputs, target = fetch(dataset, indices)
            output = call(model, place(inputs, device)).cpu()
            total += loss(output, target).item() * len(indices)
            outputs.append(output)
            targets.append(target)
    return {"loss": total / count, "accuracy": metric(torch.cat(outputs), torch.cat(targets))}
