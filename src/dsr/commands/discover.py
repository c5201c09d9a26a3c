"""Find the register neurons of an encoder: on its own, or on top of a first list (recursive)."""

from pathlib import Path

from dsr.base.command import command
from dsr.base.distributed import world
from dsr.base.files import write_json
from dsr.config.specs import DiscoverSpec, content
from dsr.data.images import open_images
from dsr.encoder.autoencoder import load_encoder
from dsr.encoder.ttr import find_register_neurons, read_neurons


@command
def main(spec: DiscoverSpec, encoder: Path, images: Path, output: Path, first: Path | None = None) -> None:
    """Rank register neurons, and write the best ones (after the first list, if there is one).

    Args:
        spec: Everything but the images that determines the list.
        encoder: Hugging Face folder of the encoder.
        images: Index of the prepared training images.
        output: Neuron file to write.
        first: Neuron file of the first discovery, for a recursive one.
    """
    network = load_encoder(spec.encoding, encoder=encoder, neurons=first)
    known = read_neurons(first) if first else None
    with world() as process:
        found = find_register_neurons(spec, network.to(process.device), open_images(images), first=known)
    found = found.model_copy(update={"spec": content(spec)})
    write_json(output, found.model_dump(mode="json", exclude_none=True))


if __name__ == "__main__":
    main()
