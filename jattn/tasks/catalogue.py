"""Every task by family, with its options as they stand in a config: defaults, ranges and meaning.

A new task is a function in the file of its family and a line here.
"""

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jattn.tasks.options import Entry, Option, entry

if TYPE_CHECKING:
    from jattn.tasks.sequences import Task

SYMBOLS = Option(10, "how many different symbols there are", least=2, most=10_000)
VALUES = Option(10, "how many different values", least=1, most=10_000)
GENERATOR = Option(
    "jattn",
    "whose rule draws the examples: jattn's own, or that of the published code which the task names",
    choices=("jattn", "chomsky", "mad", "safari", "zoology"),
)

FAMILIES: dict[str, dict[str, Entry]] = {
    "aligned": {
        "copy": entry("jattn.tasks.aligned:copy", symbols=SYMBOLS),
        "reverse": entry("jattn.tasks.aligned:reverse", symbols=SYMBOLS),
        "shift": entry(
            "jattn.tasks.aligned:shift",
            symbols=SYMBOLS,
            by=Option(1, "how many places to the right", least=-4096, most=4096),
        ),
        "odds_first": entry("jattn.tasks.aligned:odds_first", symbols=SYMBOLS, generator=GENERATOR),
        "sort": entry("jattn.tasks.aligned:sort", symbols=SYMBOLS),
        "permute": entry(
            "jattn.tasks.aligned:permute",
            symbols=SYMBOLS,
            places=Option(32, "how many tokens there are to arrange at most", least=1, most=2048),
        ),
        "selective_copy": entry(
            "jattn.tasks.aligned:selective_copy",
            symbols=SYMBOLS,
            items=Option(4, "how many tokens stand among the blanks", least=1, most=2048),
            generator=GENERATOR,
        ),
        "needle": entry(
            "jattn.tasks.aligned:needle",
            symbols=SYMBOLS,
            hay=Option(26, "how many different letters the heap has", least=1, most=10_000),
        ),
    },
    "recall": {
        "associative_recall": entry(
            "jattn.tasks.recall:associative_recall",
            keys=Option(20, "how many different keys there are", least=1, most=10_000),
            values=VALUES,
            generator=GENERATOR,
        ),
        "mqar": entry(
            "jattn.tasks.recall:mqar",
            vocabulary=Option(8192, "how many keys and values there are together", least=2, most=100_000),
            pairs=Option(4, "how many pairs of a key and a value, and how many questions", least=1, most=1024),
            generator=GENERATOR,
        ),
        "induction": entry("jattn.tasks.recall:induction", symbols=SYMBOLS.by_default(20), generator=GENERATOR),
        "variable_tracking": entry(
            "jattn.tasks.recall:variable_tracking",
            names=Option(26, "how many different names there are", least=1, most=10_000),
            values=VALUES,
            hops=Option(1, "how many names lie between the value and the end", least=1, most=100),
        ),
    },
    "counting": {
        "histogram": entry(
            "jattn.tasks.counting:histogram",
            symbols=SYMBOLS.by_default(8),
            max_count=Option(16, "the greatest count, and so the greatest length", least=1, most=4096),
        ),
        "most_frequent": entry("jattn.tasks.counting:most_frequent", symbols=SYMBOLS.by_default(8)),
        "majority": entry("jattn.tasks.counting:majority"),
        "parity": entry("jattn.tasks.counting:parity"),
        "dyck": entry("jattn.tasks.counting:dyck"),
        "balanced": entry("jattn.tasks.counting:balanced"),
    },
    "arithmetic": {
        "addition": entry(
            "jattn.tasks.arithmetic:addition",
            base=Option(10, "how many different digits there are", least=2, most=10_000),
            generator=GENERATOR,
        ),
        "modular_addition": entry(
            "jattn.tasks.arithmetic:modular_addition",
            modulus=Option(97, "how many different numbers there are", least=2, most=10_000),
            train_share=Option(1.0, "the share of all pairs to train on; the others judge", above=0, most=1),
            split_seed=Option(0, "decides which pairs to train on, where not on all", least=0, most=2**32 - 1),
        ),
        "listops": entry(
            "jattn.tasks.nested_lists:listops",
            depth=Option(2, "how many lists may be in each other", least=1, most=20),
            operators=Option(3, "how many operators there are, of MIN, MAX and MED", least=1, most=3),
        ),
    },
    "words": {
        "pronoun": entry(
            "jattn.tasks.words:pronoun",
            split=Option("all", "all sentences, all but a fifth, or that fifth", choices=("all", "train", "test")),
            read_at=Option("it", "where in the sentence the answer is read", choices=("it", "end")),
        ),
        "agreement": entry("jattn.tasks.words:agreement"),
        "reading": entry(
            "jattn.tasks.words:reading",
            facts=Option(1, "how many sentences of the story decide the answer", least=1, most=3),
        ),
        "entailment": entry("jattn.tasks.inference:entailment"),
        "summarisation": entry("jattn.tasks.summaries:summarisation"),
        "roles": entry("jattn.tasks.whole_sentences:roles"),
        "sentences": entry("jattn.tasks.whole_sentences:sentences"),
    },
    "pictures": {
        "captions": entry(
            "jattn.tasks.shapes:captions",
            image=Option(12, "how many pixels wide and high the picture is", least=6, most=4096),
            patch=Option(4, "how many pixels wide and high a patch of it is", least=1, most=64),
            shape=Option(4, "how many pixels wide and high a shape in it is", least=3, most=2048),
        ),
    },
}
"""Every task that generates its examples, by family and name."""

