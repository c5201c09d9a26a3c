"""Small manifests for tests."""

from __future__ import annotations

import contextlib
import resource
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from dsr.artifacts.fetch import fetch
from dsr.artifacts.manifest import ImageCount

GRAPH = {"kind": "graph", "names": ["input", "pool_3"]}


class Thing:
    """The artifact `thing`, alone in its manifest, and where a test fetches it to."""

    def __init__(
        self,
        folder: Path,
        output: str,
        source: dict[str, Any] | None,
        check: dict[str, Any],
        *names: str,
        accept: str | None = None,
        spec: BaseModel | None = None,
    ) -> None:
        self.output, self.lock, self.spec = folder / output, folder / "artifacts.lock", spec
        self.downloads = self.output.parent / ".downloads"
        entry = {"about": "Test", "source": source, "files": list(names), "licence": "Test licence"}
        self.manifest = folder / f"{self.output.name}.yaml"
        self.manifest.write_text(yaml.safe_dump({"artifacts": {"thing": {**entry, "accept": accept, "check": check}}}))

    def fetch(self, local: Path | None = None, spec: BaseModel | None = None) -> Path:
        """Fetch it, or link the user's copy; ``spec`` is what the configuration says about it."""
        text = wanted.model_dump_json() if (wanted := spec or self.spec) else "{}"
        fetch("thing", self.output, self.lock, local=local, spec=text, manifest=self.manifest)
        return self.output

    @property
    def received(self) -> int:
        """Bytes that are kept to go on from."""
        return sum(path.stat().st_size for path in self.downloads.glob("thing-*/*.part"))


TRAIN, VALIDATION = "ILSVRC/Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/val"
SOLUTION = "ImageId,PredictionString\n" + "".join(f"v_{i},n0{i % 2} 1 2 3 4 n09 5 6 7 8\n" for i in range(4))
MEMBERS = {
    "LOC_val_solution.csv": SOLUTION.encode(),
    **{f"{TRAIN}/n0{i % 2}/t_{i}.JPEG": bytes([i]) * 50 for i in range(4)},
    **{f"{VALIDATION}/v_{i}.JPEG": bytes([i]) * 50 for i in range(4)},
}
"""The competition's archive: four images of two classes in each split."""
ARRANGED = {
    split: {f"n0{i % 2}/{letter}_{i}.JPEG": bytes([i]) * 50 for i in (0, 2, 1, 3)}
    for split, letter in (("train", "t"), ("validation", "v"))
}
"""What becomes of it."""
COUNT = ImageCount(images=4, classes=2)


def images_of(folder: Path, split: str) -> Thing:
    """One split of a competition's images."""
    source, accept = {"client": "kaggle", "competition": "imagenet", "split": split}, "https://rules.example"
    return Thing(folder, f"raw/{split}", source, {"kind": "images"}, "imagenet.zip", accept=accept, spec=COUNT)


def zipped(path: Path, members: dict[str, bytes] = MEMBERS) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file by its path below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextlib.contextmanager
def no_file_larger(size: int) -> Iterator[None]:
    """Let every write beyond so many bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def graph(*names: str, padding: int = 0) -> bytes:
    """Return what passes for a graph with nodes of these names."""
    return " ".join(names).encode() + bytes(padding)
