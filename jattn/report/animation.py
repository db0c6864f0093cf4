"""The animation of a run: its filters, snapshot after snapshot, as a GIF.

Every frame is one plane of palette indices: 0 to `TOP` run along the ramp, so that text, too, is drawn in ink with
soft edges; then the colours of what is not a number, of the oracle and of the hatching. Nothing is quantised,
and frames stay small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jattn.drawing.bins import bin_labels, tick_bins
from jattn.drawing.hatching import hatch_pixels
from jattn.drawing.images import cell_pixels, palette
from jattn.drawing.look import ACCENT, HATCH, HATCH_PAPER, in_own_style, token_label
from jattn.report.measures import measure, oracle_matrix
from jattn.report.pictures import Spots, choose_spots
from jattn.report.record import RunRecord
from jattn.report.selection import Head, choose_heads, choose_snapshots, omission

HEADS, FRAMES = 16, 80
"""The most heads in a frame, and the most frames."""

NAMED_CELL = 9
"""The smallest cell, in pixels, whose tokens are written beside it."""

FRAMED_CELL = 5
"""The smallest cell, in pixels, that is outlined inside; an outline around smaller ones leaves their ink to be seen."""

POSITION_ROOM = {"queries": 76, "keys": 24}
"""How many pixels the positions of a map's rows and columns take."""

SPOT = 132
"""How many pixels wide the room is of a picture with the weights of one query over it."""

FRAME_MS, LAST_FRAME_MS = 220, 3000

TOP = 251
ORACLE, LINES, PAPER = TOP + 2, TOP + 3, TOP + 4
INK, GREY, FAINT = TOP, 165, 50
MARGIN, HEADING, CAPTION, LEGEND = 16, 46, 36, 34
LEGEND_LINE, ORACLE_SIGN = 16, 17


@dataclass(frozen=True)
class _Tile:
    """Places one head in the frame: the corner and the side of its cells, and its oracle ``[rows, columns]``."""

    head: Head
    x: int
    y: int
    cell: int
    oracle: np.ndarray

    @property
    def right(self) -> int:
        """The pixel after the last column."""
        return self.x + self.oracle.shape[1] * self.cell

    @property
    def bottom(self) -> int:
        """The pixel after the last row."""
        return self.y + self.oracle.shape[0] * self.cell


@in_own_style
def draw_frames(record: RunRecord) -> list[Image.Image]:
    """Draws the filters of the first example at each snapshot, the oracle outlined; at most `FRAMES` frames."""
    tiles, size = _plan_tiles(record)
    still, spots = _draw_still(record, tiles, size), choose_spots(record)
    shown = choose_snapshots(len(record.steps), FRAMES)
    frames = [_draw_frame(record, tiles, still, snapshot) for snapshot in shown]
    if spots is None:
        return frames
    return [_with_spots(frame, spots, snapshot) for frame, snapshot in zip(frames, shown, strict=True)]


def save_frames(frames: Sequence[Image.Image], file: BinaryIO) -> None:
    """Writes the frames as a GIF that repeats for ever and rests on the last."""
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def _plan_tiles(record: RunRecord) -> tuple[list[_Tile], tuple[int, int]]:
    """Lays the heads out in rows of up to four; returns the tiles and the size of the frame."""
    example = record.probes.examples[0]
    heads = choose_heads(record, HEADS)
    sizes = [record.bins(head.layer, 0) for head in heads]
    queries, keys = (max(counts) for counts in zip(*sizes, strict=True))
    most = max(head.layer.heads for head in heads)
    columns = min(4, len(heads) if most == 1 else most)
    cell = _cell_side(max(queries, keys), len(heads) == 1, record.has_maps)
    left, below = (_label_room(heads, record, cell, side) for side in ("queries", "keys"))
    width = max(keys * cell, 7 * max(len(head.name) for head in heads)) + left + MARGIN
    height = queries * cell + below + CAPTION
    tiles = []
    for index, head in enumerate(heads):
        x = MARGIN + left + index % columns * width
        y = HEADING + CAPTION + index // columns * height
        tiles.append(_Tile(head, x, y, cell, oracle_matrix(head.layer, example, sizes[index])))
    rows, whole = math.ceil(len(heads) / columns), max(MARGIN + columns * width, 380)
    legend = LEGEND + LEGEND_LINE * (len(_legend_lines(record, tiles, whole)) - 1)
    return tiles, (whole, HEADING + rows * height + legend)


