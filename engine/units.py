"""Figures as people read them: three significant digits, the unit apart."""

from __future__ import annotations

import math

NOTHING = "–"


def significant(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits and a thousands separator; an en dash for None."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    if abs(rounded) >= 10 ** (digits - places):
        # 9.996 has become 10.0, which has one place less.
        places -= 1
    return f"{rounded:,.{max(0, places)}f}"


def whole(count: int | None) -> str:
    """A count with a thousands separator."""
    return NOTHING if count is None else f"{count:,}"


def milliseconds(seconds: float | None) -> str:
    return significant(None if seconds is None else seconds * 1e3)


def megabytes(count: int | None) -> str:
    """Decimal megabytes."""
    return significant(None if count is None else count / 1e6)


def percent(share: float | None, places: int = 1) -> str:
    return NOTHING if share is None else f"{share * 100:.{places}f}"


def share_percent(share: float | None) -> str:
    """Whole percent; below one a single significant digit, so that little does not read as nothing."""
    if share is None:
        return NOTHING
    return significant(share * 100, 1) if 0 < share < 0.01 else percent(share, 0)


def between(low: float | None, high: float | None, show: object = significant) -> str:
    """ "low to high" in the form of `show`, or an empty string."""
    if low is None or high is None:
        return ""
    assert callable(show)
    return f"{show(low)} to {show(high)}"


def times(ratio: float | None) -> str:
    """ "2.5×"; an en dash for None."""
    return NOTHING if ratio is None else f"{significant(ratio)}×"


def points(share: float | None) -> str:
    """A difference of shares in percentage points, with its sign; an en dash for None."""
    if share is None:
        return NOTHING
    said = f"{share * 100:+.1f}".replace("-", "−")
    return "0.0" if said[1:] == "0.0" else said


def point_interval(low: float | None, high: float | None) -> str:
    """ "low to high" in percentage points, or an empty string."""
    return between(low, high, points)


def price_per_million(hourly_price: float, samples_per_s: float | None) -> float | None:
    """What a million texts cost on a machine of `hourly_price`, in the same currency."""
    return None if not samples_per_s else hourly_price / 3600 / samples_per_s * 1e6


def duration(seconds: float) -> str:
    """ "45 s", "1 min 40 s", "2 h 5 min"; never less than a second."""
    whole = max(1, math.ceil(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 and whole < 600 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 // 60 else "")
