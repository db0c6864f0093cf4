"""Text that a terminal shows and does not obey, and numbers in it."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence

LONGEST = 300
"""Characters that a line for a person has at most."""


def in_plain(text: str) -> str:
    """Writes whatever a terminal would obey, or could not show, as an escape; lines stay lines.

    Example:
      >>> in_plain("runs/\\x1b[2J\\u202egnp")
      'runs/\\\\x1b[2J\\\\u202egnp'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


def shortened(text: str, most: int = LONGEST) -> str:
    """Leaves out the middle of a text that is longer than `most` characters.

    Example:
      >>> shortened("from a very long way to go to the end", 20)
      'from a ve...the end'
    """
    if len(text) <= most:
        return text
    if most < 8:
        return text[:most]
    kept = most - 3
    return f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"


def message(text: str) -> str:
    """Writes what is said to a person: plain, each line of it shortened."""
    return "\n".join(shortened(line) for line in in_plain(text).split("\n"))


def fitted(before: str, items: Sequence[str], after: str = "", between: str = ", ") -> str:
    """Writes a line with as many items as it has room for, at least one, and how many more there are.

    Example:
      >>> fitted("expected one of ", ["a", "b"])
      'expected one of a, b'
      >>> fitted("expected one of ", ["x" * 150, "y" * 150, "z"])[-10:]
      'and 2 more'
    """
    line = before + after
    # Of a great many, no more are tried than could fit.
    for number in range(min(len(items), LONGEST), 0, -1):
        more = f" and {len(items) - number} more" if number < len(items) else ""
        line = f"{before}{between.join(items[:number])}{more}{after}"
        if len(line) <= LONGEST:
            return line
    return line


def percent(part: float, digits: int = 2) -> str:
    """Writes a part of one in percent, without the sign; 100.00 is all of it and nothing less.

    Example:
      >>> percent(0.0003), percent(0.999999), percent(1)
      ('0.03', '99.99', '100.00')
    """
    text = f"{100 * part:.{digits}f}"
    return f"{100 - 10**-digits:.{digits}f}" if float(text) == 100 and part < 1 else text


def in_width(lines: Sequence[str]) -> Iterator[str]:
    """Breaks lines to the width of the terminal; what follows stands a bit to the right, or below its column."""
    width = max(shutil.get_terminal_size().columns, 1)
    for line in lines:
        indent = min(len(line) - len(line.lstrip()) + 2, width // 2)
        column = re.match(r" *\S+(?: \S+)*  +(?=\S)", line)
        if column and column.end() <= width // 2:
            indent = column.end()
        # Choices may be broken where one ends.
        broken = textwrap.wrap(
            line.replace("|", "| "), width, subsequent_indent=" " * indent, break_on_hyphens=False
        ) or [""]
        yield from (part.replace("| ", "|") for part in broken)