def _cell_side(side: int, alone: bool, pooled: bool) -> int:
    """Returns the side of a cell in pixels, where a picture has `side` of them."""
    if pooled:
        return max(1, (512 if alone else 256) // side)
    return max(2, (352 if alone else 208) // side)


def _label_room(heads: list[Head], record: RunRecord, cell: int, side: str) -> int:
    """Returns how many pixels the tokens or positions beside or below take: few where cells are too small to name."""
    sequences = record.probes.examples[0].sequences
    named = [head.layer for head in heads if not record.is_pooled(head.layer)] if cell >= NAMED_CELL else []
    longest = [len(token_label(token)) for layer in named for token in sequences[getattr(layer, side)]]
    return max(8, *(14 + 8 * length for length in longest), POSITION_ROOM[side] if record.has_maps else 0)


def _draw_still(record: RunRecord, tiles: list[_Tile], size: tuple[int, int]) -> Image.Image:
    """Draws what every frame shows alike: names, tokens, frames of the filters, and the legend."""
    image = Image.new("L", size, 0)
    draw = ImageDraw.Draw(image)
    sequences = record.probes.examples[0].sequences
    for tile in tiles:
        draw.text((tile.x, tile.y - CAPTION + 2), tile.head.name, INK, _font(11))
        if record.is_pooled(tile.head.layer):
            _draw_positions(image, tile, record.counts(tile.head.layer, 0))
        else:
            _draw_tokens(image, tile, sequences[tile.head.layer.queries], sequences[tile.head.layer.keys])
        draw.rectangle((tile.x - 1, tile.y - 1, tile.right, tile.bottom), outline=FAINT)
    lines = _legend_lines(record, tiles, size[0])
    x, y = tiles[0].x, size[1] - LEGEND - LEGEND_LINE * (len(lines) - 1) + 8
    if any(tile.oracle.any() for tile in tiles):
        draw.rectangle((x, y + 2, x + 10, y + 12), outline=ORACLE, width=2)
        x += ORACLE_SIGN
    for line in lines:
        draw.text((x, y), line, GREY, _font(11))
        y += LEGEND_LINE
    return image


def _legend_lines(record: RunRecord, tiles: list[_Tile], width: int) -> list[str]:
    """Says what rows, columns and signs are, in as many lines as a frame of that width needs."""
    layers = [tile.head.layer for tile in tiles]
    oracle = any(tile.oracle.any() for tile in tiles)
    parts = ["the oracle" if oracle else "", "row: query, column: key", record.hatching(layers, 0)]
    parts += [record.pooling(layers, 0), omission(record, len(tiles))]
    room = width - tiles[0].x - (ORACLE_SIGN if oracle else 0)
    lines: list[str] = []
    for part in filter(None, parts):
        longer = f"{lines[-1]}; {part}" if lines else part
        if lines and _font(11).getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def _draw_tokens(image: Image.Image, tile: _Tile, queries: Sequence[str], keys: Sequence[str]) -> None:
    """Writes the queries on the left and the keys below, upright where they would touch."""
    if tile.cell < NAMED_CELL:
        return
    draw, font, half = ImageDraw.Draw(image), _font(min(12, tile.cell)), tile.cell / 2
    for row, token in enumerate(queries):
        draw.text((tile.x - 7, tile.y + row * tile.cell + half), token_label(token), GREY, font, anchor="rm")
    labels, bottom = [token_label(token) for token in keys], tile.y + len(queries) * tile.cell + 6
    side_by_side = max(map(font.getlength, labels)) + 4 <= tile.cell
    for column, label in enumerate(labels):
        x = tile.x + column * tile.cell
        if side_by_side:
            draw.text((x + half, bottom), label, GREY, font, anchor="mt")
            continue
        strip = Image.new("L", (8 * max(map(len, labels)), tile.cell), 0)
        ImageDraw.Draw(strip).text((strip.width, half), label, GREY, font, anchor="rm")
        image.paste(strip.rotate(90, expand=True), (x, bottom))


def _draw_positions(image: Image.Image, tile: _Tile, counts: tuple[int, int]) -> None:
    """Writes which queries and keys some rows and columns of a map stand for."""
    draw, font, half = ImageDraw.Draw(image), _font(10), tile.cell / 2
    rows, columns = (bin_labels(*side) for side in zip(tile.oracle.shape, counts, strict=True))
    for row in tick_bins(len(rows), (tile.bottom - tile.y) // 14):
        draw.text((tile.x - 7, tile.y + row * tile.cell + half), rows[row], GREY, font, anchor="rm")
    for column in tick_bins(len(columns), (tile.right - tile.x) // 85):
        anchor = "lt" if column == 0 else "rt" if column == len(columns) - 1 else "mt"
        draw.text((tile.x + column * tile.cell + half, tile.bottom + 6), columns[column], GREY, font, anchor=anchor)


def _draw_frame(record: RunRecord, tiles: list[_Tile], still: Image.Image, snapshot: int) -> Image.Image:
    image = still.copy()
    draw = ImageDraw.Draw(image)
    draw.text((tiles[0].x, 14), f"step {record.steps[snapshot]:,}", INK, _font(17))
    for tile in tiles:
        cells = record.picture(snapshot, tile.head.layer, 0)[tile.head.head]
        pixels = cell_pixels(cells, record.ink, (tile.cell, tile.cell), TOP)
        hidden = record.hidden(tile.head.layer, 0)
        if hidden is not None:
            paper, lines = hatch_pixels(hidden, tile.cell)
            pixels[paper], pixels[lines] = PAPER, LINES
        image.paste(Image.fromarray(pixels), (tile.x, tile.y))
        if tile.oracle.any():
            mass = measure(record, snapshot, tile.head.layer, 0)["mass"][tile.head.head]
            draw.text((tile.x, tile.y - CAPTION + 16), f"mass on the oracle {mass:.2f}", GREY, _font(11))
            _outline_oracle(image, tile, record.is_pooled(tile.head.layer))
    image.putpalette(palette(TOP, ACCENT, HATCH, HATCH_PAPER))
    return image


def _outline_oracle(image: Image.Image, tile: _Tile, pooled: bool) -> None:
    """Outlines the cells of the oracle: each inside, or small ones of a map around all that touch."""
    if pooled and tile.cell < FRAMED_CELL:
        inside = np.pad(tile.oracle.repeat(tile.cell, axis=0).repeat(tile.cell, axis=1), 1)
        shifted = [np.roll(inside, step, axis) for step in (-1, 1) for axis in (0, 1)]
        around = np.logical_or.reduce(shifted)[1:-1, 1:-1] & ~inside[1:-1, 1:-1]
        image.paste(ORACLE, (tile.x, tile.y), Image.fromarray(around))
        return
    draw, width, edge = ImageDraw.Draw(image), 2 if tile.cell > 9 else 1, tile.cell - 1
    for row, column in np.argwhere(tile.oracle):
        x, y = tile.x + column * tile.cell, tile.y + row * tile.cell
        draw.rectangle((x, y, x + edge, y + edge), outline=ORACLE, width=width)


def _with_spots(frame: Image.Image, spots: Spots, snapshot: int) -> Image.Image:
    """Adds the picture below a frame, once for each query, with what the query reads and what the model says there."""
    width, height = frame.size
    whole = Image.new("RGB", (max(width, 2 * MARGIN + spots.count * SPOT), height + SPOT + 44), "white")
    whole.paste(frame.convert("RGB"), (0, 0))
    draw = ImageDraw.Draw(whole)
    draw.text((MARGIN, height), f"{spots.layer.name}, head {spots.head}, over the picture", "#6b6f76", _font(11))
    for column, (image, (reads, says, right)) in enumerate(
        zip(spots.images(snapshot, SPOT - 12), spots.labels(snapshot), strict=True)
    ):
        x, y = MARGIN + column * SPOT, height + 18
        whole.paste(Image.fromarray(image), (x, y))
        words = f"{token_label(reads, 7)} → {token_label(says, 8)}"
        draw.text((x, y + SPOT - 8), words, "black" if right else ACCENT, _font(11))
    return whole.quantize(256, dither=Image.Dither.NONE)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
