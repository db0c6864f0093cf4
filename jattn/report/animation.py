"""The animation of a run: its filters, snapshot after snapshot, as a GIF.

Every frame is one plane of palette indices: 0 to `TOP` run along the ramp, so that text, too, is drawn in ink with
soft edges; then the colour of what is not a number, then the accent. Nothing is quantised, and frames stay small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from jattn.report.look import ACCENT, INVALID, ramp_colours, token_label, weight_levels
from jattn.report.measures import oracle_mass, oracle_matrix
from jattn.report.record import RunRecord
from jattn.report.selection import Head, choose_heads, choose_snapshots, omission

HEADS, FRAMES = 16, 80
"""The most heads in a frame, and the most frames."""

NAMED_CELL = 9
"""The smallest cell, in pixels, whose tokens are written beside it."""

FRAME_MS, LAST_FRAME_MS = 220, 3000

TOP, ORACLE = 253, 255
INK, GREY, FAINT = TOP, 165, 50
MARGIN, HEADING, CAPTION, LEGEND = 16, 46, 36, 34


@dataclass(frozen=True)
class _Tile:
    """Places one head in the frame: the corner and the side of its cells, and its oracle ``[queries, keys]``."""

    head: Head
    x: int
    y: int
    cell: int
    oracle: np.ndarray


def draw_frames(record: RunRecord) -> list[Image.Image]:
    """Draws the filters of the first example at each snapshot, the oracle outlined; at most `FRAMES` frames."""
    tiles, size = _plan_tiles(record)
    still = _draw_still(record, tiles, size)
    return [_draw_frame(record, tiles, still, shown) for shown in choose_snapshots(len(record.steps), FRAMES)]


def save_frames(frames: Sequence[Image.Image], file: BinaryIO) -> None:
    """Writes the frames as a GIF that repeats for ever and rests on the last."""
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def _plan_tiles(record: RunRecord) -> tuple[list[_Tile], tuple[int, int]]:
    """Lays the heads out in rows of up to four; returns the tiles and the size of the frame."""
    example = record.probes.examples[0]
    heads = choose_heads(record, HEADS)
    queries = max((example.sequences[head.layer.queries] for head in heads), key=len)
    keys = max((example.sequences[head.layer.keys] for head in heads), key=len)
    most = max(head.layer.heads for head in heads)
    columns = min(4, len(heads) if most == 1 else most)
    cell = max(2, (352 if len(heads) == 1 else 208) // max(len(queries), len(keys)))
    left, below = (_label_room(heads, record, cell, side) for side in ("queries", "keys"))
    width = max(len(keys) * cell, 7 * max(len(head.name) for head in heads)) + left + MARGIN
    height = len(queries) * cell + below + CAPTION
    tiles = []
    for index, head in enumerate(heads):
        x = MARGIN + left + index % columns * width
        y = HEADING + CAPTION + index // columns * height
        tiles.append(_Tile(head, x, y, cell, oracle_matrix(head.layer, example)))
    rows = math.ceil(len(heads) / columns)
    return tiles, (max(MARGIN + columns * width, 380), HEADING + rows * height + LEGEND)


def _label_room(heads: list[Head], record: RunRecord, cell: int, side: str) -> int:
    """Returns how many pixels the tokens beside or below take: few where cells are too small to name."""
    sequences = record.probes.examples[0].sequences
    longest = max(len(token_label(token)) for head in heads for token in sequences[getattr(head.layer, side)])
    return 14 + 8 * longest if cell >= NAMED_CELL else 8


def _draw_still(record: RunRecord, tiles: list[_Tile], size: tuple[int, int]) -> Image.Image:
    """Draws what every frame shows alike: names, tokens, frames of the filters, and the legend."""
    image = Image.new("L", size, 0)
    draw = ImageDraw.Draw(image)
    sequences = record.probes.examples[0].sequences
    for tile in tiles:
        draw.text((tile.x, tile.y - CAPTION + 2), tile.head.name, INK, _font(11))
        _draw_tokens(image, tile, sequences[tile.head.layer.queries], sequences[tile.head.layer.keys])
        rows, columns = tile.oracle.shape
        draw.rectangle((tile.x - 1, tile.y - 1, tile.x + columns * tile.cell, tile.y + rows * tile.cell), outline=FAINT)
    words = [word for word in ["row: query, column: key", omission(record, len(tiles))] if word]
    x, y = tiles[0].x, size[1] - LEGEND + 8
    if any(tile.oracle.any() for tile in tiles):
        draw.rectangle((x, y + 2, x + 10, y + 12), outline=ORACLE, width=2)
        draw.text((x + 17, y), "; ".join(["the oracle", *words]), GREY, _font(11))
    else:
        draw.text((x, y), "; ".join(words), GREY, _font(11))
    return image


def _draw_tokens(image: Image.Image, tile: _Tile, queries: Sequence[str], keys: Sequence[str]) -> None:
    """Writes the queries on the left and the keys below, upright where one has more than two letters."""
    if tile.cell < NAMED_CELL:
        return
    draw, font, half = ImageDraw.Draw(image), _font(min(12, tile.cell)), tile.cell / 2
    for row, token in enumerate(queries):
        draw.text((tile.x - 7, tile.y + row * tile.cell + half), token_label(token), GREY, font, anchor="rm")
    labels, bottom = [token_label(token) for token in keys], tile.y + len(queries) * tile.cell + 6
    for column, label in enumerate(labels):
        x = tile.x + column * tile.cell
        if max(map(len, labels)) <= 2:
            draw.text((x + half, bottom), label, GREY, font, anchor="mt")
            continue
        strip = Image.new("L", (8 * max(map(len, labels)), tile.cell), 0)
        ImageDraw.Draw(strip).text((strip.width, half), label, GREY, font, anchor="rm")
        image.paste(strip.rotate(90, expand=True), (x, bottom))


def _draw_frame(record: RunRecord, tiles: list[_Tile], still: Image.Image, snapshot: int) -> Image.Image:
    image = still.copy()
    draw = ImageDraw.Draw(image)
    draw.text((tiles[0].x, 14), f"step {record.steps[snapshot]:,}", INK, _font(17))
    for tile in tiles:
        filters = record.filters(snapshot, tile.head.layer, 0)
        levels = weight_levels(filters[tile.head.head], TOP)
        cells = levels.repeat(tile.cell, axis=0).repeat(tile.cell, axis=1)
        image.paste(Image.fromarray(cells), (tile.x, tile.y))
        if tile.oracle.any():
            mass = oracle_mass(filters, tile.oracle)[tile.head.head]
            draw.text((tile.x, tile.y - CAPTION + 16), f"mass on the oracle {mass:.2f}", GREY, _font(11))
        width, edge = 2 if tile.cell > 9 else 1, tile.cell - 1
        for query, key in np.argwhere(tile.oracle):
            x, y = tile.x + key * tile.cell, tile.y + query * tile.cell
            draw.rectangle((x, y, x + edge, y + edge), outline=ORACLE, width=width)
    image.putpalette(_palette())
    return image


def _palette() -> bytes:
    rest = [ImageColor.getrgb(INVALID), ImageColor.getrgb(ACCENT)]
    return np.concatenate([ramp_colours(TOP + 1), np.array(rest, np.uint8)]).tobytes()


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
