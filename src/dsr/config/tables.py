"""Which rows make which table, besides the main one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dsr.config.base import Positive, Section


class Table(Section):
    """A table of its own, `<results>/tables/{id}.md`: published, measured and the difference, without guidance."""

    title: str
    """Heading."""
    rows: Annotated[tuple[str, ...], Field(min_length=1)]
    """Rows in order, by id. One that only `overlay` has is shown as not run, with the command that runs it; one that
    neither has as not reproduced."""
    epochs: tuple[Positive, ...] | None = None
    """Epochs to show; null is those of `evaluation.epochs` and of the published values."""
    chart: bool = False
    """Compare with the FIDs read off the published chart instead of those of the published tables."""
    overlay: str | None = None
    """Configuration file that has the rows which this one lacks; it becomes part of their command."""
    note: str | None = None
    """What a reader has to know besides."""

    @model_validator(mode="after")
    def _ascending(self) -> Table:
        if self.epochs is not None and (not self.epochs or list(self.epochs) != sorted(set(self.epochs))):
            raise ValueError(f"epochs {list(self.epochs)} must be ascending, without repeats, and not empty")
        if len(set(self.rows)) != len(self.rows):
            raise ValueError(f"rows {list(self.rows)}: none may repeat")
        return self
