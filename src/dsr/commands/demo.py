"""Make what stands in for a download in the demo: images, an encoder, a decoder, or the evaluator's graph."""

from __future__ import annotations

import argparse
from pathlib import Path

from dsr.base.logs import command
from dsr.config.encoders import Encoder
from dsr.config.specs import AutoencoderSpec


@command
def main() -> None:
    """Make one stand-in. PyTorch and TensorFlow live in different environments, so imports wait for the choice."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)

    digits = kinds.add_parser("digits", help="handwritten digits as ImageFolders `train` and `validation`")
    digits.add_argument("--output", type=Path, required=True, help="folder to write")

    encoder = kinds.add_parser("encoder", help="a tiny SigLIP2 vision tower with planted outliers")
    encoder.add_argument(
        "--spec", required=True, help="Encoder as JSON; its hub names the stand-in, its revision the seed"
    )
    encoder.add_argument("--output", type=Path, required=True, help="Hugging Face folder to write")

    decoder = kinds.add_parser("decoder", help="a small pixel decoder, trained on prepared images")
    decoder.add_argument("--spec", required=True, help="AutoencoderSpec as JSON")
    decoder.add_argument("--encoder", type=Path, required=True, help="Hugging Face folder of the encoder")
    decoder.add_argument("--images", type=Path, required=True, help="index.npz of prepared images")
    decoder.add_argument("--output", type=Path, required=True, help="safetensors file to write")

    graph = kinds.add_parser("graph", help="a digit classifier with the tensor names of the Inception graph")
    graph.add_argument("--images", type=Path, required=True, help="index.npz of prepared images")
    graph.add_argument("--output", type=Path, required=True, help="GraphDef to write")

    arguments = parser.parse_args()
    if arguments.kind == "digits":
        from dsr.demo.digits import write_digits

        write_digits(arguments.output)
    elif arguments.kind == "encoder":
        from dsr.demo.encoder import write_encoder

        write_encoder(Encoder.model_validate_json(arguments.spec), arguments.output)
    elif arguments.kind == "decoder":
        from dsr.demo.decoder import write_decoder

        spec = AutoencoderSpec.model_validate_json(arguments.spec)
        write_decoder(spec, arguments.encoder, arguments.images, arguments.output)
    else:
        from dsr.demo.graph import write_graph

        write_graph(arguments.images, arguments.output)


if __name__ == "__main__":
    main()
