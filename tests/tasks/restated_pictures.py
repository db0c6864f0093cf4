"""The tasks on pictures restated in plain Python, as those in `restated`, from the pixel values of each patch."""

import math

_SHAPES = {
    3: {"square": "### ### ###", "circle": ".#. ### .#.", "triangle": "#.. ##. ###", "cross": "#.# .#. #.#"},
    4: {
        "square": "#### #### #### ####",
        "circle": ".##. #### #### .##.",
        "triangle": "#... ##.. ###. ####",
        "cross": "#..# .##. .##. #..#",
    },
    5: {
        "square": "##### ##### ##### ##### #####",
        "circle": ".###. ##### ##### ##### .###.",
        "triangle": "#.... ##... ###.. ####. #####",
        "cross": "#...# .#.#. ..#.. .#.#. #...#",
    },
}
_COLOURS = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 0): "yellow"}


def captions(source, shape):
    """Finds the two shapes by the square around both: it is twice as long as one shape in one direction alone."""
    side, patch = math.isqrt(len(source)), math.isqrt(len(source[0]) // 3)
    pixels, patch_of = {}, {}
    for number, values in enumerate(source):
        for pixel in range(patch * patch):
            row, column = number // side * patch + pixel // patch, number % side * patch + pixel % patch
            colour = values[3 * pixel : 3 * pixel + 3]
            if any(colour):
                pixels[row, column], patch_of[row, column] = _COLOURS[colour], number
    ends = [(min(axis), max(axis) + 1) for axis in zip(*pixels, strict=True)]
    above, beside = (end - begin >= 2 * shape for begin, end in ends)
    assert above != beside
    axis = 0 if above else 1
    shown = [
        {at: pixels[at] for at in pixels if at[axis] < ends[axis][0] + shape},
        {at: pixels[at] for at in pixels if at[axis] >= ends[axis][1] - shape},
    ]
    assert len(shown[0]) + len(shown[1]) == len(pixels)
    patches = [{patch_of[at] for at in each} for each in shown]
    (first, second), both = map(_described, shown, [shape] * 2), patches[0] | patches[1]
    words = [*first, "above" if above else "left-of", *second]
    places = [patches[0], patches[0], both, patches[1], patches[1]]
    return [(word, places[i], i) for i, word in enumerate(words)]


def _described(pixels, shape):
    (colour,) = set(pixels.values())
    top, left = min(row for row, _ in pixels), min(column for _, column in pixels)
    drawn = ["".join("#" if (top + i, left + j) in pixels else "." for j in range(shape)) for i in range(shape)]
    (name,) = [name for name, known in _SHAPES[shape].items() if known.split() == drawn]
    return colour, name
