"""Pictures are prepared as the files of a model say, or refused."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from jattn.linen.architecture import Architecture
from jattn.linen.vision import VisionModel
from jattn.pretrained.pictures import PictureReader, read_picture_rules

ITS = Architecture(vocabulary=1, num_layers=1, num_heads=1, width=4, hidden=4, causal=False, head="none")
MODEL = VisionModel(ITS, image_size=8, patch_size=4)

DINOV2 = {"do_center_crop": True, "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}

RULES = {
    "vit without a file": ("vit", None, (None, 2)),
    "vit": ("vit", {"size": {"height": 224, "width": 224}, "resample": 3}, (None, 3)),
    "vit of an older file": ("vit", {"size": 224, "resample": 2}, (None, 2)),
    "dinov2 without a file": ("dinov2", None, (1.0, 3)),
    "dinov2": ("dinov2", {**DINOV2, "resample": 1}, (0.875, 1)),
}


def rules(folder, kind, config):
    if config is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return read_picture_rules(folder, MODEL, kind)[0]


@pytest.mark.parametrize("case", RULES)
def test_the_crop_and_the_way_of_resizing_are_those_of_the_file(case, tmp_path):
    kind, config, expected = RULES[case]
    reader = rules(tmp_path, kind, config)
    assert (reader.crop, reader.resample) == expected


WRONG = {
    "a share": ("vit", {"crop_pct": 0.9}, "expected crop_pct = None, got 0.9"),
    "padding": ("vit", {"do_pad": True}, "expected do_pad = False, got True"),
    "a word": ("vit", {"resample": "bicubic"}, "expected resample to be a filter of Pillow from 0 to 5, got 'bicubic'"),
    "no square": ("vit", {"size": {"height": 8, "width": 9}}, "expected size to be a positive int, or an object with"),
    "a longest edge": (
        "dinov2",
        {"size": {"shortest_edge": 8, "longest_edge": 9}},
        "expected size to be a positive int, or an object with the same as shortest_edge, got {'shortest_edge': 8, ",
    ),
    "no crop": (
        "dinov2",
        {**DINOV2, "do_center_crop": False},
        "expected size to be a positive int, or an object with the same as height and width, got {'shortest_edge'",
    ),
    "a large crop": ("dinov2", {**DINOV2, "crop_size": 512}, "expected crop_size to be at most the size of 256, got"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_prepared_in_another_way_is_refused(case, tmp_path):
    kind, config, message = WRONG[case]
    with pytest.raises(ValueError, match=r"^preprocessor_config\.json: ") as caught:
        rules(tmp_path, kind, config)
    assert message in str(caught.value)


COLUMNS = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[None], 8, 0)


def test_a_share_of_the_middle_square_is_read():
    """Of 16 columns the middle square has those from 4 on, and half of it those from 6 on."""
    whole, middle = (PictureReader(4, 2, crop=share, resample=0).square(COLUMNS)[0, :, 0] for share in (1.0, 0.5))
    assert_array_equal(whole, [50, 70, 90, 110])
    assert_array_equal(middle, [60, 70, 80, 90])


def test_pictures_are_turned_as_their_exif_data_say(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right of what is stored
    Image.fromarray(COLUMNS).save(tmp_path / "turned.png", exif=exif)
    reader = PictureReader(size=4, patch_size=2, resample=0)
    assert_array_equal(reader.square(tmp_path / "turned.png"), reader.square(np.rot90(COLUMNS, -1)))


def test_pictures_of_16_bits_keep_their_greys_and_those_of_32_are_refused(tmp_path):
    deep, reader = tmp_path / "deep.png", PictureReader(size=4, patch_size=2)
    Image.fromarray(COLUMNS.astype(np.uint16) * 257).save(deep)
    assert_array_equal(reader.square(deep), reader.square(COLUMNS))
    for deeper in (np.int32, np.float32):
        with pytest.raises(ValueError, match="picture: expected 8 or 16 bits per pixel and colour, got 32"):
            reader.square(Image.fromarray(COLUMNS.astype(deeper)))
