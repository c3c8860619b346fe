"""Times and durations, as people write them on the command line and as OpenAI's headers have them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from tailrace.errors import ConfigurationError

_DURATION = re.compile(r"(\d{1,6})\s*([mhdwy])")
_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}


def expiry(text: str, now: datetime) -> datetime:
    """When something expires: after ``30d``, ``12h``, ``90m``, ``2w`` or ``1y``, or at a time such as ``2030-01-31``.

    Raises ConfigurationError.
    """
    if found := _DURATION.fullmatch(text.strip().lower()):
        try:
            end = now + int(found[1]) * _UNITS[found[2]]
        except OverflowError:
            raise ConfigurationError(f"--expires {text}: that is too far in the future") from None
    else:
        try:
            end = datetime.fromisoformat(text.strip())
        except ValueError:
            raise ConfigurationError(
                f"--expires {text}: write a duration (90m, 12h, 30d, 2w, 1y) or a time (2030-01-31)"
            ) from None
        end = end.astimezone(UTC) if end.tzinfo is not None else end.replace(tzinfo=UTC)
    if end <= now:
        raise ConfigurationError(f"--expires {text}: that is not in the future")
    return end


def short_duration(seconds: float) -> str:
    """Seconds as OpenAI's headers have them: ``120ms``, ``7s``, ``6m0s``, ``3h25m0s``."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    whole = int(-(-seconds // 1))
    hours, minutes = whole // 3600, whole // 60 % 60
    text = f"{hours}h" if hours else ""
    return text + (f"{minutes}m" if whole >= 60 else "") + f"{whole % 60}s"
