"""The commands besides training: their arguments, and one line on a mistake in them."""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jattn.command.console import raise_at_ctrl_c
from jattn.command.listing import config_lines, draw_report, list_configs, list_tasks, show_config, show_task
from jattn.drawing.plain import message

COMMANDS = {
    "train": "train from a config, as in: jattn train reverse",
    "predict": "let a run's model answer, as in: jattn predict runs/reverse '3 1 4'",
    "report": "draw the report of a run or a sweep again, from its folder",
    "tasks": "list the tasks, or show examples of one with the oracle drawn",
    "configs": "list the configs that come with jattn, or print one",
    "see": "look at every filter of a published model on a text or a picture: writes a page",
    "explain": "say what attention will do for a shape, as in: jattn explain 4096 --heads 8",
}


OTHER_COMMANDS = {
    "train": "run fit start launch resume learn",
    "predict": "eval evaluate test infer generate ask sample",
    "report": "show plot draw render view figures",
    "tasks": "datasets examples",
    "configs": "list ls experiments config",
    "see": "visualize visualise inspect",
    "explain": "plan memory bench",
    "--version": "-V -v version",
    "--help": "-? h usage",
}
"""The words that others use for a command."""

MOST = 2**24
"""The largest number that is explained: a plan of longer sequences takes long to make."""


class Parser(argparse.ArgumentParser):
    """Reads arguments; answers a mistake in a line."""

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"invalid int value: (.*)", r"expected an integer, got \1", message)
        message = message.removeprefix("argument ").replace("the following arguments are required: ", "expected ")
        if choice := re.fullmatch(r"(.*)invalid choice: (.*) \(choose from (.*)\)", message):
            message = f"{choice[1]}expected one of {choice[3].replace(chr(39), '')}, got {choice[2]}"
        message = re.sub(r"unrecognized arguments: (?!--)", "expected no more arguments, got ", message)
        for word in re.findall(r"unrecognized arguments: (--\S+)", message):
            known = {option.lstrip("-"): option for option in self._option_string_actions}
            near = [known[name] for name in difflib.get_close_matches(word.lstrip("-"), known, n=1, cutoff=0.75)]
            message = f"{word}: unknown option" + (f"; did you mean {near[0]}?" if near else "")
        raise SystemExit(complain(f"{self.prog}: {message}; see {self.prog} --help"))

    def check_least(self, options: argparse.Namespace, **least: int) -> None:
        """Answers a number that is below the least one; None, which says nothing, is none."""
        for name, number in least.items():
            given = getattr(options, name)
            if given is not None and given < number:
                self.error(f"{name}: expected at least {number}, got {given}")


def complain(text: str) -> int:
    """Says what is wrong; returns the exit status."""
    print(message(text), file=sys.stderr)
    return 2


