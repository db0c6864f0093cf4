"""`see`: every filter of a model on one text, on two texts, or on a picture, as a page."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jattn.drawing.bins import cell_words
from jattn.drawing.files import replacing
from jattn.drawing.filter_page import build_filter_page, pack_array, pack_levels, picture_source
from jattn.filters import folds
from jattn.filters.filter import AttentionFilter
from jattn.study.comparing import align, changes
from jattn.study.patches import Patches, check_picture, finest_fit
from jattn.study.portraits import MIXED, UNIFORM, UNKNOWN, head_portraits

MOST_BYTES = 5_800_000
"""How many bytes of weights a page holds, which become a third more as text. What is longer is pooled."""

FEWEST_LARGEST, MOST_LARGEST = 4, 16
"""How many of the largest weights of a query a page of a long text holds."""

PLAIN = (UNIFORM, MIXED, UNKNOWN)

Filters = AttentionFilter | Mapping[str, AttentionFilter]


def see(
    filters: Filters,
    tokens: Sequence[str],
    path: str | Path,
    *,
    title: str = "attention filters",
    about: str = "",
    written: int | tuple[int, int] | None = None,
    other: tuple[Filters, Sequence[str]] | None = None,
    picture: Any = None,
    patches: tuple[int, int] | None = None,
) -> Path:
    """Writes a page on which every head of every layer is seen, small and large, with what each token looks at.

    The page is one file, needs no network, and stays below 10 MB: of a long text it holds a pooled map of each head,
    and the largest weights of the last queries; of a picture of many patches, the weights of blocks of them.

    Two texts stand side by side, with the difference of their filters: of the tokens that both have, or that stand for
    one another where the texts differ. A head's change is how much of a query's weight moves,
    ``½ Σ |second - first|``, the mean of all queries that both have.

    Args:
      filters: self-attention by layer, as `capture_filters` returns it for one text; or one filter.
      tokens: the words of the text, one for each position. Equal words count as equal tokens in `head_portraits`.
      path: where to write; a file that is there is replaced.
      title: the heading.
      about: what stands below it.
      written: how many tokens a person wrote; those after are marked as the model's own. Of two texts, a pair.
      other: the filters and the words of a second text, of the same layers and heads.
      picture: what a vision model looked at: uint8 ``[Y, X]`` or ``[Y, X, 3]``. Filters are drawn over it.
      patches: how many rows and columns of patches it was cut into; they are the last tokens, in reading order.

    Returns:
      The path.

    Raises:
      ValueError, TypeError: if there is no filter, one is not of so many queries and keys, or has batch entries; if the
        second text has other layers or heads; or if the patches are not those of a picture.

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
    layers, words = _check(filters, tokens)
    portraits = _portraits(layers, words)
    grid = check_picture(picture, patches, len(words), other)
    data = {"title": title, "about": about, "first": _first(list(layers), portraits)}
    if grid is not None:
        data |= _seen_picture(layers, portraits, words, grid, np.asarray(picture))
    elif other is None:
        data |= _seen_text(layers, portraits, words, MOST_BYTES)
    else:
        data |= _seen_pair(layers, portraits, words, *_check(*other, like=layers))
    for text, count in zip((data, data.get("other")), _counts(written, other is not None), strict=True):
        if text is not None and count is not None:
            text["written"] = count
    with replacing(Path(path)) as file:
        file.write(build_filter_page(data).encode())
    return Path(path)


def _counts(written: Any, is_pair: bool) -> tuple[int | None, int | None]:
    """Returns how many tokens of the first text a person wrote, and of the second."""
    if not isinstance(written, tuple):
        return written, None
    if not is_pair or len(written) != 2:
        raise ValueError(f"written: expected a pair of numbers with a second text and one without, got {written!r}")
    return written


def _seen_text(
    layers: Mapping[str, AttentionFilter], portraits: Mapping[str, list[str]], words: list[str], budget: int
) -> dict[str, Any]:
    joined = any(word.startswith(" ") for word in words)
    return {"tokens": words, "joined": joined, "written": len(words)} | _weights(layers, portraits, len(words), budget)


