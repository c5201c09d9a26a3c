"""Arrays that depend on one set of images alone, kept between evaluations under the hash of their origin."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dsr.base.errors import explain
from dsr.data import npz

Arrays = Mapping[str, npt.NDArray[np.float32]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """A folder of npz files; without a folder everything is computed anew. Deleting the folder is always safe."""

    folder: Path | None = None

    def arrays(
        self, kind: str, names: Collection[str], identity: Mapping[str, object], compute: Callable[[], Arrays]
    ) -> Arrays:
        """Return the arrays of an earlier call with the same ``kind`` and ``identity``, or compute and keep them.

        A kept file that is damaged, or does not hold exactly ``names``, is replaced. What cannot be read or written is
        a warning.
        """
        if self.folder is None:
            return compute()
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        path = self.folder / f"{kind}-{digest}.npz"
        try:
            if path.exists():
                kept = {key: npz.read_array(path, key) for key in npz.keys(path)}
                if set(kept) != set(names):
                    raise npz.ArchiveError(f"{path}: holds {', '.join(kept)}, expected {', '.join(names)}")
                _log.info("%s: from %s", kind, path)
                return kept
        except (npz.ArchiveError, OSError) as error:
            _log.warning("%s; %s is computed again", explain(error) or error, kind)
        arrays = compute()
        try:
            npz.write_arrays(path, arrays)
        except OSError as error:
            _log.warning("%s; %s is not kept for the next evaluation", explain(error), kind)
        return arrays
