"""``jattn see``: every filter of a published model on a text, as a page."""

import re
import sys
from pathlib import Path

from jattn.drawing.plain import in_plain

NEW_TOKENS = 20
"""How many tokens a decoder adds to a text if nobody says."""


def see_model(model: Path, text: str | None, file: Path | None, out: Path, new_tokens: int | None) -> int:
    """Loads a model, lets it read a text, and writes the page; returns the exit status."""
    if (text is None) == (file is None):
        print("see: expected a text or --file, and not both", file=sys.stderr)
        return 2
    try:
        page = write_page(model, file.read_text(encoding="utf-8") if file is not None else text or "", out, new_tokens)
        print(in_plain(f"see {page}"))
    except (OSError, ValueError, ImportError) as error:
        print(in_plain(f"see: {error}"), file=sys.stderr)
        return 2
    return 0


def write_page(model: Path, text: str, out: Path, new_tokens: int | None) -> Path:
    """Writes the page of a model on a text.

    Args:
      model: what `jattn.pretrained.load` takes.
      text: what is read.
      out: the page.
      new_tokens: how many tokens a decoder adds to the text before it is looked at, `NEW_TOKENS` by default; an encoder
        adds none.

    Returns:
      The path of the page.

    Raises:
      OSError, ValueError, ImportError: if the model cannot be loaded, has no tokenizer or adds no tokens, or the text
        has none.
    """
    import jax
    import jax.numpy as jnp

    from jattn.decode.generation import generate
    from jattn.filters.names import in_order
    from jattn.linen.capture import capture_filters
    from jattn.linen.vision import VisionModel
    from jattn.pretrained import load
    from jattn.pretrained.tokenizers import split, words
    from jattn.study.seeing import see

    found = load(model)
    if isinstance(found.model, VisionModel):
        raise ValueError(f"{model}: expected a model of tokens, got one of images")
    if found.tokenizer is None:
        raise ValueError(f"{model}: expected a model with a tokenizer that is known here, got one without")
    tokens, shown = split(found.tokenizer, text)
    if not tokens:
        raise ValueError("text: expected at least one token, got none")
    written, new = len(tokens), _new_tokens(new_tokens, found.model.architecture.causal)
    if new:
        more = generate(found.model, found.variables, jnp.array(tokens), max_new_tokens=new).tolist()
        tokens, shown = tokens + more, shown + words(found.tokenizer, more)
    look = jax.jit(lambda variables, tokens: capture_filters(found.model, variables, tokens, last_only=True)[1])
    filters = look(found.variables, jnp.array(tokens))
    return see(
        in_order(filters),
        shown,
        out,
        title=re.sub(r"-py\d.*", "", model.stem),
        about=str(found.card).split("\n")[0],
        written=written,
    )


def _new_tokens(new_tokens: int | None, causal: bool) -> int:
    if new_tokens is not None and new_tokens < 0:
        raise ValueError(f"--new-tokens: expected at least 0, got {new_tokens}")
    if not causal and new_tokens:
        raise ValueError(f"--new-tokens: expected 0 for a model that reads all tokens at once, got {new_tokens}")
    return (NEW_TOKENS if causal else 0) if new_tokens is None else new_tokens
