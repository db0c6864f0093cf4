"""A filter as an image file, and as what a notebook shows. Pillow is imported when something is drawn."""

import errno
import html
import math
from pathlib import Path
from typing import Any

import numpy as np

from jattn.drawing.files import replacing
from jattn.drawing.images import cell_image, image_notes, map_figure
from jattn.drawing.ink import SCALES, check_scale
from jattn.drawing.view import counted
from jattn.filters.cells import HEADS, compute_cells, make_view, trouble_with
from jattn.filters.virtual import VirtualMatrix
from jattn.rules.checks import check_integer

LARGEST = 8192
"""The most pixels on a side of a file of `save_map`."""

CHEAP = 2**22
"""The most weights that a notebook computes to show a filter, where nobody asked for a picture."""

SMALL = 128
"""The side of a picture in a notebook, in pixels."""


def save_map(
    filter: VirtualMatrix,
    path: str | Path,
    size: int | tuple[int, int] = 1024,
    *,
    head: int = 0,
    entry: int | tuple[int, ...] | None = None,
    scale: str = "chance",
) -> Path:
    """Writes one head of a filter as an image: a pixel per cell, whatever the length, in memory linear in length.

    The cells are those of ``filter.pool``, as many as the size allows if all but a few are to hold the same number of
    queries, or keys. Where there are fewer cells than pixels, each has as many whole pixels as fit. So the image may be
    smaller than asked for.

    Args:
      filter: the filter; ``filter.save_map(...)`` does the same.
      path: the file, which is replaced in one step; its ending gives the format, ``.png`` or another of Pillow's.
      size: the most pixels, of both sides or ``(high, wide)``, up to `LARGEST`.
      head: which head.
      entry: which batch entry: an int, or an int for each batch axis; the first by default.
      scale: which weight is which ink, one of `SCALES`. By the default ``"chance"``, in 1024 columns, weight 1 has all
        of the ink, 0.1 has 0.63, 0.01 has 0.40, and 1/1024, chance, has 0.25; with ``"linear"`` it would be white.

    Returns:
      The path. A PNG says in its text ``Description``, and under ``jattn`` as JSON, what shape and scale it shows;
      formats with Exif have the description.

    Raises:
      ValueError: if an index is out of range, the size is, the ending is of no image format, the filter holds no
        weights, or is being traced.
      TypeError: if an argument has the wrong type.
      OSError: if the file cannot be written; this is found out before anything is computed.

    Example:
      >>> import jax, tempfile
      >>> from jattn import attention_filter, masks
      >>> from jattn.filters import images
      >>> from PIL import Image
      >>> query, key = jax.random.normal(jax.random.key(0), (2, 600, 4, 16))
      >>> filter = attention_filter(query, key, mask=masks.causal())
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     image = Image.open(images.save_map(filter, folder + "/head_2.png", size=200, head=2))
      >>> image.size
      (200, 200)
      >>> image.text["Description"]
      'attention filter (4, 600, 600), head 2; each cell 3 queries x 3 keys; ink = weight^0.262'
    """
    from PIL import Image

    path, most = Path(path), _pixels(size)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"path: expected the ending of an image format, such as .png, got {str(path)!r}")
    check_scale(scale)
    view = make_view(filter, (head,), entry, most=most)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"path: cannot write {str(path)!r}: it is a folder")
    try:
        with replacing(path) as file:
            cells = compute_cells(filter, view)[0]
            ink = SCALES[scale](cells, view.chance)
            palette = kind in ("PNG", "GIF")
            image = cell_image(cells, ink, most)
            (image if palette else image.convert("RGB")).save(file, kind, **image_notes(kind, view, scale, ink))
    except OSError as error:
        words = f"path: cannot write {str(path)!r}: {error.strerror or error}"
        raise OSError(*([error.errno] * bool(error.errno)), words) from error
    return path


def _pixels(size: Any) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size: expected a number of pixels or (high, wide), got {size!r}")
    high, wide = (check_integer("size", side) for side in sides)
    if not (1 <= high <= LARGEST and 1 <= wide <= LARGEST):
        raise ValueError(f"size: expected 1 to {LARGEST} pixels on a side, got {size!r}")
    return high, wide


