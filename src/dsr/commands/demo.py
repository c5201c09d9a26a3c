"""Make what stands in for a download in the demo: images, an encoder, a decoder, or the evaluator's graph.

PyTorch and TensorFlow live in different environments, so each import waits for its choice.
"""

from __future__ import annotations

from pathlib import Path

from dsr.base.command import command
from dsr.config.encoders import Encoder
from dsr.config.specs import AutoencoderSpec


def digits(output: Path) -> None:
    """Write handwritten digits as ImageFolders ``train`` and ``validation``.

    Args:
        output: Folder to write.
    """
    from dsr.demo.digits import write_digits

    write_digits(output)


def encoder(spec: Encoder, output: Path) -> None:
    """Write a tiny SigLIP2 vision tower with planted outliers.

    Args:
        spec: Its hub names the stand-in, its revision the seed.
        output: Hugging Face folder to write.
    """
    from dsr.demo.encoder import write_encoder

    write_encoder(spec, output)


def decoder(spec: AutoencoderSpec, encoder: Path, images: Path, output: Path) -> None:
    """Train a small pixel decoder on prepared images.

    Args:
        spec: Encoder and decoder.
        encoder: Hugging Face folder of the encoder.
        images: Index of the prepared images.
        output: Safetensors file to write.
    """
    from dsr.demo.decoder import write_decoder

    write_decoder(spec, encoder, images, output)


def graph(images: Path, output: Path) -> None:
    """Train a digit classifier with the tensor names of the Inception graph.

    Args:
        images: Index of the prepared images.
        output: GraphDef to write.
    """
    from dsr.demo.graph import write_graph

    write_graph(images, output)


main = command(digits=digits, encoder=encoder, decoder=decoder, graph=graph)

if __name__ == "__main__":
    main()
