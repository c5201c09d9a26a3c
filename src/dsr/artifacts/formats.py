"""Content checks that need no deep-learning framework: encoder folders, frozen graphs, npz files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dsr.artifacts.checks import ArraysCheck, EncoderCheck, GraphCheck
from dsr.artifacts.errors import ContentError
from dsr.encoder.folders import ENCODER_FILES

Shapes = dict[str, tuple[int, ...]]


def verify_encoder(check: EncoderCheck, folder: Path) -> None:
    """Check architecture and tensor shapes of a Hugging Face folder; the weights themselves are not read.

    Raises:
        ContentError: naming the file and what differs.
    """
    configuration, _ = (_read_object(folder / name) for name in ENCODER_FILES if name.endswith(".json"))
    if configuration.get("model_type") != check.model_type:
        raise ContentError(
            f"{folder / 'config.json'}: model_type is {configuration.get('model_type')!r}, "
            f"expected '{check.model_type}'"
        )
    weights = folder / "model.safetensors"
    found = safetensors_shapes(weights)
    for name, shape in encoder_shapes(check).items():
        if found.get(name) != shape:
            raise ContentError(
                f"{weights}: {name} has shape {found.get(name, 'none: it is missing')}, expected {shape}"
            )


def safetensors_shapes(path: Path) -> Shapes:
    """Return tensor -> shape from a safetensors file's header.

    Raises:
        ContentError: if the file is missing, damaged, or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ContentError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise ContentError(f"{path}: not a safetensors file, or cut off ({error})") from None


def verify_graph(check: GraphCheck, path: Path) -> None:
    """Check that a frozen TensorFlow graph holds the nodes that the evaluator uses.

    Raises:
        ContentError: if it does not, or is not a graph.
    """
    try:
        missing = set(check.nodes).difference(_node_names(path.read_bytes()))
    except (IndexError, UnicodeDecodeError):
        raise ContentError(f"{path}: not a TensorFlow graph, or cut off") from None
    if missing:
        raise ContentError(f"{path}: lacks the nodes {', '.join(sorted(missing))}; it is not the evaluator's graph")


def verify_arrays(check: ArraysCheck, path: Path) -> None:
    """Check the shapes of an npz's arrays; only headers are read, and nothing is unpickled.

    Raises:
        ContentError: naming the array that is missing or of another shape.
    """
    from dsr.data import npz

    try:
        present = npz.keys(path)
        for name, shape in check.shapes.items():
            if name not in present:
                raise ContentError(
                    f"{path}: has no array {name}, but {', '.join(present) or 'none'}; it is another file"
                )
            header = npz.read_header(path, name)
            if header.shape != shape or header.dtype.hasobject:
                raise ContentError(f"{path}: {name} is {header.dtype} {header.shape}, expected numbers {shape}")
    except npz.ArchiveError as error:
        raise ContentError(str(error)) from None


def _read_object(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ContentError(f"{path}: no such file; the folder must hold {', '.join(ENCODER_FILES)}") from None
    except ValueError:
        raise ContentError(f"{path}: not JSON") from None
    if not isinstance(content, dict):
        raise ContentError(f"{path}: expected a JSON object")
    return content


def encoder_shapes(check: EncoderCheck) -> Shapes:
    """Tensors that together fix an encoder's size: patches, positions, last block."""
    width, last, patch = check.width, check.depth - 1, (check.width, 3, check.patch_size, check.patch_size)
    if check.model_type == "siglip":
        return {
            "vision_model.embeddings.patch_embedding.weight": patch,
            "vision_model.embeddings.position_embedding.weight": (check.positions, width),
            f"vision_model.encoder.layers.{last}.mlp.fc1.weight": (check.intermediate_size, width),
        }
    shapes: Shapes = {
        "embeddings.patch_embeddings.projection.weight": patch,
        "embeddings.position_embeddings": (1, check.positions, width),
        f"encoder.layer.{last}.mlp.fc1.weight": (check.intermediate_size, width),
    }
    if check.model_type == "dinov2_with_registers":
        shapes["embeddings.register_tokens"] = (1, 4, width)
    return shapes


def _node_names(graph: bytes) -> Iterator[str]:
    """Names of a serialised GraphDef's nodes: field 1 of every message in field 1."""
    for field, start, end in _fields(graph, 0, len(graph)):
        if field == 1:
            for inner, first, last in _fields(graph, start, end):
                if inner == 1:
                    yield graph[first:last].decode("utf-8")


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, start, end) of a protocol-buffer message's fields.

    Raises:
        IndexError: if the bytes are not such a message.
    """
    while position < end:
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == 2:
            length, position = _varint(data, position)
        elif wire == 0:
            length = _varint(data, position)[1] - position
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise IndexError(position)
        if position + length > end:
            raise IndexError(position)
        yield tag >> 3, position, position + length
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a variable-length integer and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
