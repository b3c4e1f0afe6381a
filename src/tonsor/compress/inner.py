"""The rule inside a wrapper: its state, and the settings of the rule at the very inside."""

from typing import Any

from tonsor.compress.protocol import Compressor


def state_of(rule: Compressor, /) -> dict[str, Any]:
    """Return the state of a rule; one without memory is a plain function and has none.

    Args:
        rule: A rule or wrapper.

    Returns:
        Its `state_dict()`, or an empty dict.

    Example:
        >>> from tonsor.compress import dense
        >>> state_of(dense)
        {}
    """
    state: dict[str, Any] = getattr(rule, "state_dict", dict)()
    return state


def load_state(rule: Compressor, state: dict[str, Any], /) -> None:
    """Give a rule the state that `state_of` returned.

    Args:
        rule: A rule or wrapper.
        state: What was saved of one that was made alike.

    Example:
        >>> from tonsor.compress import TopK
        >>> load_state(TopK(), {})
    """
    getattr(rule, "load_state_dict", dict)(state)


def holder_of(rule: Compressor, setting: str, /) -> Any:
    """Return the rule that has a setting: this one, or one that it wraps.

    Args:
        rule: A rule or wrapper.
        setting: Name of an attribute, as "density".

    Returns:
        The outermost rule that has it, or None.

    Example:
        >>> from tonsor.compress import ErrorFeedback, TopK
        >>> holder_of(ErrorFeedback(TopK(density=0.5)), "density")
        TopK(density=0.5)
    """
    found: Any = rule
    while found is not None and not hasattr(found, setting):
        found = getattr(found, "compressor", None)
    return found
