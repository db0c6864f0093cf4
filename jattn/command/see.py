"""``jattn see``: every filter of a published model on a text, a pair of texts or a picture, as a page."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jattn.drawing.plain import in_plain

if TYPE_CHECKING:
    from jattn.pretrained import Pretrained

NEW_TOKENS = 20
"""How many tokens a decoder adds to a text if nobody says."""


NO_TOKENIZER = (
    "expected tokenizer.json, vocab.txt, or vocab.json and merges.txt, got none of them; of a tokenizer.model, "
    "transformers makes one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a model is to read.

    Args:
      text: a text, or the path of a picture.
      file: a file with the text, or with the picture, instead.
      pair: a second text.
      new_tokens: how many tokens a decoder adds before it is looked at; an encoder adds none.
    """

    text: str | None = None
    file: Path | None = None
    pair: str | None = None
    new_tokens: int | None = None

    def read(self) -> str:
        """Returns the text; a mark of the order of bytes at the beginning of a file is no part of it."""
        if self.file is None:
            return self.text or ""
        try:
            return self.file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            got = f"byte {error.object[error.start]:#04x} at place {error.start}"
            raise ValueError(f"{self.file}: expected a text in UTF-8, got {got}") from None


def see_model(model: Path, asked: Asked, out: Path) -> int:
    """Loads a model, lets it read, and writes the page; returns the exit status."""
    if (asked.text is None) == (asked.file is None):
        got = "both" if asked.file else "neither"
        print(f"see: expected a text or --file, got {got}; see jattn see --help", file=sys.stderr)
        return 2
    try:
        page = write_page(model, asked, out)
        print(in_plain(f"see {page}"))
    except (OSError, ValueError, ImportError) as error:
        print(in_plain(f"see: {error}"), file=sys.stderr)
        return 2
    return 0


def write_page(model: Path, asked: Asked, out: Path) -> Path:
    """Writes the page of a model on what is asked; `model` is what `jattn.pretrained.load` takes.

    Returns:
      The path of the page.

    Raises:
      OSError, ValueError, ImportError: if the model cannot be loaded, has no tokenizer or adds no tokens, or the text
        has none; or if there is no such picture.
    """
    from jattn.linen.vision import VisionModel
    from jattn.pretrained import load
    from jattn.study.seeing import see

    if asked.file is not None:
        asked.file.open("rb").close()  # What is not there is told before a large model is loaded.
    found = load(model)
    title: Any = {"title": re.sub(r"-py\d.*", "", model.stem), "about": str(found.card).split("\n")[0]}
    if isinstance(found.model, VisionModel):
        return see(**_picture(found, model, asked), path=out, **title)
    if found.tokenizer is None:
        raise ValueError(f"{model}: {NO_TOKENIZER}")
    _check_new_tokens(asked, found.model.architecture.causal)
    filters, shown, written = _read_text(found, asked, asked.read(), "text" if asked.file is None else str(asked.file))
    if asked.pair is None:
        return see(filters, shown, out, **title, written=written)
    others, other_words, other_written = _read_text(found, asked, asked.pair, "--pair")
    return see(filters, shown, out, **title, written=(written, other_written), other=(others, other_words))


def _read_text(found: "Pretrained", asked: Asked, text: str, name: str) -> tuple[Any, list[str], int]:
    """Lets a model read a text and go on with it; returns filters, words, and how many of them a person wrote."""
    import jax.numpy as jnp

    from jattn.decode.generation import generate
    from jattn.pretrained.tokenizers import split, words

    if all(found.tokenizer.encode(text).special_tokens_mask):
        raise ValueError(f"{name}: expected at least one token, got none")
    tokens, shown = split(found.tokenizer, text)
    written, new_tokens = len(tokens), _new_tokens(asked, found, len(tokens), name)
    if new_tokens:
        ends = found.card.end_tokens
        prompt, end = jnp.array(tokens), ends or None
        more = generate(found.model, found.variables, prompt, max_new_tokens=new_tokens, end_token=end).tolist()
        last = next((place for place, token in enumerate(more, 1) if token in ends), new_tokens)
        tokens, shown = tokens + more[:last], shown + words(found.tokenizer, more[:last])
    return _look(found, jnp.array(tokens), last_only=True), shown, written


def _picture(found: "Pretrained", model: Path, asked: Asked) -> dict[str, Any]:
    """Lets a model look at a picture; returns what `see` takes."""
    if asked.pair is not None or asked.new_tokens:
        raise ValueError(f"{model}: expected a picture alone for a model of images, got --pair or --new-tokens")
    if found.tokenizer is None:
        raise ValueError(f"{model}: expected a model of pictures in three colours, got another")
    if asked.file is None and not asked.text:
        raise ValueError("text: expected the path of a picture, got an empty one")
    reader, picture = found.tokenizer, asked.file or Path(asked.text or "")
    square = reader.square(picture)
    return {
        "filters": _look(found, reader(picture)),
        "tokens": reader.words,
        "picture": square,
        "patches": reader.patches,
    }


def _look(found: "Pretrained", read: Any, **options: Any) -> Any:
    import jax

    from jattn.filters.names import in_order
    from jattn.linen.capture import capture_filters

    look = jax.jit(lambda variables, read: capture_filters(found.model, variables, read, **options)[1])
    return in_order(look(found.variables, read))


def _check_new_tokens(asked: Asked, causal: bool) -> None:
    new = asked.new_tokens
    if new is not None and new < 0:
        raise ValueError(f"--new-tokens: expected at least 0, got {new}")
    if not causal and new:
        raise ValueError(f"--new-tokens: expected 0 for a model that reads all tokens at once, got {new}")


def _new_tokens(asked: Asked, found: "Pretrained", written: int, name: str) -> int:
    """Returns how many tokens a model adds to a text of so many: if nobody says, no more than it has positions for."""
    its, new = found.model.architecture, asked.new_tokens
    most = its.max_length
    if most is not None and written > most:
        raise ValueError(f"{name}: expected at most {most} tokens, for which the model has positions, got {written}")
    if new is None:
        new = NEW_TOKENS if its.causal and asked.pair is None else 0
        return new if most is None else min(new, most - written)
    if most is not None and written + new > most:
        expected = (
            f"expected at most {most - written}, as the model has {most} positions and {name} has {written} tokens"
        )
        raise ValueError(f"--new-tokens: {expected}, got {new}")
    return new
