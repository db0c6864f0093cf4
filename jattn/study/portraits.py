"""Portraits: what each head of a model does, in numbers and in a word.

A head is compared with `PATTERNS`, sets of keys that heads are known to look at: the previous token, the first one,
what came after an earlier occurrence of the query's token. A portrait is the weight that a head puts on each set,
beside what chance would put there. It works at any length: each filter is swept once for all patterns, never stored.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jattn.drawing import portrait_table as report
from jattn.filters.filter import AttentionFilter
from jattn.filters.names import reading_order
from jattn.rules.grids import static
from jattn.rules.mask import Mask, MaskLike, as_mask
from jattn.rules.masks import padding
from jattn.rules.patterns import PATTERNS, pattern_sets
from jattn.rules.trees import as_pytree
from jattn.study.pattern_folds import EVENNESS, PatternMeans

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXCESS = 0.3
"""A pattern names a head only if it holds at least this part of the weight that chance would put elsewhere."""

EVIDENCE = 5.0
"""A pattern names a head only if its judged queries together tell at least so many nats: few queries prove little."""

EVEN = 0.9
"""The evenness from which on a head that no pattern names is uniform."""

UNIFORM, MIXED, UNKNOWN = "uniform", "mixed", "unknown"


def head_portraits(
    filters: AttentionFilter | Mapping[str, AttentionFilter],
    tokens: Int[Array, "*batch S"] | None = None,
    *,
    query_tokens: Int[Array, "*batch T"] | None = None,
    offset: int | None = None,
    lengths: Int[Array, "*batch"] | None = None,
    oracle: MaskLike | Mapping[str, MaskLike] | None = None,
    band: int = 3,
) -> "HeadPortraits":
    """Measures how much weight each head puts on the keys of each pattern, beside what chance would put there.

    A query is judged by a pattern if it has a choice: it may attend to a key of the set and to one outside of it. With
    ``Vᵢ`` the keys that the filter's mask lets query ``i`` attend to, over the judged queries of all batch entries::

        mass   = mean of  Σ over the keys of the set of  wᵢⱼ / max(1, Σⱼ wᵢⱼ)
        chance = mean of  |the set and Vᵢ| / |Vᵢ|
        lift   = mass / chance

    The evenness is 1 for a head that looks at all keys alike: the mean of ``min(1, Σⱼ wᵢⱼ) exp(entropyᵢ) / |Vᵢ|`` over
    the queries that may attend to more than one.

    Args:
      filters: the filters by layer, as `capture_filters` returns them, or one, which is called ``"attention"``.
      tokens: the tokens of the keys. Without them, patterns of tokens are left out.
      query_tokens: the tokens of the queries, where they are another sequence than the keys: cross-attention. By
        default they are ``tokens[offset : offset + T]``.
      offset: the position of the first query in the keys' sequence: 0 in self-attention, ``S - T`` for the last
        queries, as in decoding. None is 0 where there are as many queries as keys and no `query_tokens`. Otherwise
        queries and keys have no positions in common: patterns that compare them are left out, and the key after any
        that holds the query's token counts as induction.
      lengths: how many queries of each batch entry are real; the others are not judged.
      oracle: one more set of keys, or several by name: a mask, or a boolean array ``[T, S]``, ``[*batch, T, S]`` or
        ``[*batch, N, T, S]``.
      band: how far away a key of the local band may be.

    Returns:
      A `HeadPortraits`: print it, ``plot`` it, ask for its ``names``. It is a pytree, so this function may run under
      jit; the table, the picture and the names are made outside.

    Raises:
      ValueError, TypeError: if an argument does not fit a filter; the message names the layer.

    Example: a head that looks one back, and one that looks at all keys alike.
      >>> import jax.numpy as jnp
      >>> import jattn
      >>> from jattn import masks
      >>> place, zeros = jnp.arange(8), jnp.zeros((8, 2, 4))
      >>> bias = jnp.stack([20.0 * (place[:, None] == place + 1), jnp.zeros((8, 8))])
      >>> filter = jattn.attention_filter(zeros, zeros, bias=bias, mask=masks.causal())
      >>> portraits = head_portraits(filter)
      >>> print(portraits)
                                    previous     local        first
      layer      head  itself       token        band         token        evenness  name
      attention  0     0.00 (0.0x)  1.00 (4.1x)  1.00 (1.6x)  0.14 (0.6x)  0.25      previous token
                 1     0.25 (1.0x)  0.25 (1.0x)  0.63 (1.0x)  0.25 (1.0x)  1.00      uniform
      >>> portraits.heads("previous token")
      {'attention': [0]}
      >>> portraits.mass["attention"]["previous token"].round(2).tolist()
      [1.0, 0.25]

    Source: heads judged by such patterns: Voita et al. 2019, "Analyzing multi-head self-attention", section 5.1; Clark
    et al. 2019, "What does BERT look at?", section 3. `jattn.patterns` has the source of each pattern.
    """
    layers, named = _as_layers(filters), _as_named(oracle)
    measured: dict[str, dict[str, dict[str, Array]]] = {}
    for layer, filter in layers.items():
        try:
            sets = pattern_sets(filter.shape, tokens, query_tokens, offset, band)
            sets |= {name: _fit_set(name, keys, filter.shape) for name, keys in named.items()}
            fold = PatternMeans(sets, _real_queries(lengths, filter.shape))
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"layer {layer!r}: {error}") from error
        # NaN is what a pattern that judges no query is said to have.
        with jax.debug_nans(False):
            measured[layer] = filter.fold(fold)

    def each(what: str) -> dict[str, dict[str, Array]]:
        return {
            layer: {name: means[what] for name, means in of.items() if name != EVENNESS}
            for layer, of in measured.items()
        }

    evenness = {layer: of[EVENNESS]["mass"] for layer, of in measured.items()}
    return HeadPortraits(each("mass"), each("chance"), each("queries"), evenness, (*PATTERNS, *named))


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False)
class HeadPortraits:
    """What `head_portraits` measures: by layer and by pattern, an array of one number per head.

    ``|`` joins the portraits of different layers, such as those of self-attention and of cross-attention.

    Attributes:
      mass: the weight on the keys of the pattern; NaN where it judges no query.
      chance: what a head that looks at all keys alike puts there; NaN likewise.
      queries: how many queries are judged.
      evenness: by layer alone: 1 for a head that looks at all keys alike, near 0 for one that looks at one of many.
      patterns: the names of all patterns, in order.
    """

    mass: dict[str, dict[str, Float[Array, " N"]]]
    chance: dict[str, dict[str, Float[Array, " N"]]]
    queries: dict[str, dict[str, Int[Array, " N"]]]
    evenness: dict[str, Float[Array, " N"]]
    patterns: tuple[str, ...] = static()

    @property
    def lift(self) -> dict[str, dict[str, Float[Array, " N"]]]:
        """How many times the chance the mass is, by layer and by pattern."""
        return jax.tree.map(jnp.divide, self.mass, self.chance)

    def names(self) -> dict[str, list[str]]:
        """Names each head by the pattern that tells most about it.

        ::

            excess     = (mass - chance) / (1 - chance)
            divergence = mass ln(mass / chance) + (1 - mass) ln((1 - mass) / (1 - chance))

        The divergence is what a judged query tells, in nats, of how the head differs from chance. Of the patterns whose
        excess is at least `EXCESS`, and whose queries times divergence is at least `EVIDENCE`, the one with the largest
        divergence names the head. So of two sets that hold all the weight it is the smaller one, and of nested ones a
        larger one if the smaller ones hold little of the weight. Of equals an oracle comes first, then the order of
        `PATTERNS`. Without any, the head is ``"uniform"`` if its evenness is at least `EVEN`, or else ``"mixed"``;
        ``"unknown"`` if no query has a choice or a weight is NaN.

        Returns:
          By layer, the name of each head.
        """
        order = sorted(self.patterns, key=lambda name: name in PATTERNS)
        names = {}
        for layer in reading_order(self.mass):
            parts = self.mass[layer], self.chance[layer], self.queries[layer]
            scores = {name: np.stack([of[name] for of in parts], axis=-1) for name in order if name in parts[0]}
            names[layer] = [
                _name({name: of_heads[head] for name, of_heads in scores.items()}, evenness)
                for head, evenness in enumerate(np.asarray(self.evenness[layer]))
            ]
        return names

    def heads(self, name: str) -> dict[str, list[int]]:
        """Lists the heads of one name, by layer; layers without any are left out."""
        found = {layer: [head for head, its in enumerate(of) if its == name] for layer, of in self.names().items()}
        return {layer: heads for layer, heads in found.items() if heads}

    def __or__(self, other: "HeadPortraits") -> "HeadPortraits":
        if not isinstance(other, HeadPortraits):
            return NotImplemented
        for layer in self.mass:
            if layer in other.mass:
                raise ValueError(f"portraits: expected different layers to join, got {layer!r} twice")
        return HeadPortraits(
            self.mass | other.mass,
            self.chance | other.chance,
            self.queries | other.queries,
            self.evenness | other.evenness,
            tuple(dict.fromkeys((*PATTERNS, *self.patterns, *other.patterns))),
        )

    def __repr__(self) -> str:
        heads = sum(of.shape[-1] for of in self.evenness.values())
        return f"HeadPortraits({len(self.mass)} layers, {heads} heads)"

    def __str__(self) -> str:
        return report.write_table(self)

    def _repr_html_(self) -> str:
        return report.write_html(self)

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draws all heads in one picture: a row per head, a column per pattern, the name of the head at the right.

        Ink is mass, written in each cell with the lift after it; the cell that gives a head its name is outlined.
        Patterns that judge no query are left out.

        Args:
          axes: where to draw; by default new axes of the right size.

        Returns:
          The axes.
        """
        return report.draw(self, axes)