def as_html(filter: VirtualMatrix) -> str:
    """Returns what a notebook shows for a filter: its shape, what it is made of, and, if that is cheap, its heads.

    Pictures are drawn of the first batch entry, if they take no more than `CHEAP` weights and these are known.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, masks
      >>> from jattn.filters import images
      >>> filter = attention_filter(jnp.zeros((3, 1, 4)), jnp.zeros((3, 1, 4)), mask=masks.causal())
      >>> text = images.as_html(filter)
      >>> "causal" in text, text.count("<img")
      (True, 1)
    """
    *batch, num_heads, num_queries, num_keys = filter.shape
    sizes = f"{counted(num_heads, 'head')}, {counted(num_queries, 'query')}, {counted(num_keys, 'key')}"
    rows = {"shape": f"batch {tuple(batch)}, {sizes}" if batch else sizes, "dtype": np.dtype(filter.dtype).name}
    cell = "text-align: left; padding: 1px 12px 1px 0; background: none"
    table = "".join(
        f'<tr><th style="{cell}; font-weight: normal; opacity: 0.65">{name}</th>'
        f'<td style="{cell}">{html.escape(value)}</td></tr>'
        for name, value in (rows | _parts(filter)).items()
    )
    style = "font-family: system-ui, sans-serif; font-size: 13px; line-height: 1.4"
    table_style = "margin: 6px 0; border-collapse: collapse; font-size: inherit; color: inherit"
    return (
        f'<div style="{style}"><code>{html.escape(repr(filter))}</code>'
        f'<table style="{table_style}">{table}</table>{_small_pictures(filter)}</div>'
    )


def _small_pictures(filter: VirtualMatrix) -> str:
    """Draws the heads of the first entry in HTML, or says why not."""
    trouble = trouble_with(filter)
    if trouble:
        return f"<div>Not drawn: {html.escape(trouble)}.</div>"
    *_, num_heads, num_queries, num_keys = filter.shape
    shown = min(num_heads, HEADS)
    if shown * num_queries * num_keys > CHEAP:
        return "<div>Too large to be drawn unasked: call <code>.plot()</code>, or <code>.save_map(path)</code>.</div>"
    try:
        view = make_view(filter, None, None, most=(SMALL, SMALL))
        cells = compute_cells(filter, view)
    except Exception as error:  # what a user's own score or mask raises must not hide the rest
        return f"<div>Not drawn: {html.escape(f'{type(error).__name__}: {error}')}</div>"
    ink = SCALES["chance"](cells, view.chance)
    sides = np.maximum(np.divide(filter.shape[-2:], max(filter.shape[-2:])) * SMALL, 12).astype(int).tolist()
    figures = "".join(map_figure(f"head {head}", cells[panel], ink, sides) for panel, head in enumerate(view.heads))
    notes = [
        "a row per query, a column per key",
        view.cell if view.pooled else "",
        f"{shown} of {num_heads} heads" if shown < num_heads else "",
        f"entry {', '.join(map(str, view.entry))}" if math.prod(filter.shape[:-3]) > 1 else "",
        f"ink = {ink}",
    ]
    return (
        f'<div style="display: flex; flex-wrap: wrap; gap: 10px">{figures}</div>'
        f'<div style="font-size: 11px; opacity: 0.65">{html.escape("; ".join(note for note in notes if note))}</div>'
    )


def _parts(filter: VirtualMatrix) -> dict[str, str]:
    """Names what makes the weights, much as a user wrote it."""
    parts = {name: getattr(filter.program, name, None) for name in ("score", "bias", "mask", "normalizer", "edit")}
    names = {name: repr(part) for name, part in parts.items() if part is not None}
    dropout = filter.program.dropout
    return names if dropout is None else {**names, "dropout": f"rate {dropout.rate}"}


def treescope_repr(filter: VirtualMatrix, path: str | None, subtree_renderer: Any) -> Any:
    """Renders a filter for treescope, the printer of pytrees that comes with flax.

    Treescope adds what ``_repr_html_`` returns by itself, folded up.

    Args:
      filter, path, subtree_renderer: what ``__treescope_repr__`` gets.

    Returns:
      What treescope expects; NotImplemented, which lets it go on in its own way, if this version lacks what is needed.
    """
    try:
        from treescope import rendering_parts, repr_lib

        def render(node: Any, path: str | None = None) -> Any:
            if node is not filter.program:
                return subtree_renderer(node, path=path)
            words = ", ".join(f"{name}={part}" for name, part in _parts(filter).items())
            return rendering_parts.build_one_line_tree_node(rendering_parts.text(f"RowProgram({words})"), path)

        names = ("shape", "dtype", "program", "query", "key")
        attributes = {name: getattr(filter, name) for name in names}
        return repr_lib.render_object_constructor(type(filter), attributes, path, render)
    except (ImportError, AttributeError, TypeError):
        return NotImplemented
