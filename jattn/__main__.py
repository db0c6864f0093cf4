"""The command ``jattn``, or ``python -m jattn``: trains, and shows what there is and what came of it."""

import sys

import jattn
from jattn.command.console import end_at_ctrl_c, on_console


def main(arguments: list[str] | None = None) -> int:
    """Runs one of the commands; returns the exit status.

    Args:
      arguments: of the command; None takes those of the process, which Ctrl-C ends from then on.
    """
    if arguments is None:
        end_at_ctrl_c()
        arguments = sys.argv[1:]
    if arguments[:1] == ["train"]:
        from jattn.command.main import main as train

        return train(arguments[1:], "jattn train")
    from jattn.command.commands import answer

    return on_console(lambda: answer(arguments, jattn.__version__))


if __name__ == "__main__":
    sys.exit(main())
