"""Text that people read: tables in Markdown, and times."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def pipe_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """Return a Markdown table; columns whose heading is in ``right`` are right-aligned."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    rule = [f"{'-' * (width - 1)}{':' if name in right else '-'}" for name, width in zip(header, widths, strict=True)]
    lines = []
    for row in (cells[0], rule, *cells[1:]):
        padded = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)


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
