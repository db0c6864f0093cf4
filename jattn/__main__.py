"""The command ``jattn``, or ``python -m jattn``: trains, and shows what there is and what came of it."""

import sys

import jattn
from jattn.command.console import on_console


def main(arguments: list[str] | None = None) -> int:
    """Runs one of the commands; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["train"]:
        from jattn.command.main import main as train

        return train(arguments[1:], "jattn train")
    from jattn.command.commands import answer

    return on_console(lambda: answer(arguments, jattn.__version__))


if __name__ == "__main__":
    sys.exit(main())
