"""Find the register neurons of an encoder: on its own, or on top of a first list (recursive)."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.base.distributed import world
from dsr.base.logs import command
from dsr.config.specs import DiscoverSpec
from dsr.data.images import open_images
from dsr.encoder import neuron_lists
from dsr.encoder.autoencoder import load_encoder
from dsr.encoder.discovery import find_register_neurons


@command
def main() -> None:
    """Rank register neurons, and write the best ones (after the first list, if there is one) as a neuron file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, help="DiscoverSpec as JSON")
    parser.add_argument("--encoder", type=Path, required=True, help="Hugging Face folder of the encoder")
    parser.add_argument("--images", type=Path, required=True, help="index.npz of prepared images")
    parser.add_argument(
        "--first", type=Path, nargs="?", help="neuron file of the first discovery (recursive discovery)"
    )
    parser.add_argument("--batch", type=int, default=8, help="images that are traced together")
    parser.add_argument("--output", type=Path, required=True, help="neuron file to write")
    arguments = parser.parse_args()
    spec = DiscoverSpec.model_validate_json(arguments.spec)
    encoder = load_encoder(spec.autoencoder, encoder=arguments.encoder, neurons=arguments.first)
    first = neuron_lists.read(arguments.first) if arguments.first else None
    with world() as process:
        found = find_register_neurons(
            spec, encoder.to(process.device), open_images(arguments.images), first=first, batch=arguments.batch
        )
    neuron_lists.write(arguments.output, found)


if __name__ == "__main__":
    main()
