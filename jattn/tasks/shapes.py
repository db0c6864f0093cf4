"""Pictures: captions that only the pixels decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jattn.tasks.late import jax, jnp
from jattn.tasks.pixels import COLOURS, describe_patch, pixel_places
from jattn.tasks.sampling import distinct, uniform_token, uniform_tokens
from jattn.tasks.sequences import Sequence, Task

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int, PRNGKeyArray

SHAPES = ("square", "circle", "triangle", "cross")
RELATIONS = ("left-of", "above")
_MOST_PATCHES = 64


def captions(image: int = 12, patch: int = 4, shape: int = 4) -> Task:
    """Describes a picture of two coloured shapes: ``red square left-of blue circle``.

    The picture is black, `image` pixels wide and high, and comes as ``(image / patch)²`` patches in reading order,
    each a row of its pixels' red, green and blue values. Two shapes, each `shape` pixels wide and high, lie anywhere
    in it, in one of two ways: side by side, where some row of pixels crosses the squares around both and no column
    does, or one above the other, where some column does and no row. So a picture has one caption: it begins with the
    left shape or the upper one, and says ``left-of`` or ``above``. Either way, each colour and each shape are as
    likely, whatever the others are.

    The oracle of a word on a shape is every patch that shows some of it; that of the word between, every patch that
    shows some of either. Patches have short names: ``y10`` has ten yellow pixels, ``.`` none of a shape.

    Args:
      image: how many pixels wide and high the picture is: a multiple of `patch`, and room for two shapes.
      patch: how many pixels wide and high a patch is.
      shape: how many pixels wide and high a shape is; of at least 3, no two look alike.

    Example: a letter per pixel, and below each word the patches of its oracle.
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.captions(), seed=6))
      +----+----+----+
      |....|....|bbbb|
      |....|....|bbbb|
      |....|....|bbbb|
      |....|....|bbbb|
      +----+----+----+
      |....|....|....|
      |....|....|....|
      |....|....|....|
      |....|....|....|
      +----+----+----+
      |....|..r.|....|
      |....|..rr|....|
      |....|..rr|r...|
      |....|..rr|rr..|
      +----+----+----+
      blue  square  above  red  triangle
      ..#   ..#     ..#    ...  ...
      ...   ...     ...    ...  ...
      ...   ...     .##    .##  .##

    Source: Xu et al., "Show, attend and tell: Neural image caption generation with visual attention", 2015; the shapes
    are like those of Kuhnle and Copestake, "ShapeWorld - A new test methodology for multimodal language understanding",
    2017.
    """
    _check_sizes(image, patch, shape)
    rows, columns = pixel_places(image, patch)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        palette = jnp.array(list(COLOURS.values()), jnp.float32)
        x, y = jnp.array(columns), jnp.array(rows)
        rng_of_colours, rng_of_shapes, rng_of_relation, rng_of_places = jax.random.split(rng, 4)
        colours = uniform_tokens(rng_of_colours, len(COLOURS), 2)
        shapes = uniform_tokens(rng_of_shapes, len(SHAPES), 2)
        above = jax.random.bernoulli(rng_of_relation)
        along, across = _two_places(rng_of_places, image, shape)
        left, top = jnp.where(above, across, along), jnp.where(above, along, across)
        first, second = (_drawn(x - left[i], y - top[i], shapes[i], shape) for i in range(2))
        pixels = first[..., None] * palette[colours[0]] + second[..., None] * palette[colours[1]]
        shows = jnp.stack([jnp.any(first, axis=-1), jnp.any(second, axis=-1)])
        words = jnp.stack([colours, len(COLOURS) + shapes], axis=1)
        relation = len(COLOURS) + len(SHAPES) + above.astype(jnp.int32)
        of_word = jnp.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 1]], bool)
        return Sequence(
            source=pixels.reshape(room, -1),
            source_length=jnp.int32(len(rows)),
            target=jnp.concatenate([words[0], relation[None], words[1]]),
            target_length=jnp.int32(5),
            alignment=jnp.any(of_word[..., None] & shows, axis=1),
        )

    return Task(
        name="captions",
        symbols=(*COLOURS, *SHAPES, *RELATIONS),
        sample=sample,
        shortest=len(rows),
        longest=len(rows),
        length=len(rows),
        target_room=lambda room: 5,
        layouts=("encoder_decoder",),
        describe=describe_patch,
    )


def _two_places(rng: PRNGKeyArray, image: int, shape: int) -> tuple[Int[Array, " 2"], Int[Array, " 2"]]:
    """Draws where two intervals of a line begin that do not meet, in order; and where two begin that do."""
    rng_of_along, rng_of_first, rng_of_second = jax.random.split(rng, 3)
    last = image - shape
    # Two intervals that do not meet are two different points, pulled apart.
    points = jnp.sort(distinct(rng_of_along, last - shape + 2, 2))
    along = points + jnp.array([0, shape - 1], jnp.int32)
    first = uniform_token(rng_of_first, last + 1)
    least, most = jnp.maximum(first - shape + 1, 0), jnp.minimum(first + shape - 1, last)
    second = least + uniform_token(rng_of_second, most - least + 1)
    return along, jnp.stack([first, second])


def _drawn(x: Int[Array, "S p"], y: Int[Array, "S p"], kind: Int[Array, ""], size: int) -> Bool[Array, "S p"]:
    """Says which pixels a shape of a kind covers, from where they lie seen from its upper left pixel."""
    across, down = 2 * x - (size - 1), 2 * y - (size - 1)
    covers = jnp.stack(
        [
            jnp.ones(x.shape, bool),
            across**2 + down**2 < size**2 - 1,
            x <= y,
            jnp.abs(across) == jnp.abs(down),
        ]
    )
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    return inside & jnp.any(covers & (kind == jnp.arange(len(SHAPES)))[:, None, None], axis=0)


def _check_sizes(image: int, patch: int, shape: int) -> None:
    if patch < 1:
        raise ValueError(f"patch: expected at least 1 pixel, got {patch}; nearest: 1")
    widest = _MOST_PATCHES * patch // 2
    if not 3 <= shape <= widest:
        raise ValueError(
            f"shape: expected from 3 to {widest} pixels for patches of {patch}, got {shape}; "
            f"nearest: {min(max(shape, 3), widest)}"
        )
    least, most = -(-2 * shape // patch) * patch, _MOST_PATCHES * patch
    if image % patch or not least <= image <= most:
        nearest = min(max(round(image / patch) * patch, least), most)
        raise ValueError(
            f"image: expected a multiple of {patch} from {least} to {most} pixels, for two shapes of {shape} and "
            f"patches of {patch}, got {image}; nearest: {nearest}"
        )
