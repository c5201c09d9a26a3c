"""Prepare images for training: crop an ImageFolder into shards (one job each) and index them, or list it as it is."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.base.logs import command
from dsr.data.prepare import index_folder, write_index, write_shard


@command
def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)

    shard = steps.add_parser("shard", help="crop one slice of an ImageFolder into a zip file of PNGs")
    shard.add_argument("--source", type=Path, required=True, help="ImageFolder: one sub-folder of images per class")
    shard.add_argument("--size", type=int, required=True, help="side of the square crop in pixels")
    shard.add_argument("--shard", type=int, required=True, help="number of this slice, from 0")
    shard.add_argument("--shards", type=int, required=True, help="number of slices")
    shard.add_argument("--images", type=int, help="refuse a folder with another number of images")
    shard.add_argument("--classes", type=int, help="refuse a folder with another number of classes")
    shard.add_argument("--output", type=Path, required=True, help="zip file to write")

    index = steps.add_parser("index", help="list where every image lies in the shards")
    index.add_argument("--inputs", type=Path, nargs="+", required=True, help="all shards, beside the index")
    index.add_argument("--images", type=int, help="refuse another number of images")
    index.add_argument("--classes", type=int, help="refuse another number of classes")
    index.add_argument("--output", type=Path, required=True, help="npz file to write")

    folder = steps.add_parser("folder", help="list an ImageFolder whose images are cropped when they are read")
    folder.add_argument("--source", type=Path, required=True, help="ImageFolder: one sub-folder of images per class")
    folder.add_argument("--size", type=int, required=True, help="side of the square crop in pixels")
    folder.add_argument("--images", type=int, help="refuse another number of images")
    folder.add_argument("--classes", type=int, help="refuse another number of classes")
    folder.add_argument("--output", type=Path, required=True, help="npz file to write")

    arguments = parser.parse_args()
    if arguments.step == "folder":
        index_folder(
            arguments.source, arguments.size, arguments.output, images=arguments.images, classes=arguments.classes
        )
    elif arguments.step == "shard":
        write_shard(
            arguments.source,
            arguments.size,
            arguments.shard,
            arguments.shards,
            arguments.output,
            images=arguments.images,
            classes=arguments.classes,
        )
    else:
        write_index(arguments.inputs, arguments.output, images=arguments.images, classes=arguments.classes)


if __name__ == "__main__":
    main()
