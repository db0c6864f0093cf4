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

SIDE = 224
"""The size of pictures, and of the square that is cut from them, where files do not say it."""

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
      crop: the side of the middle square that is read, as a share of a picture's shorter side; None reads all of the
        picture, stretched to a square.
      resample: how Pillow resizes, such as 2, bilinear, or 3, bicubic.

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
    crop: float | None = None
    resample: int = 3

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
            ``[Y, X, 3]``. It is turned as its EXIF data say; of 16 bits per pixel the upper 8 are kept, rounded.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if it holds no picture that can be read, one of too many pixels, or one of 32 bits per pixel.
        """
        image = _opened(picture).convert("RGB")
        box = None
        if self.crop is not None:
            side = min(image.size) * self.crop
            left, top = ((length - side) / 2 for length in image.size)
            box = left, top, left + side, top + side
        return np.asarray(image.resize((self.size, self.size), self.resample, box))


def _opened(picture: Any) -> Any:
    """Opens a picture whose pixels are not yet read, unless there are too many of them."""
    from PIL import Image

    if isinstance(picture, Image.Image):
        return _upright(picture)
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
            return _upright(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path.name}: expected a picture, got a file that cannot be read: {reason}") from error


def _upright(image: Any) -> Any:
    """Turns a picture as its EXIF data say, and makes 8 bits of 16, which Pillow would cut off at 255."""
    from PIL import Image, ImageOps

    if image.mode in ("I", "F"):
        raise ValueError(f"picture: expected 8 or 16 bits per pixel and colour, got 32 (mode {image.mode!r})")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray(((np.asarray(image, np.uint32) + 128) // 257).astype(np.uint8))
    return image


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
    for name in ("do_pad", "do_flip_channel_order"):
        config.expect(name, False)
    config.expect("crop_pct", None)
    lead = ("[class]", *(f"[register {number}]" for number in range(1, model.registers + 1)))
    crop, resample = _crop(config, kind), _resample(config, kind)
    reader = PictureReader(model.image_size, model.patch_size, lead, mean, std, crop, resample)
    return reader, [path] if path.exists() else []


def _crop(config: Config, kind: str) -> float | None:
    """Returns the share of the shorter side that the middle square has, or None where all of a picture is read."""
    if not config.flag("do_center_crop", kind != "vit"):
        _side(config, "size", ("height", "width"))
        return None
    whole, middle = _side(config, "size", ("shortest_edge",)), _side(config, "crop_size", ("height", "width"))
    if middle > whole:
        raise config.error("crop_size", f"at most the size of {whole}", config.get("crop_size"))
    return middle / whole


def _side(config: Config, name: str, keys: tuple[str, ...]) -> int:
    """Returns one of the sides, all the same, of a size that is a number or an object with these keys."""
    value = config.get(name, SIDE)
    sides = [value] if type(value) is int else [value.get(key) for key in keys] if isinstance(value, dict) else []
    known = not isinstance(value, dict) or {key for key in value if value[key] is not None} == set(keys)
    if not known or len(set(sides)) != 1 or type(sides[0]) is not int or not 0 < sides[0] < 2**31:
        raise config.error(name, f"a positive int, or an object with the same as {' and '.join(keys)}", value)
    return sides[0]


def _resample(config: Config, kind: str) -> int:
    value = config.get("resample", 2 if kind == "vit" else 3)
    if type(value) is not int or not 0 <= value <= 5:
        raise config.error("resample", "a filter of Pillow from 0 to 5", value)
    return value


def _colours(config: Config, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    found = config.get(name, default)
    least = 0 if name == "image_mean" else 1e-6
    is_list = isinstance(found, list | tuple) and len(found) == 3
    if not is_list or not all(type(one) in (int, float) and least <= one <= 1e6 for one in found):
        raise config.error(name, f"three numbers of at least {least:g}", found)
    return tuple(map(float, found))
