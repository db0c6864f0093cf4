"""Drawing heads of a filter in Matplotlib axes, which is imported when something is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jattn.drawing.heads import HeadsPicture
from jattn.drawing.ink import SCALES, check_scale
from jattn.drawing.view import make_labels
from jattn.filters.cells import compute_cells, compute_hidden, make_view, oracle_filter
from jattn.filters.virtual import VirtualMatrix
from jattn.rules.mask import MaskLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(
    filter: VirtualMatrix,
    axes: "Axes | None" = None,
    *,
    head: int | Sequence[int] | None = None,
    entry: int | tuple[int, ...] | None = None,
    rows: slice | None = None,
    columns: slice | None = None,
    tokens: Sequence[Any] | None = None,
    queries: Sequence[Any] | None = None,
    keys: Sequence[Any] | None = None,
    oracle: MaskLike | None = None,
    scale: str = "chance",
    title: str | None = None,
) -> Any:
    """Draws heads of one batch entry of a filter: a row per query, a column per key, ink for weights.

    What has more than `CELLS` rows or columns is pooled into cells of the same size, except a few, and the title says
    so. The axes count positions all the same. Cells that the mask rules out are hatched. ``axes.images[0]`` holds the
    weights of the cells, its norm the scale.

    Args:
      filter: the filter; ``filter.plot(...)`` does the same.
      axes: Matplotlib axes to draw one head in. Without them a figure is made, which is none of `matplotlib.pyplot`'s
        and so need not be closed: a notebook shows it, and ``savefig`` writes it.
      head: one head, or several, for which a figure is made; by default all of them, but no more than `HEADS`.
      entry: which batch entry: an int, or an int for each batch axis; the first by default.
      rows, columns: the part to look at, as slices of the queries and of the keys. Only its rows are computed.
      tokens: the token of each place, where queries and keys are those of one sequence: as `queries`, and as `keys`.
      queries: the token of each query of the whole filter.
      keys: the token of each key; by default `queries`, if there are as many keys.
      oracle: cells to outline: a mask, or an array that broadcasts to ``[*batch, N, T, S]`` and is not zero there. A
        cell of many weights is outlined if any of them is in the oracle; around small cells the line keeps a distance.
      scale: which weight is which ink, one of `SCALES`.
      title: what to write above.

    Returns:
      The axes; where none were given, the figure.

    Raises:
      ValueError: if an index is out of range, there are too few labels or too many, `tokens` are given and `queries` or
        `keys` as well, the filter holds no weights, or is being traced.
      TypeError: if an argument has the wrong type.

    Example:
      >>> import jax
      >>> from jattn import attention_filter, masks
      >>> from jattn.filters import plots as pictures
      >>> query, key = jax.random.normal(jax.random.key(0), (2, 600, 4, 16))
      >>> figure = pictures.plot(attention_filter(query, key, mask=masks.causal()), head=2)
      >>> figure.texts[1].get_text()
      'head 2 of 4; each cell 3 queries x 3 keys; hatched: may not be attended'
      >>> figure = pictures.plot(attention_filter(query, key), rows=slice(100, 110), columns=slice(50, 80))
      >>> len(figure.axes), figure.axes[0].images[0].get_array().shape
      (5, (10, 30))
    """
    if axes is not None and not hasattr(axes, "imshow"):
        raise TypeError(f"axes: expected Matplotlib axes, got {type(axes).__name__}")
    if tokens is not None:
        if queries is not None or keys is not None:
            raise ValueError("tokens: expected them alone, or queries and keys, got both")
        queries = keys = tokens
    view = make_view(filter, head, entry, rows, columns)
    if axes is not None and len(view.heads) > 1:
        raise ValueError(f"head: expected one of the {filter.shape[-3]} heads where axes are given, got {head!r}")
    labels = make_labels(view, queries, keys)
    check_scale(scale)
    outlined = None if oracle is None else compute_cells(oracle_filter(oracle, filter), view) > 0
    cells = compute_cells(filter, view)
    ink, hidden = SCALES[scale](cells, view.chance), compute_hidden(filter, view)
    # An edit may put weight where the mask allows none.
    hidden = None if hidden is None else hidden & (cells == 0)
    picture = HeadsPicture(view, cells, hidden, outlined, labels, ink, title)
    return picture.draw_figure() if axes is None else picture.draw_in(axes)
