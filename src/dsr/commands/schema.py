"""Write the JSON schema of `config.yaml`, for editors and readers."""

from pathlib import Path

from dsr.base.command import command
from dsr.base.files import write_json
from dsr.config.load import Config


@command
def main(output: Path) -> None:
    """Write the schema that the typed configuration generates.

    Args:
        output: schema file to write.
    """
    write_json(output, Config.model_json_schema())


if __name__ == "__main__":
    main()