def _seen_pair(
    layers: Mapping[str, AttentionFilter],
    portraits: Mapping[str, list[str]],
    words: list[str],
    others: Mapping[str, AttentionFilter],
    other_words: list[str],
) -> dict[str, Any]:
    """Returns what a page of two texts holds: both, which tokens stand for one another, and how each head changes."""
    data = _seen_text(layers, portraits, words, MOST_BYTES // 2)
    other = _seen_text(others, _portraits(others, other_words), other_words, MOST_BYTES // 2)
    aligned = align(words, other_words)
    if data["side"] == len(words) and other["side"] == len(other_words):
        for layer, filter, changed in zip(data["layers"], layers.values(), others.values(), strict=True):
            layer["changes"] = changes(np.asarray(filter.weights()), np.asarray(changed.weights()), aligned)
        data["first"] = _most_changed([layer["changes"] for layer in data["layers"]])
    return data | {"other": other, "aligned": aligned}


def _most_changed(changes: list[list[float]]) -> list[int]:
    """Returns the layer and the head that change most; what is not a number counts for nothing."""
    heads = [
        (-np.nan_to_num(change), layer, head) for layer, of in enumerate(changes) for head, change in enumerate(of)
    ]
    return list(min(heads)[1:])


def _seen_picture(
    layers: Mapping[str, AttentionFilter],
    portraits: Mapping[str, list[str]],
    words: list[str],
    patches: Patches,
    picture: np.ndarray,
) -> dict[str, Any]:
    """Returns what a page of a picture holds: of many patches, the weights of blocks of them."""
    heads = sum(filter.shape[0] for filter in layers.values())
    blocks = finest_fit(patches, heads, MOST_BYTES)
    shown, packed = blocks.words(words), []
    for index, (name, filter) in enumerate(layers.items()):
        levels = pack_levels(blocks.pooled(np.asarray(filter.with_limit(float("inf")).weights())))
        packed.append(_named(name, index, filter, portraits) | {"levels": levels, "top": None})
    image = {"source": picture_source(picture), "size": list(picture.shape[:2])}
    image |= {"rows": blocks.rows, "columns": blocks.columns, "lead": patches.lead}
    image |= {"block": blocks.block, "all_rows": patches.all_rows, "all_columns": patches.all_columns}
    sizes = {"side": len(shown), "cell": blocks.cell, "top_k": 0, "top_rows": 0, "key_bytes": 2}
    return {"tokens": shown, "joined": False, "written": len(shown), "layers": packed, "image": image} | sizes


def _portraits(layers: Mapping[str, AttentionFilter], words: list[str]) -> Mapping[str, list[str]]:
    ids = jnp.asarray(np.unique(words, return_inverse=True)[1], jnp.int32)
    return head_portraits(layers, ids).names()


def _check(
    filters: Any, tokens: Sequence[str], like: Mapping[str, AttentionFilter] | None = None
) -> tuple[dict[str, AttentionFilter], list[str]]:
    """Returns filters by layer and their words, which have to fit one another, and the layers of the first text."""
    layers = {"attention": filters} if isinstance(filters, AttentionFilter) else filters
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
    if like is not None:
        heads, expected = ({name: one.shape[0] for name, one in some.items()} for some in (layers, like))
        if heads != expected:
            raise ValueError(f"other: expected heads by layer as in the first text, {expected}, got {heads}")
        layers = {name: layers[name] for name in like}
    return dict(layers), list(tokens)


def _first(names: list[str], portraits: Mapping[str, list[str]]) -> list[int]:
    """Chooses the head that the page begins with: the first whose portrait says something."""
    for layer, name in enumerate(names):
        for head, word in enumerate(portraits[name]):
            if word not in PLAIN:
                return [layer, head]
    return [0, 0]


def _weights(
    layers: Mapping[str, AttentionFilter], portraits: Mapping[str, list[str]], length: int, budget: int
) -> dict[str, Any]:
    """Returns what the page holds of each layer, whole where that fits and pooled where it does not."""
    heads = sum(filter.shape[0] for filter in layers.values())
    whole = heads * length**2 <= budget
    side = length if whole else min(length, max(1, int((budget / 2 / heads) ** 0.5)))
    key_bytes = 2 if length <= 2**16 else 4
    per_number = heads * (1 + key_bytes)
    largest = int(np.clip(budget / 2 // (per_number * length), FEWEST_LARGEST, MOST_LARGEST))
    rows = 0 if whole else int(min(length, budget / 2 // (per_number * largest)))
    packed = []
    for index, (name, filter) in enumerate(layers.items()):
        layer = _layer(filter, side, largest, rows, key_bytes)
        packed.append(_named(name, index, filter, portraits) | layer)
    cell = cell_words((side, side), (length, length))
    sizes = {"side": side, "top_k": largest, "top_rows": rows, "key_bytes": key_bytes}
    return {"layers": packed, "cell": cell} | sizes


def _named(name: str, index: int, filter: AttentionFilter, portraits: Mapping[str, list[str]]) -> dict[str, Any]:
    label = re.search(r"\d+", name)
    return {
        "name": name,
        "label": label[0] if label else str(index),
        "heads": filter.shape[0],
        "words": portraits[name],
    }


def _layer(filter: AttentionFilter, side: int, largest: int, rows: int, key_bytes: int) -> dict[str, Any]:
    if not rows:
        return {"levels": pack_levels(np.asarray(filter.weights())), "top": None}
    found = filter.summarize(map=folds.pool(side, side), top=folds.top_k(largest))
    keys = np.asarray(found["top"].keys)[:, -rows:].astype(np.uint16 if key_bytes == 2 else np.uint32)
    top = {"levels": pack_levels(np.asarray(found["top"].weights)[:, -rows:]), "keys": pack_array(keys)}
    return {"levels": pack_levels(np.asarray(found["map"])), "top": top}
