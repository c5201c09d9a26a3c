"""Times as people read them."""

from __future__ import annotations


def duration(hours: float | None) -> str:
    """Hours as '2 d 03:15', '3:15 h', '4 min' or '12 s'; '-' for None."""
    if hours is None:
        return "-"
    minutes = round(hours * 60)
    if minutes < 1:
        return f"{round(hours * 3600)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60}:{minutes % 60:02d} h"
    days, rest = divmod(minutes, 24 * 60)
    return f"{days} d {rest // 60:02d}:{rest % 60:02d}"
