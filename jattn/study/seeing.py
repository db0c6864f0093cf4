"""`see`: every filter of a model on one text, on a page."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jattn.drawing.bins import cell_words
from jattn.drawing.files import replacing
from jattn.drawing.filter_page import build_filter_page, pack_array, pack_levels
from jattn.filters import folds
from jattn.filters.filter import AttentionFilter
from jattn.study.portraits import MIXED, UNIFORM, UNKNOWN, head_portraits

MOST_BYTES = 5_500_000
"""How many bytes of weights a page holds, which become a third more as text. What is longer is pooled."""

FEWEST_LARGEST, MOST_LARGEST = 4, 16
"""How many of the largest weights of a query a page of a long text holds."""

PLAIN = (UNIFORM, MIXED, UNKNOWN)


def see(
    filters: AttentionFilter | Mapping[str, AttentionFilter],
    tokens: Sequence[str],
    path: str | Path,
    *,
    title: str = "attention filters",
    about: str = "",
    written: int | None = None,
) -> Path:
    """Writes a page on which every head of every layer is seen, small and large, with what each token looks at.

    The page is one file, needs no network, and stays below 10 MB: of a long text it holds a pooled map of each head,
    and the largest weights of the last queries.

    Args:
      filters: self-attention by layer, as `capture_filters` returns it for one text; or one filter.
      tokens: the words of the text, one for each position. Equal words count as equal tokens in `head_portraits`.
      path: where to write; a file that is there is replaced.
      title: the heading.
      about: what stands below it.
      written: how many tokens a person wrote; those after are marked as the model's own.

    Returns:
      The path.

    Raises:
      ValueError, TypeError: if there is no filter, one is not of so many queries and keys, or has batch entries.

    Example:
      >>> import pathlib, tempfile
      >>> import jax
      >>> import jattn
      >>> from jattn import masks
      >>> words = ["to", "be", "or", "not", "to", "be"]
      >>> query, key = jax.random.normal(jax.random.key(0), (2, 6, 2, 4))
      >>> filter = jattn.attention_filter(query, key, mask=masks.causal())
      >>> page = jattn.study.see({"layer_0/attention": filter}, words, pathlib.Path(tempfile.mkdtemp()) / "see.html")
      >>> page.read_text()[:15]
      '<!doctype html>'
    """
    layers = {"attention": filters} if isinstance(filters, AttentionFilter) else filters
    words = _check(layers, tokens)
    ids = jnp.asarray(np.unique(words, return_inverse=True)[1], jnp.int32)
    portraits = head_portraits(layers, ids).names()
    data = {
        "title": title,
        "about": about,
        "tokens": words,
        "joined": any(word.startswith(" ") for word in words),
        "written": len(words) if written is None else written,
        "first": _first(list(layers), portraits),
        **_weights(layers, portraits, len(words)),
    }
    with replacing(Path(path)) as file:
        file.write(build_filter_page(data).encode())
    return Path(path)


def _check(layers: Any, tokens: Sequence[str]) -> list[str]:
    if not isinstance(layers, Mapping) or not all(isinstance(one, AttentionFilter) for one in layers.values()):
        raise TypeError(f"filters: expected an AttentionFilter or a dict of them, got {type(layers).__name__}")
    if not layers:
        raise ValueError("filters: expected at least one, got none")
    if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
        raise TypeError(f"tokens: expected a list of words, one per position, got {type(tokens).__name__}")
    for name, filter in layers.items():
        if filter.shape[1:] != (len(tokens), len(tokens)):
            expected = f"[heads, {len(tokens)}, {len(tokens)}]"
            raise ValueError(f"filters: expected shape {expected}, a word per position, got {filter.shape} of {name!r}")
    return list(tokens)


def _first(names: list[str], portraits: Mapping[str, list[str]]) -> list[int]:
    """Chooses the head that the page begins with: the first whose portrait says something."""
    for layer, name in enumerate(names):
        for head, word in enumerate(portraits[name]):
            if word not in PLAIN:
                return [layer, head]
    return [0, 0]


def _weights(layers: Mapping[str, AttentionFilter], portraits: Mapping[str, list[str]], length: int) -> dict[str, Any]:
    """Returns what the page holds of each layer, whole where that fits and pooled where it does not."""
    heads = sum(filter.shape[0] for filter in layers.values())
    whole = heads * length**2 <= MOST_BYTES
    side = length if whole else min(length, max(1, int((MOST_BYTES / 2 / heads) ** 0.5)))
    key_bytes = 2 if length <= 2**16 else 4
    per_number = heads * (1 + key_bytes)
    largest = int(np.clip(MOST_BYTES / 2 // (per_number * length), FEWEST_LARGEST, MOST_LARGEST))
    rows = 0 if whole else int(min(length, MOST_BYTES / 2 // (per_number * largest)))
    packed = []
    for index, (name, filter) in enumerate(layers.items()):
        label = re.search(r"\d+", name)
        layer = {
            "name": name,
            "label": label[0] if label else str(index),
            "heads": filter.shape[0],
            "words": portraits[name],
        }
        packed.append(layer | _layer(filter, side, largest, rows, key_bytes))
    cell = cell_words((side, side), (length, length))
    sizes = {"side": side, "top_k": largest, "top_rows": rows, "key_bytes": key_bytes}
    return {"layers": packed, "cell": cell} | sizes


def _layer(filter: AttentionFilter, side: int, largest: int, rows: int, key_bytes: int) -> dict[str, Any]:
    if not rows:
        return {"levels": pack_levels(np.asarray(filter.weights())), "top": None}
    found = filter.summarize(map=folds.pool(side, side), top=folds.top_k(largest))
    keys = np.asarray(found["top"].keys)[:, -rows:].astype(np.uint16 if key_bytes == 2 else np.uint32)
    top = {"levels": pack_levels(np.asarray(found["top"].weights)[:, -rows:]), "keys": pack_array(keys)}
    return {"levels": pack_levels(np.asarray(found["map"])), "top": top}
