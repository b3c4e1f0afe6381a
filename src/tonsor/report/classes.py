"""Which classes and which samples a pruned classifier has lost, and how sure it is of itself."""

import math
from typing import Any

import torch
from torch import Tensor

Z = 1.959964  # of a normal distribution, 95 % lie within so many standard deviations


def class_changes(dense: Tensor, pruned: Tensor, targets: Tensor, /) -> list[dict[str, Any]]:
    """Compare the recall of two classifiers class by class, the class that lost most first.

    Args:
        dense: Logits of the dense model, `(batch, classes)`.
        pruned: Logits of the pruned model, same shape.
        targets: Classes `(batch,)`.

    Returns:
        For each class among the targets: `class`, `samples`, and for both models (`dense`, `pruned`) the
        `recall` with the bounds `low` and `high` of Wilson's interval at 95 %; `lost` and `gained`, the
        samples that only the dense model, and only the pruned one, gets right; and `beyond`, the change of
        the recall less the change of the accuracy over all samples.

    Example:
        >>> import torch
        >>> targets = torch.tensor([0, 0, 1, 1])
        >>> right, wrong = torch.eye(2)[targets], torch.eye(2)[[0, 0, 1, 0]]
        >>> for row in class_changes(right, wrong, targets):
        ...     print(row["class"], row["pruned"]["recall"], row["lost"], row["beyond"])
        1 0.5 1 -0.25
        0 1.0 0 0.25

    References:
        Hooker et al., 2019, "What Do Compressed Deep Neural Networks Forget?",
        https://arxiv.org/abs/1911.05248
    """
    before, after = (logits.argmax(-1).cpu() == targets.cpu() for logits in (dense, pruned))
    overall = (after.double().mean() - before.double().mean()).item()
    rows = []
    for number in torch.unique(targets.cpu()).tolist():
        here = targets.cpu() == number
        old, new = before[here], after[here]
        count = len(old)
        change = (int(new.sum()) - int(old.sum())) / count
        rows.append(
            {
                "class": int(number),
                "samples": count,
                "dense": _recall(int(old.sum()), count),
                "pruned": _recall(int(new.sum()), count),
                "lost": int((old & ~new).sum()),
                "gained": int((new & ~old).sum()),
                "beyond": change - overall,
            }
        )
    return sorted(rows, key=lambda row: (row["beyond"], row["class"]))


def wilson(right: int, count: int, /, *, z: float = Z) -> tuple[float, float]:
    r"""Return Wilson's interval for a share: sound for few samples and for shares near 0 and 1.

    .. math:: \frac{p + z^2/2n \pm z\sqrt{p(1 - p)/n + z^2/4n^2}}{1 + z^2/n}

    Args:
        right: How many have the property.
        count: How many there are, at least 1.
        z: Standard deviations on either side; 1.96 is 95 %, more is wider.

    Returns:
        Low and high, in [0, 1].

    Example:
        >>> [round(bound, 3) for bound in wilson(8, 10)]
        [0.49, 0.943]

    References:
        Wilson, 1927, "Probable Inference, the Law of Succession, and Statistical Inference",
        https://doi.org/10.1080/01621459.1927.10502953
    """
    share = right / count
    middle = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    whole = 1 + z * z / count
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)


def exemplars(dense: Tensor, pruned: Tensor, targets: Tensor, /) -> list[int]:
    """Return the samples that the dense model gets right and the pruned one wrong, the surest loss first.

    Args:
        dense: Logits of the dense model, `(batch, classes)`.
        pruned: Logits of the pruned model, same shape.
        targets: Classes `(batch,)`.

    Returns:
        Their places, by how much probability the true class has lost, most first.

    Example:
        >>> import torch
        >>> targets = torch.tensor([0, 1, 0])
        >>> exemplars(torch.eye(2)[targets] * 9, torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 5.0]]), targets)
        [2, 0]

    References:
        Hooker et al., 2019, "What Do Compressed Deep Neural Networks Forget?",
        https://arxiv.org/abs/1911.05248
    """
    place = targets.cpu().view(-1, 1)
    before, after = (x.cpu().double().softmax(-1).gather(1, place).flatten() for x in (dense, pruned))
    lost = (dense.argmax(-1).cpu() == targets.cpu()) & (pruned.argmax(-1).cpu() != targets.cpu())
    found: list[int] = lost.nonzero().flatten().tolist()
    drop = (before - after).tolist()
    return sorted(found, key=lambda sample: -drop[sample])


def calibration_error(logits: Tensor, targets: Tensor, /, *, bins: int = 15) -> float:
    r"""Return the expected calibration error: how far confidence lies from accuracy, on average.

    .. math:: \sum_k \frac{n_k}{n} \big|\mathrm{accuracy}_k - \mathrm{confidence}_k\big|

    over bins of equal width of the highest probability.

    Args:
        logits: Shape `(batch, classes)`.
        targets: Classes `(batch,)`.
        bins: How many bins, at least 1; more is finer and noisier.

    Returns:
        In [0, 1]; 0 where, say, of the answers given with 80 % confidence 80 % are right.

    Example:
        >>> import torch
        >>> calibration_error(torch.tensor([[0.0, 50.0], [0.0, 50.0]]), torch.tensor([1, 0]))
        0.5

    References:
        Guo et al., 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599
    """
    sure, answers = logits.cpu().double().softmax(-1).max(-1)
    right = (answers == targets.cpu()).double()
    place = (sure * bins).ceil().clamp(1, bins).long() - 1  # a bin holds its upper bound
    apart = (right - sure).new_zeros(bins).index_add(0, place, right - sure)
    return (apart.abs().sum() / max(1, len(sure))).item()


def _recall(right: int, count: int) -> dict[str, float]:
    """Return a recall with its interval."""
    low, high = wilson(right, count)
    return {"recall": right / count, "low": low, "high": high}
