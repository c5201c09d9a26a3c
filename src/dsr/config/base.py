"""What every section of the configuration shares."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of every section: unknown keys are refused, types are strict, values are immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


T = TypeVar("T")


def _each_once(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) != len(values):
        raise ValueError("none may repeat")
    return values


def _ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if list(values) != sorted(values):
        raise ValueError("must be ascending")
    return values


Precision = Literal["fp32", "tf32", "bf16", "fp16"]
"""What factors of matmuls keep of a float32: all; 10 bits of mantissa; 7 bits; 10 bits, but in a short range."""
Alternative = Literal["hub"]
"""Who else publishes an artifact: what it has is the manifest's artifact whose id goes on with `-` and this name."""
Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
"""Part of file names and of shell lines."""
Distinct = Annotated[tuple[T, ...], Field(min_length=1), AfterValidator(_each_once)]
"""At least one, and none twice."""
Ascending = Annotated[Distinct[T], AfterValidator(_ascending)]
"""Distinct, in order."""
Interval = Annotated[tuple[Share, Share], AfterValidator(_ascending)]
"""From a first share to a last one, which may be the same."""