def answer(arguments: Sequence[str], version: str) -> int:
    """Does one of the commands; returns the exit status."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help"):
        print(help_of_all())
        return 0
    if name == "--version":
        print(f"jattn {version}")
        return 0
    if name.startswith("-") and rest:
        from jattn.command.order import check_order
        from jattn.training.reading import ConfigError

        try:
            check_order(arguments, "jattn train")
        except ConfigError as error:
            return complain(str(error))
    if name not in COMMANDS:
        return complain(f"jattn: {name}: unknown command; {_meant(name)}")
    return ANSWERS[name](Parser(prog=f"jattn {name}", description=COMMANDS[name]), rest)


def _meant(name: str) -> str:
    """Says what was meant by a word that is no command."""
    from jattn.training.shipped import configs_folder, find_config

    if find_config(Path(name)).is_file():
        return f"did you mean: jattn train {name}?"
    if (Path(name) / "config.toml").is_file():
        return f"did you mean: jattn report {name}?"
    configs = {path.stem: f"jattn train {path.stem}" for path in configs_folder().glob("*.toml")}
    known = configs | {command: f"jattn {command}" for command in (*COMMANDS, "--version", "--help")}
    for command, words in OTHER_COMMANDS.items():
        if name in words.split():
            return f"did you mean: jattn {command}?"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"did you mean: {known[near[0]]}?" if near else f"there are {', '.join(COMMANDS)}"


def help_of_all() -> str:
    """Lists the commands, the configs, and where to read on."""
    from jattn.command.helping import READ_ON
    from jattn.drawing.plain import in_width

    lines = ["jattn COMMAND: attention you can see through. Train toy tasks, and look at what came of it.", ""]
    lines += [f"  {command:8} {words}" for command, words in COMMANDS.items()]
    lines += ["", "jattn COMMAND --help says more. The configs that come with jattn:", "", *config_lines()]
    return "\n".join(in_width([*lines, "", f"Read on: {READ_ON}."]))


def _report(parser: Parser, arguments: Sequence[str]) -> int:
    parser.add_argument("run_folder", type=Path)
    # Files are not left half written.
    raise_at_ctrl_c()
    return draw_report(parser.parse_args(arguments).run_folder)


def _tasks(parser: Parser, arguments: Sequence[str]) -> int:
    parser.add_argument("name", nargs="?", help="the task to show; FILE.py:NAME is one of your own")
    parser.add_argument("--length", type=int, help="how long sources may be; by default what suits the task")
    parser.add_argument("--examples", type=int, default=3, help="how many to show")
    options = parser.parse_args(arguments)
    parser.check_least(options, examples=1)
    if options.name is None:
        return list_tasks()
    if ":" in options.name:
        from jattn.command.own_tasks import show_own_task

        return show_own_task(options.name, options.length, options.examples)
    return show_task(options.name, options.length, options.examples)


def _configs(parser: Parser, arguments: Sequence[str]) -> int:
    parser.add_argument("name", nargs="?", help="the config to print")
    name = parser.parse_args(arguments).name
    return list_configs() if name is None else show_config(name)


def _predict(parser: Parser, arguments: Sequence[str]) -> int:
    parser.add_argument("run_folder", help="of a run that has a checkpoint")
    parser.add_argument("text", nargs="+", help="what to read, in the words of the task")
    parser.add_argument("--best", action="store_true", help="take the best checkpoint, not the latest")
    options = parser.parse_args(arguments)
    folder, text = options.run_folder, " ".join(options.text)
    if not (Path(folder) / "config.toml").is_file():
        return complain(f"jattn predict: {folder}: expected the folder of a run, there is no config.toml in it")

    from jattn.training.restore import restore
    from jattn.training.run_folder import RunFolderError

    try:
        restored = restore(folder, options.best)
        answer, caution = restored.predict(text), restored.caution(text)
    except (OSError, ValueError, RunFolderError) as error:
        return complain(f"jattn predict: {error}")
    if caution:
        complain(f"jattn predict: {caution}")
    print(answer)
    return 0


def _see(parser: Parser, arguments: Sequence[str]) -> int:
    parser.add_argument("model", type=Path, help="a folder, .safetensors, .gguf, .bin, wheel or zip")
    parser.add_argument("text", nargs="?", help="what the model reads; for a model of images, the file of a picture")
    parser.add_argument("--file", type=Path, help="a file with what it reads instead")
    parser.add_argument("--pair", metavar="TEXT", help="a second text, shown beside the first with what differs")
    parser.add_argument("--out", type=Path, default=Path("see.html"), help="the page; see.html by default")
    parser.add_argument("--new-tokens", type=int, help="how many tokens a decoder adds; 20 by default, 0 to a pair")
    options = parser.parse_args(arguments)

    from jattn.command.see import Asked, see_model

    asked = Asked(options.text, options.file, options.pair, options.new_tokens)
    return see_model(options.model, asked, options.out)


def _explain(parser: Parser, arguments: Sequence[str]) -> int:
    parser.add_argument("length", type=int, help="how many queries there are, and keys where --keys says nothing")
    parser.add_argument("--keys", type=int, help="how many keys")
    parser.add_argument("--heads", type=int, default=1, help="how many heads (default 1)")
    parser.add_argument("--head-dim", type=int, default=64, help="length of a head's vectors (default 64)")
    parser.add_argument("--batch", type=int, default=1, help="how many examples (default 1)")
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="(default float32)"
    )
    parser.add_argument("--causal", action="store_true", help="queries see keys up to their own place alone")
    parser.add_argument("--window", type=int, metavar="KEYS", help="queries see themselves and so many keys before")
    options = parser.parse_args(arguments)
    parser.check_least(options, length=1, keys=1, heads=1, head_dim=1, batch=1, window=0)
    for name in ("length", "keys", "heads", "head_dim", "batch", "window"):
        if (number := getattr(options, name)) is not None and number > MOST:
            parser.error(f"{name}: expected at most {MOST:,}, got {number:,}")

    from jattn.command.explaining import explain

    print(explain(options))
    return 0


ANSWERS = {
    "predict": _predict,
    "report": _report,
    "tasks": _tasks,
    "configs": _configs,
    "see": _see,
    "explain": _explain,
}
"""What each of the commands does; training has arguments of its own."""
