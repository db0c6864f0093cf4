"""The page: a section per claim, in Markdown."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from jattn.drawing.files import replacing
from jattn.drawing.look import save_figure
from jattn.report.outcomes import Spread

PAGE = Path("docs/claims.md")
IMAGES = Path("docs/images/claims")

VERDICTS = ("true", "partly true", "false")


@dataclasses.dataclass
class Section:
    """What an experiment says about a claim.

    Attributes:
      title: a few words.
      claim: the sentence, as it is usually said.
      question: what is measured.
      verdict: one of `VERDICTS`, decided by the numbers.
      answer: paragraphs; numbers in them are measured.
      tables: each a header and rows of text.
      figures: a file name, what it shows, and the figure.
      commands: what trains the models.
    """

    title: str
    claim: str
    question: str
    verdict: str
    answer: list[str]
    tables: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = dataclasses.field(default_factory=list)
    figures: list[tuple[str, str, Figure]] = dataclasses.field(default_factory=list)
    commands: list[str] = dataclasses.field(default_factory=list)

    def save_figures(self) -> None:
        """Writes the figures where the page finds them."""
        IMAGES.mkdir(parents=True, exist_ok=True)
        for name, _, figure in self.figures:
            with replacing(IMAGES / f"{name}.png") as file:
                save_figure(figure, file)

    def save(self, path: Path) -> None:
        """Writes the figures where the page finds them, and the section for the page to take in."""
        self.save_figures()
        told = {"title": self.title, "verdict": self.verdict, "text": self.to_markdown()}
        with replacing(path) as file:
            file.write(json.dumps(told).encode())

    def to_markdown(self) -> str:
        """Writes the section, without its title."""
        parts = [f"> {self.claim}", f"{self.question} **{self.verdict.capitalize()}.**"]
        parts += self.answer
        for header, rows in self.tables:
            lines = [header, ["---"] * len(header), *rows]
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
        parts += [f"![{caption}](images/claims/{name}.png)" for name, caption, _ in self.figures]
        if self.commands:
            parts.append("```sh\n" + "\n".join(self.commands) + "\n```")
        return "\n\n".join(parts)


def write_page(names: Iterable[str], folder: Path, seeds: int) -> Path:
    """Writes the page of all claims that are examined, and names the others; returns its path."""
    paths = {name: folder / f"{name}.json" for name in names}
    sections = [json.loads(path.read_text()) for path in paths.values() if path.exists()]
    missing = [name for name, path in paths.items() if not path.exists()]
    verdicts = [f"| {number}. {one['title']} | {one['verdict']} |" for number, one in enumerate(sections, 1)]
    parts = [
        "# What is said about self-attention, tried out",
        "Each sentence is a question here, with models that answer it: small ones, trained on toy tasks whose right "
        f"filter is known, {seeds} seeds each. Numbers are means over seeds, with the lowest and the highest seed in "
        f"brackets; of {seeds} seeds, that range holds the median over all seeds with a probability of "
        f"{100 * (1 - 2 ** (1 - seeds)):.0f} %. Whether a sentence is called true is decided by a rule on the numbers.",
        "`python -m claims` trains all models, draws all figures and writes this page; it is not edited by hand. The "
        "commands below each section train the models of that section alone.",
        "\n".join(["| claim | found |", "| --- | --- |", *verdicts]),
        *([f"Not examined here yet: {', '.join(missing)}."] if missing else []),
        *(f"## {number}. {one['title']}\n\n{one['text']}" for number, one in enumerate(sections, 1)),
    ]
    with replacing(PAGE) as file:
        file.write(("\n\n".join(parts) + "\n").encode())
    return PAGE


def percent(found: Spread | None) -> str:
    """Writes a share over seeds: mean, lowest and highest.

    Example:
      >>> percent(Spread(0.995, 0.99, 1.0)), percent(Spread(1.0, 1.0, 1.0))
      ('99.5 % (99.0 to 100.0)', '100.0 %')
    """
    return _write(found, lambda number: f"{100 * number:.1f}", " %")


def number(found: Spread | None, digits: int = 2) -> str:
    """Writes a number over seeds: mean, lowest and highest."""
    return _write(found, lambda value: f"{value:.{digits}f}", "")


def _write(found: Spread | None, text, unit: str) -> str:
    if found is None:
        return "none"
    mean = text(found.mean) + unit
    if found.low is None or found.high is None or text(found.low) == text(found.high) == text(found.mean):
        return mean
    return f"{mean} ({text(found.low)} to {text(found.high)})"
