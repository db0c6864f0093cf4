"""Text that a terminal shows and does not obey."""


def in_plain(text: str) -> str:
    """Writes whatever a terminal would obey, or could not show, as an escape; lines stay lines.

    Example:
      >>> in_plain("runs/\\x1b[2J\\u202egnp")
      'runs/\\\\x1b[2J\\\\u202egnp'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
