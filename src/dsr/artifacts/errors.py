"""What can go wrong with an artifact. Every message names the artifact or file and says what to do."""

from __future__ import annotations

from dsr.base.errors import UserError

MANIFEST = "src/dsr/artifacts/manifest.yaml"
"""Where messages say that addresses stand."""

OWN_COPY = "give a copy of your own (`artifacts` in config.yaml)"
"""What messages advise where nothing can be downloaded."""


class ArtifactError(UserError):
    """An artifact cannot be provided."""


class ContentError(ArtifactError):
    """The content is not what it should be."""


class TransientError(Exception):
    """A failure that is worth another attempt; never leaves this package.

    Attributes:
        retry_after: seconds that the server asks to wait, if it does.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
