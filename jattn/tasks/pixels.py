"""Pictures as models eat them: cut into square patches, a row of red, green and blue values per patch.

Glossary of shapes: ``S`` patches in reading order, ``P`` values of one, pixel by pixel in reading order, three each.
"""

import math

import numpy as np
from jaxtyping import Float, Int

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
"""The colours that shapes have, as red, green and blue; what is black is background."""


def pixel_places(image: int, patch: int) -> tuple[Int[np.ndarray, "S p"], Int[np.ndarray, "S p"]]:
    """Returns the row and the column of each pixel of each patch.

    Args:
      image: how many pixels wide and high the picture is: a multiple of `patch`.
      patch: how many pixels wide and high a patch is.

    Example: the second patch of four.
      >>> from jattn.tasks.pixels import pixel_places
      >>> rows, columns = pixel_places(4, 2)
      >>> rows[1].tolist(), columns[1].tolist()
      ([0, 0, 1, 1], [2, 3, 2, 3])
    """
    patches = np.arange(image * image).reshape(image // patch, patch, image // patch, patch).swapaxes(1, 2)
    rows, columns = np.divmod(patches.reshape(-1, patch * patch).astype(np.int32), np.int32(image))
    return rows, columns


def join(patches: Float[np.ndarray, "S P"]) -> Float[np.ndarray, "H H 3"]:
    """Puts the patches of a square picture together again.

    Example:
      >>> import numpy as np
      >>> from jattn.tasks.pixels import join
      >>> join(np.arange(4 * 3.0).reshape(4, 3))[1, 0].tolist()
      [6.0, 7.0, 8.0]
    """
    count, values = patches.shape
    side, patch = math.isqrt(count), math.isqrt(values // 3)
    pixels = np.asarray(patches).reshape(side, side, patch, patch, 3).swapaxes(1, 2)
    return pixels.reshape(side * patch, side * patch, 3)


def letters_of(pixels: Float[np.ndarray, "*n 3"]) -> list[str]:
    """Writes each pixel as the first letter of the colour that is nearest to it, or ``.`` for black."""
    names = [".", *(name[0] for name in COLOURS)]
    known = np.array([(0, 0, 0), *COLOURS.values()])
    distances = np.sum((np.asarray(pixels).reshape(-1, 1, 3) - known) ** 2, axis=-1)
    return [names[nearest] for nearest in np.argmin(distances, axis=-1)]


def describe_patch(patch: Float[np.ndarray, " P"]) -> str:
    """Writes a patch as a word: how many of its pixels have which colour.

    Example: three red pixels, one that is blue.
      >>> import numpy as np
      >>> from jattn.tasks.pixels import describe_patch
      >>> describe_patch(np.array([1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0]))
      'r3b1'
      >>> describe_patch(np.zeros(12))
      '.'
    """
    letters = letters_of(patch)
    return "".join(f"{name[0]}{letters.count(name[0])}" for name in COLOURS if name[0] in letters) or "."