def _name(scores: Mapping[str, Float[np.ndarray, "3"]], evenness: float) -> str:
    """Names a head by the mass, chance and number of queries of each pattern, in the order of preference."""
    best, most = None, 0.0
    for name, (mass, chance, queries) in scores.items():
        excess, divergence = (mass - chance) / (1 - chance), _divergence(mass, chance)
        # Where there is NaN, no comparison is true. Sets of the same keys are equal, however their sums are rounded.
        if excess >= EXCESS and queries * divergence >= EVIDENCE and divergence > most + 1e-4:
            best, most = name, divergence
    if best is not None:
        return best
    if np.isnan(evenness):
        return UNKNOWN
    return UNIFORM if evenness >= EVEN else MIXED


def _divergence(mass: float, chance: float) -> float:
    if not 0 < mass < 1:
        return -np.log(chance) if mass >= 1 else -np.log1p(-chance)
    return mass * np.log(mass / chance) + (1 - mass) * np.log((1 - mass) / (1 - chance))


def _as_layers(filters: Any) -> dict[str, AttentionFilter]:
    layers = {"attention": filters} if isinstance(filters, AttentionFilter) else filters
    expected = "filters: expected an AttentionFilter, or a dict of them by layer"
    if not isinstance(layers, Mapping):
        raise TypeError(f"{expected}, got {type(filters).__name__}")
    if not layers:
        raise ValueError(f"{expected}, got none")
    for layer, filter in layers.items():
        if not isinstance(filter, AttentionFilter):
            raise TypeError(f"{expected}, got {type(filter).__name__} for {layer!r}")
    return dict(layers)


