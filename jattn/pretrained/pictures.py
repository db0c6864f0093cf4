"""Pictures as vision models read them, by the ``preprocessor_config.json`` that they are published with."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jattn.linen.vision import VisionModel
from jattn.pretrained.families import Config
from jattn.pretrained.tensors import read_json

FILE = "preprocessor_config.json"

HALF = (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MOST_PIXELS = 100_000_000
"""How many pixels a picture may have, for a small file can say that it holds any number."""


@dataclasses.dataclass(frozen=True)
class PictureReader:
    """Turns pictures into the pixels that a vision model reads: ``(x / 255 - mean) / std``, in a square of its size.

    Args:
      size: rows of pixels, and columns.
      patch_size: those of a patch.
      lead: what the tokens before the patches are called.
      mean, std: by colour.
      crop: whether the middle square of a picture is read; otherwise all of it, stretched to a square.

    Example:
      >>> import numpy as np
      >>> from jattn.pretrained.pictures import PictureReader
      >>> reader = PictureReader(size=4, patch_size=2)
      >>> reader(np.full((9, 5, 3), 255, np.uint8)).shape, reader.patches
      ((4, 4, 3), (2, 2))
      >>> reader.words
      ['[class]', '1,1', '1,2', '2,1', '2,2']
    """

    size: int
    patch_size: int
    lead: tuple[str, ...] = ("[class]",)
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    crop: bool = False

    @property
    def patches(self) -> tuple[int, int]:
        """How many rows of patches there are, and columns."""
        return self.size // self.patch_size, self.size // self.patch_size

    @property
    def words(self) -> list[str]:
        """A word for each token: what comes before the patches, then each patch by its row and column, from 1."""
        rows, columns = self.patches
        return [*self.lead, *(f"{row},{column}" for row in range(1, rows + 1) for column in range(1, columns + 1))]

    def __call__(self, picture: Any) -> np.ndarray:
        """Returns the pixels ``[size, size, 3]``, float32; see `square` for what a picture may be."""
        return ((self.square(picture) / np.float32(255) - self.mean) / self.std).astype(np.float32)

    def square(self, picture: Any) -> np.ndarray:
        """Returns the picture as the model sees it, for people: uint8 ``[size, size, 3]``.

        Args:
          picture: the path of a file that Pillow reads, an image of Pillow, or an array of uint8 ``[Y, X]`` or
            ``[Y, X, 3]``.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if it holds no picture that can be read, or one of too many pixels.
        """
        image = _opened(picture)
        if self.crop:
            side = min(image.size)
            left, top = (image.size[0] - side) // 2, (image.size[1] - side) // 2
            image = image.crop((left, top, left + side, top + side))
        # Bicubic, as most of these models were trained.
        return np.asarray(image.convert("RGB").resize((self.size, self.size), 3))


def _opened(picture: Any) -> Any:
    """Opens a picture whose pixels are not yet read, unless there are too many of them."""
    from PIL import Image

    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, str | Path):
        array = np.asarray(picture)
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or not array.size:
            raise ValueError(f"picture: expected uint8 [Y, X] or [Y, X, 3], got {array.dtype} {list(array.shape)}")
        return Image.fromarray(array)
    path = Path(picture)
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a picture, got no such file")
    try:
        with Image.open(path) as image:
            if image.size[0] * image.size[1] > MOST_PIXELS:
                raise ValueError(f"expected at most {MOST_PIXELS:,} pixels, got {image.size[0]} x {image.size[1]}")
            image.load()
            return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path.name}: expected a picture, got a file that cannot be read: {reason}") from error


def read_picture_rules(folder: Any, model: VisionModel, kind: str) -> tuple[PictureReader | None, list[Path]]:
    """Reads how pictures are prepared for a vision model, or takes what models of its kind mostly do.

    Args:
      folder: that of the weights.
      model: what reads the pictures.
      kind: its ``model_type``.

    Returns:
      The reader, or None for a model of other than three colours; and the files that were read.

    Raises:
      ValueError: if pictures are to be prepared as is not built here.
    """
    path = folder / FILE
    if model.channels != len(HALF):
        return None, []
    config = Config(read_json(path) if path.exists() else {}, FILE)
    config.expect("do_resize", True)
    config.expect("do_rescale", True)
    config.expect("rescale_factor", 1 / 255, 0.00392156862745098)
    mean, std = (HALF, HALF) if kind == "vit" else IMAGENET
    if config.flag("do_normalize", True):
        mean, std = _colours(config, "image_mean", mean), _colours(config, "image_std", std)
    else:
        mean, std = (0.0,) * len(HALF), (1.0,) * len(HALF)
    reader = PictureReader(
        model.image_size,
        model.patch_size,
        ("[class]", *(f"[register {number}]" for number in range(1, model.registers + 1))),
        mean,
        std,
        config.flag("do_center_crop", kind != "vit"),
    )
    return reader, [path] if path.exists() else []


def _colours(config: Config, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    found = config.get(name, default)
    least = 0 if name == "image_mean" else 1e-6
    is_list = isinstance(found, list | tuple) and len(found) == 3
    if not is_list or not all(type(one) in (int, float) and least <= one <= 1e6 for one in found):
        raise config.error(name, f"three numbers of at least {least:g}", found)
    return tuple(map(float, found))
