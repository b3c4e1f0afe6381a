"""What may lose channels beside what plain masking is equal for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Freedom:
    """Say what a search for groups may offer.

    Args:
        width: Channels that are normalised together may go; statistics are then taken over those that stay.
        head_dim: The channels inside attention heads may go; the heads stay.

    Example:
        >>> Freedom(width=True).as_json()
        {'width': True}
    """

    width: bool = False
    head_dim: bool = False

    def as_json(self) -> dict[str, bool]:
        """Return what is true of it."""
        return {name: True for name in ("width", "head_dim") if getattr(self, name)}
