"""What every section of the configuration shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dsr.base.errors import UserError

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
"""Part of file names, of shell lines and of keys such as 'row:epoch:guidance'."""


class ConfigurationError(UserError):
    """The configuration is wrong; the message names the key, what was expected and what to do."""


class Section(BaseModel):
    """Base of every section: unknown keys are refused, types are strict, values are immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)
