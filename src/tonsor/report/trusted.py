"""Say in words how the pruned model stands beside the dense one."""

from collections.abc import Mapping
from typing import Any

from tonsor.report import readable


def sentences(trust: Mapping[str, Any], /) -> list[str]:
    """Tell what a comparison in depth found, a line for each part.

    Args:
        trust: The part `trust` of a `report.json`.

    Returns:
        Sentences; one that says why not, where nothing was measured.

    Example:
        >>> sentences({"why_not": "the targets are not one class a sample"})
        ['Not measured: the targets are not one class a sample.']
        >>> sentences({"calibration": {"dense": 0.012, "masked": 0.05}})
        ['Calibration error (how far confidence lies from accuracy): 5.0 %, dense 1.2 %.']
    """
    if trust.get("why_not"):
        return [f"Not measured: {trust['why_not']}."]
    told = [_classes(trust), _robustness(trust), _explanations(trust), _calibration(trust)]
    return [sentence for sentence in told if sentence]


def _classes(trust: Mapping[str, Any]) -> str:
    """Tell which class lost most, and how many samples were lost and gained."""
    rows = trust.get("classes", [])
    if not rows:
        return ""
    lost, gained = (sum(row[key] for row in rows) for key in ("lost", "gained"))
    return (
        f"Of {readable.count(trust['samples'])} test samples the masked model has lost {lost} that the dense"
        f" one gets right, and gained {gained}. {_worst(rows[0])}"
    )


def _worst(row: Mapping[str, Any]) -> str:
    """Tell of the class that lost most, and whether its samples are enough to be sure."""
    if row["beyond"] >= 0:
        return "No class lost more than the mean."
    pruned, dense = (readable.percent(row[key]["recall"]) for key in ("pruned", "dense"))
    apart = row["pruned"]["high"] < row["dense"]["low"]
    doubt = "" if apart else "; with so few samples their intervals of 95 % overlap"
    return f"Class {row['class']} lost most beside the mean: its recall is {pruned}, dense {dense}{doubt}."


def _robustness(trust: Mapping[str, Any]) -> str:
    """Tell the mean accuracy under corruption and under attack."""
    found = trust.get("robustness")
    if not found:
        return ""
    means = []
    for parts in ([*found["corruptions"].values()], [found["fgsm"]]):
        by_state = [[value for of in parts for value in of[state]] for state in ("masked", "dense")]
        means.append([readable.percent(sum(v) / len(v)) if v else "none" for v in by_state])
    return (
        f"Mean accuracy of {readable.count(trust['robust_samples'])} of them under corruption: {means[0][0]},"
        f" dense {means[0][1]}; under attack: {means[1][0]}, dense {means[1][1]}."
    )


def _explanations(trust: Mapping[str, Any]) -> str:
    """Tell how far the models agree in what their answers rest on."""
    method = trust.get("explanations", {}).get("integrated_gradients", {})
    if not method.get("spearman") or not method.get("overlap"):
        return ""
    ranks, same = readable.digits(method["spearman"]["median"]), readable.percent(method["overlap"]["median"])
    return (
        f"For {readable.count(trust['explained_samples'])} of them integrated gradients were compared: in the"
        f" median their ranks correlate by {ranks}, and {same} of the most important tenth of the inputs are"
        " the same."
    )


def _calibration(trust: Mapping[str, Any]) -> str:
    """Tell how far confidence lies from accuracy."""
    found = trust.get("calibration")
    if not found:
        return ""
    written = [readable.percent(found[state]) for state in ("masked", "dense")]
    return f"Calibration error (how far confidence lies from accuracy): {written[0]}, dense {written[1]}."
