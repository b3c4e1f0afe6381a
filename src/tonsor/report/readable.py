"""Write figures for people: 12,345; 48.2 KiB; 97.8 %."""

from typing import Any

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


def count(value: float, /) -> str:
    """Write a whole number with separators.

    Example:
        >>> count(12345)
        '12,345'
    """
    return f"{value:,.0f}"


def size(value: float, /) -> str:
    """Write a number of bytes in the unit that leaves three digits.

    Example:
        >>> size(512), size(49357), size(3 * 1024**2)
        ('512 B', '48.2 KiB', '3.00 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{digits(value)} {unit}"


def digits(value: float, /) -> str:
    """Write a measured number with three digits, and separators where it is long.

    Example:
        >>> digits(0.12345), digits(12.345), digits(12345.6), digits(3e-7)
        ('0.123', '12.3', '12,346', '3.0e-07')
    """
    size = abs(value)
    if size and not 1e-3 <= size < 1e9:
        return f"{value:.1e}"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if size < 1 else f"{value:.2f}" if size < 10 else f"{value:.1f}"


def percent(share: float, /) -> str:
    """Write a share in percent.

    Example:
        >>> percent(0.978), percent(-0.25) == MINUS + "25.0 %"
        ('97.8 %', True)
    """
    return f"{share:.1%}".replace("%", " %").replace("-", MINUS)


def milliseconds(value: float, /) -> str:
    """Write a time given in milliseconds.

    Example:
        >>> milliseconds(0.0421), milliseconds(12.34)
        ('0.042 ms', '12.3 ms')
    """
    return f"{digits(value)} ms"


def rate(value: float, /) -> str:
    """Write a number of things a second with three digits.

    Example:
        >>> rate(952.3), rate(31861), rate(1232144)
        ('952', '31.9 k', '1.23 M')
    """
    for unit in ("", " k", " M"):
        if abs(value) < 999.5 or unit == " M":
            break
        value /= 1000
    return f"{digits(value)}{unit}"


def duration(seconds: float, /) -> str:
    """Write a time given in seconds.

    Example:
        >>> duration(1.23), duration(75), duration(3700)
        ('1.23 s', '1 min 15 s', '1 h 1 min')
    """
    if seconds < 60:
        return f"{digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def metric(value: float, name: str, /) -> str:
    """Write the value of a metric: an accuracy in percent, anything else as it is.

    Example:
        >>> metric(0.978, "accuracy"), metric(0.4821, "r2")
        ('97.8 %', '0.482')
    """
    written = percent(value) if name == "accuracy" else digits(value)
    return written.replace("-", MINUS) if "e" not in written else written


def change(value: float, dense: float, /) -> str:
    """Write by what share a value differs from the dense model's; nothing where it does not.

    Example:
        >>> change(110, 100), change(100, 100), change(25, 100) == MINUS + "75.0 %"
        ('+10.0 %', '', True)
    """
    if not dense or value == dense:
        return ""
    written = percent(value / dense - 1)
    return written if written.startswith(MINUS) else f"+{written}"


def shape(value: Any, /) -> str:
    """Write a shape.

    Example:
        >>> shape([64, 3, 3]) == f"64 {TIMES} 3 {TIMES} 3"
        True
    """
    return f" {TIMES} ".join(str(length) for length in value)