def _as_named(oracle: Any) -> dict[str, Any]:
    named = oracle if isinstance(oracle, Mapping) else {} if oracle is None else {"oracle": oracle}
    taken = (*PATTERNS, EVENNESS, UNIFORM, MIXED, UNKNOWN)
    for name in named:
        if not isinstance(name, str):
            raise TypeError(f"oracle: expected sets of keys by name, got {name!r} for a name")
        if name in taken:
            raise ValueError(f"oracle: expected a name other than {', '.join(taken)}, got {name!r}")
    return dict(named)


def _fit_set(name: str, keys: Any, shape: tuple[int, ...]) -> Mask:
    if isinstance(keys, Mask):
        return keys.fit(shape)
    batch, rows = shape[:-3], shape[-2:]
    expected = [rows, (*batch, *rows), shape]
    if not hasattr(keys, "dtype") or keys.dtype != bool:
        got = keys.dtype if hasattr(keys, "dtype") else type(keys).__name__
        raise TypeError(f"oracle {name!r}: expected a mask or an array of booleans (True = in the set), got {got}")
    if keys.shape not in (*expected, (*batch, 1, *rows)):
        shapes = " or ".join(map(str, dict.fromkeys(expected)))
        raise ValueError(
            f"oracle {name!r}: expected shape [T, S], [*batch, T, S] or [*batch, N, T, S], here {shapes}, "
            f"got {keys.shape}"
        )
    array = jnp.asarray(keys)
    return as_mask(array if array.ndim in (2, len(shape)) else array[..., None, :, :]).fit(shape)


def _real_queries(lengths: Any, shape: tuple[int, ...]) -> Mask | None:
    if lengths is None:
        return None
    lengths = np.asarray(lengths) if isinstance(lengths, int) else lengths
    batch = shape[:-3]
    if not hasattr(lengths, "dtype") or not jnp.issubdtype(lengths.dtype, jnp.integer):
        got = lengths.dtype if hasattr(lengths, "dtype") else type(lengths).__name__
        raise TypeError(f"lengths: expected integers, one per batch entry, got {got}")
    if lengths.shape not in ((), batch):
        raise ValueError(f"lengths: expected one per batch entry, of shape {batch}, got {lengths.shape}")
    return padding(jnp.int32(shape[-1]), lengths).fit(shape)
