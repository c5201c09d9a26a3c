"""What can go wrong with an artifact. Every message names the artifact or file and says what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from dsr.base.errors import UserError

MANIFEST = "src/dsr/artifacts/manifest.yaml"
"""Where messages say that addresses stand."""

OWN_COPY = "give a copy of your own (`artifacts` in config.yaml)"
"""What messages advise where nothing can be downloaded."""


class ArtifactError(UserError):
    """An artifact cannot be provided."""


class RefusedError(ArtifactError):
    """The source does not hand the file out: no access, licence not accepted, quota used up, or it is gone."""


class TransferError(ArtifactError):
    """The transfer failed and further attempts were not worthwhile; what has been received is kept."""


class DiskFullError(ArtifactError):
    """The disk, the quota or the allowed file size is exhausted; what has been written is kept."""


class ContentError(ArtifactError):
    """The content is not what it should be."""


class LockError(ContentError):
    """The content differs from the one recorded at the first download."""


class TransientError(Exception):
    """A failure that is worth another attempt; never leaves this package.

    Attributes:
        retry_after: seconds that the server asks to wait, if it does.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@contextlib.contextmanager
def advising(advice: str) -> Iterator[None]:
    """End messages about wrong content with what to do about it, which depends on whose it is.

    Raises:
        ContentError: the one that was raised, with ``advice``.
    """
    try:
        yield
    except ContentError as error:
        raise type(error)(f"{error}. {advice}") from error
