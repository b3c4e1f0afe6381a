"""How models stand inputs that get worse, by chance and by intent."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tonsor.modes import evaluating
from tonsor.report.corruptions import FOR_IMAGES, FOR_TABLES, STRENGTHS

CHUNK = 500  # samples that go through a model at once
EPSILONS = (0.01, 0.02, 0.05, 0.1, 0.2)  # of the range of the inputs


def robustness(
    models: Mapping[str, nn.Module],
    inputs: Tensor,
    targets: Tensor,
    /,
    *,
    shape: Sequence[int] | None = None,
    epsilons: Sequence[float] = EPSILONS,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the accuracy of classifiers under corruptions of five strengths, and under attack.

    Images suffer noise, blur, contrast and shift; other inputs noise and scaling. Every model sees the same
    corrupted samples; the attack, `fgsm`, is made against each model by itself. The models are left as
    they were.

    Args:
        models: Classifiers by name, on the device of the inputs; each gives logits `(batch, classes)`.
        inputs: Samples, `(batch, ...)`; images where they are `(batch, channels, height, width)`.
        targets: Classes `(batch,)`, int64.
        shape: `(channels, height, width)` of images that come flat.
        epsilons: Sizes of the attack, as shares of the range of the inputs.
        seed: Of noise and directions.

    Returns:
        `clean`: accuracy by model. `corruptions`: by corruption and model the accuracy at strengths 1 to 5.
        `fgsm`: `epsilons`, and by model the accuracy at each.

    Raises:
        ValueError: If the inputs are no floats, there are none, or the shape does not fit them.

    Example:
        >>> inputs, targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> found = robustness({"same": nn.Identity()}, inputs, targets, epsilons=[0.4, 0.6])
        >>> found["clean"], found["fgsm"]["same"], found["corruptions"]["scale"]
        ({'same': 1.0}, [1.0, 0.0], {'same': [1.0, 1.0, 1.0, 1.0, 1.0]})

    References:
        Hendrycks and Dietterich, 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations", https://arxiv.org/abs/1903.12261
        Hooker et al., 2019, "What Do Compressed Deep Neural Networks Forget?",
        https://arxiv.org/abs/1911.05248
    """
    _check(inputs, shape)
    pictures = tuple(shape) if shape is not None else tuple(inputs.shape[1:])
    are_images = len(pictures) == 3
    corruptions: dict[str, dict[str, list[float]]] = {}
    for name, rule in (FOR_IMAGES if are_images else FOR_TABLES).items():
        found: dict[str, list[float]] = {model: [] for model in models}
        for strength in range(1, STRENGTHS + 1):
            seen = inputs.view(-1, *pictures) if are_images else inputs
            worse = rule(seen, strength, seed=seed).view(inputs.shape)
            for model, of in found.items():
                of.append(_accuracy(models[model], worse, targets))
        corruptions[name] = found
    return {
        "clean": {name: _accuracy(model, inputs, targets) for name, model in models.items()},
        "corruptions": corruptions,
        "fgsm": {
            "epsilons": list(epsilons),
            **{name: _attacked(model, inputs, targets, epsilons) for name, model in models.items()},
        },
    }


def fgsm(model: nn.Module, inputs: Tensor, targets: Tensor, /, *, epsilon: float = 0.05) -> Tensor:
    r"""Attack: :math:`x + \epsilon r\,\mathrm{sign}(\nabla_x L)`, a step along the sign of the gradient.

    :math:`r` is the range of the inputs, which they do not leave. L is the cross entropy. Neither the model
    nor the gradients of its parameters are changed.

    Args:
        model: A classifier that gives logits; it works in eval mode meanwhile.
        inputs: Samples, `(batch, ...)`, floats.
        targets: Classes `(batch,)`, int64.
        epsilon: Step as a share of the range, at least 0; more is a stronger attack.

    Returns:
        Like the inputs.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> fgsm(nn.Identity(), x, torch.tensor([0, 1]), epsilon=0.25)
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])

    References:
        Goodfellow et al., 2015, "Explaining and Harnessing Adversarial Examples",
        https://arxiv.org/abs/1412.6572
    """
    low, high = inputs.min(), inputs.max()
    parts = zip(torch.split(inputs, CHUNK), torch.split(targets, CHUNK), strict=True)
    signs = torch.cat([_signs(model, x, y) for x, y in parts])
    return (inputs + epsilon * (high - low) * signs).clamp(low, high)


def _signs(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the sign of the gradient of the loss with respect to each input."""
    with evaluating(model), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        asked = inputs.detach().clone().requires_grad_()
        loss = functional.cross_entropy(model(asked), targets)
        return torch.autograd.grad(loss, asked)[0].sign()


def _attacked(model: nn.Module, inputs: Tensor, targets: Tensor, epsilons: Sequence[float]) -> list[float]:
    """Return the accuracy under each size of the attack."""
    return [_accuracy(model, fgsm(model, inputs, targets, epsilon=e), targets) for e in epsilons]


def _accuracy(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the share of samples whose class has the highest logit."""
    with evaluating(model):
        answers = torch.cat([model(part).argmax(-1) for part in torch.split(inputs, CHUNK)])
    return (answers == targets).double().mean().item()


def _check(inputs: Tensor, shape: Sequence[int] | None) -> None:
    """Refuse inputs that cannot be made worse, and a shape that is not theirs."""
    if not inputs.is_floating_point() or not len(inputs):
        raise ValueError(
            f"report.robustness: inputs must be floats, at least one sample; got {inputs.dtype} of shape"
            f" {tuple(inputs.shape)}"
        )
    if shape is not None and (len(shape) != 3 or torch.Size(shape).numel() != inputs[0].numel()):
        raise ValueError(
            f"report.robustness: shape must be (channels, height, width) of {inputs[0].numel()} values;"
            f" got {tuple(shape)}"
        )
