"""One process at a time: two jobs that need the same download share it instead of spoiling it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the advisory lock ``path``, waiting for another process that has it; it ends with the process.

    The empty file stays: whoever removed it would let a waiting process and a new one in together.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("Waiting for another process that holds %s", path)
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning("%s: this file system has no locks; run one fetch at a time (--cores 1)", path)
        yield
