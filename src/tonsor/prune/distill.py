"""Distillation: what a pruned model learns from the answers of the dense one, beside the targets."""

import torch
from torch import Tensor
from torch.nn import functional


def soft_targets(
    loss: Tensor, outputs: Tensor, taught: Tensor, /, *, temperature: float = 2.0, weight: float = 0.5
) -> Tensor:
    r"""Blend a loss with the divergence from the teacher's softened answers.

    .. math:: (1 - w)\,L + w\,T^2\,\frac1b \sum \mathrm{KL}\big(\sigma(t / T) \,\|\, \sigma(z / T)\big)

    with the logits :math:`z` of the pruned model and :math:`t` of the teacher. :math:`T^2` keeps the
    gradient of the soft part as large as that of the hard one, whatever the temperature.

    Args:
        loss: The loss against the targets, 0-dim.
        outputs: Logits of the model that is trained, `(batch, ..., classes)`.
        taught: Logits of the teacher for the same inputs, same shape; no gradient flows into them.
        temperature: Above 0; a higher one lets the small probabilities count for more.
        weight: Share of the soft part, in [0, 1]; at 0 the loss comes back as it is.

    Returns:
        0-dim.

    Raises:
        ValueError: If a setting is out of range, the shapes differ, or there is only one class.

    Example:
        >>> answers = torch.tensor([[2.0, 0.0]])
        >>> soft_targets(torch.tensor(1.0), answers, answers + 5)   # the same odds: no divergence
        tensor(0.5000)

    References:
        Hinton et al., 2015, "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531
    """
    _check("soft_targets", outputs, taught, weight)
    if temperature <= 0:
        raise ValueError(f"prune.soft_targets: temperature must be above 0; got {temperature}")
    if outputs.shape[-1] == 1:
        raise ValueError(
            f"prune.soft_targets: outputs of shape {tuple(outputs.shape)} have one class, and nothing to"
            " soften; take 'same_outputs'"
        )
    if weight == 0:
        return loss
    student, teacher = (
        functional.log_softmax(_wide(logits.flatten(0, -2)) / temperature, -1)
        for logits in (outputs, taught.detach())
    )
    soft = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - weight) * loss + weight * temperature**2 * soft


def same_outputs(loss: Tensor, outputs: Tensor, taught: Tensor, /, *, weight: float = 0.5) -> Tensor:
    r"""Blend a loss with the mean squared distance from the teacher's outputs, logits or predictions.

    .. math:: (1 - w)\,L + w\,\frac1n \sum (z - t)^2

    Args:
        loss: The loss against the targets, 0-dim.
        outputs: Outputs of the model that is trained, any shape.
        taught: Outputs of the teacher for the same inputs, same shape; no gradient flows into them.
        weight: Share of the distance, in [0, 1]; at 0 the loss comes back as it is.

    Returns:
        0-dim.

    Raises:
        ValueError: If the weight is out of range or the shapes differ.

    Example:
        >>> same_outputs(torch.tensor(1.0), torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]), weight=0.25)
        tensor(1.2500)

    References:
        Ba and Caruana, 2014, "Do Deep Nets Really Need to be Deep?", https://arxiv.org/abs/1312.6184
    """
    _check("same_outputs", outputs, taught, weight)
    if weight == 0:
        return loss
    return (1 - weight) * loss + weight * functional.mse_loss(_wide(outputs), _wide(taught.detach()))


def _check(rule: str, outputs: Tensor, taught: Tensor, weight: float) -> None:
    """Refuse a weight out of range, and outputs that do not belong together."""
    if not 0 <= weight <= 1:
        raise ValueError(
            f"prune.{rule}: weight is the share of the teacher and must lie in [0, 1]; got {weight}"
        )
    if outputs.shape != taught.shape:
        raise ValueError(
            f"prune.{rule}: model and teacher must answer in the same shape; got {tuple(outputs.shape)}"
            f" and {tuple(taught.shape)}; give both the same inputs"
        )


def _wide(outputs: Tensor) -> Tensor:
    """Return the outputs in a type that squares can be summed in."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