FILE = Option("", "the file that is read; a relative path begins at the folder of the config, else where you are")
TEST_SHARE = Option(0.2, "the share of the file that judges and is never trained on", least=0, below=1)
SHA256 = Option("", "the digest that the file must have; by default that of the file when the run begins")

FROM_FILES: dict[str, Entry] = {
    "examples": entry("jattn.tasks.own_examples:examples", file=FILE, test_share=TEST_SHARE, sha256=SHA256),
    "text": entry(
        "jattn.tasks.own_text:text",
        file=FILE,
        units=Option("characters", "what a symbol of a text is", choices=("characters", "bytes")),
        test_share=TEST_SHARE.by_default(0.1),
        sha256=SHA256,
        tokenizer=Option("", "a tokenizer.json of the package tokenizers, whose tokens are the symbols of a text"),
    ),
}
"""The tasks that read a file of your own; they need one, so no table of examples walks them."""

CATALOGUE: dict[str, Entry] = {name: made for family in FAMILIES.values() for name, made in family.items()} | FROM_FILES
"""Every task by name."""


def task_options(name: str) -> dict[str, Any]:
    """Returns the options of a task and their defaults.

    Example:
      >>> from jattn.tasks.catalogue import task_options
      >>> task_options("shift")
      {'symbols': 10, 'by': 1}
    """
    return {key: option.default for key, option in CATALOGUE[name].options.items()}


def task_description(name: str) -> str:
    """Returns what a task is: its docstring without arguments, examples and sources.

    Example:
      >>> from jattn.tasks.catalogue import task_description
      >>> print(task_description("copy"))
      Says the source again: ``3 1 2 -> 3 1 2``. The oracle is the diagonal, ``place(i, n) = i``.
    """
    return description_of(CATALOGUE[name].load())


def description_of(make: Any) -> str:
    """Returns the docstring of a function that makes a task, without arguments, examples and sources."""
    text = (inspect.getdoc(make) or "") if callable(make) else ""
    return re.split(r"\n(?:Args|Example|Raises|Source)\b.*:", text, maxsplit=1)[0].strip()


def check_options(name: str, options: dict[str, Any], there: Mapping[str, Option] | None = None) -> None:
    """Raises a ValueError if a task has no option of some name; the text begins with that name."""
    there = CATALOGUE[name].options if there is None else there
    for key in options:
        if key not in there:
            takes = f"it has {', '.join(there)}" if there else "it has none"
            raise ValueError(f"{key}: task {name!r} has no such option; {takes}")


def make_task(name: str, options: dict[str, Any]) -> "Task":
    """Makes the task of a name with options as they stand in a config: ``symbols`` is the argument ``num_symbols``.

    Raises:
      ValueError: if the task has no such option, or an option has a value that cannot work; the text begins with the
        option's name.
    """
    check_options(name, options)
    make = CATALOGUE[name].load()
    arguments = {option_of(argument): argument for argument in inspect.signature(make).parameters}
    try:
        return make(**{arguments[key]: value for key, value in options.items()})
    except ValueError as error:
        argument, _, problem = str(error).partition(":")
        raise ValueError(f"{option_of(argument)}:{problem}") from None


def option_of(argument: str) -> str:
    """Returns the option that a config has for an argument of a task."""
    return argument.removeprefix("num_")
