"""Layouts on one sequence, written out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jattn.tasks import LAYOUTS, Sequence

# 3 1 2 -> 2 1 3 in arrays with room for four tokens; what lies in the fourth place is meaningless.
SEQUENCE = Sequence(
    source=jnp.array([3, 1, 2, 7]),
    source_length=jnp.int32(3),
    target=jnp.array([2, 1, 3, 0]),
    target_length=jnp.int32(3),
    alignment=jnp.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool),
)

# A line per query: the token that stands there, the oracle's row over the keys, and the answer read there.
DRAWN = {
    "encoder": """
      3      ..#.  2
      1      .#..  1
      2      #...  3
      <pad>  ....  -
    """,
    "decoder": """
      3      ........  -
      1      ........  -
      2      ........  -
      <sep>  ..#.....  2
      2      .#......  1
      1      #.......  3
      <pad>  ........  -
      <pad>  ........  -
    """,
    "encoder_decoder": """
      <bos>  ..#.  2
      2      .#..  1
      1      #...  3
      <pad>  ....  -
    """,
}


# A question of one answer, 7 1 9 2 ? -> 9 in arrays with room for six, read at the last place: at "?".
QUESTION = Sequence(
    source=jnp.array([7, 1, 9, 2, 10, 3]),
    source_length=jnp.int32(5),
    target=jnp.array([9]),
    target_length=jnp.int32(1),
    alignment=jnp.array([[0, 0, 1, 0, 0, 0]], bool),
    read_at=jnp.array([4]),
)
ASKED = {
    "encoder": """
      7      ......  -
      1      ......  -
      9      ......  -
      2      ......  -
      ?      ..#...  9
      <pad>  ......  -
    """,
    "decoder": """
      7      .......  -
      1      .......  -
      9      .......  -
      2      .......  -
      ?      .......  -
      <sep>  ..#....  9
      <pad>  .......  -
    """,
    "encoder_decoder": """
      <bos>  ..#...  9
    """,
}


def draw(batch, text):
    """Draws a batch of one example as above."""
    return [
        [
            text[token],
            "".join("#" if there else "." for there in row),
            text[target] if scored else "-",
        ]
        for token, row, target, scored in zip(
            batch.inputs["tokens"], batch.oracle, batch.targets, batch.scored, strict=True
        )
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sequence_looks_as_drawn(layout):
    batch = LAYOUTS[layout].arrange(SEQUENCE, 10)
    text = tuple("0123456789") + LAYOUTS[layout].specials
    wanted = DRAWN["encoder" if layout == "causal" else layout]
    assert draw(batch, text) == [line.split() for line in wanted.strip().splitlines()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_question_of_one_answer_looks_as_drawn(layout):
    batch = LAYOUTS[layout].arrange(QUESTION, 11)
    text = (*"0123456789?", *LAYOUTS[layout].specials)
    wanted = ASKED["encoder" if layout == "causal" else layout]
    assert draw(batch, text) == [line.split() for line in wanted.strip().splitlines()]


def test_answers_may_be_read_in_any_order():
    sequence = Sequence(
        jnp.array([4, 1, 2, 6]),
        jnp.int32(4),
        jnp.array([2, 4, 5]),
        jnp.int32(2),
        jnp.eye(3, 4, dtype=bool),
        jnp.array([3, 0, 1]),
    )
    batch = LAYOUTS["encoder"].arrange(sequence, 10)
    assert batch.scored.tolist() == [True, False, False, True]
    assert batch.targets[jnp.array([0, 3])].tolist() == [4, 2]
    assert np.argwhere(batch.oracle).tolist() == [[0, 1], [3, 0]]


def test_positions_are_counted_for_targets_of_another_length():
    counted = {name: (layout.num_positions(9), layout.num_positions(9, 2)) for name, layout in LAYOUTS.items()}
    assert counted == {"encoder": (9, 9), "causal": (9, 9), "decoder": (18, 11), "encoder_decoder": (9, 9)}
    assert LAYOUTS["encoder_decoder"].num_positions(2, 9) == 9


def test_the_lengths_of_each_side_are_told():
    inputs = {name: layout.arrange(SEQUENCE, 10).inputs for name, layout in LAYOUTS.items()}
    assert inputs["encoder"]["lengths"] == 3
    assert inputs["decoder"]["lengths"] == 6
    assert inputs["encoder_decoder"]["source_lengths"] == 3
    assert inputs["encoder_decoder"]["source"].tolist() == [3, 1, 2, 10]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_right_places_stay_a_set(layout):
    """A task may accept several keys for one answer, or none."""
    alignment = np.zeros((4, 4), bool)
    alignment[0, [0, 2]] = alignment[2, 1] = True
    sequence = Sequence(SEQUENCE.source, jnp.int32(3), SEQUENCE.target, jnp.int32(3), jnp.asarray(alignment))
    batch = LAYOUTS[layout].arrange(sequence, 10)
    rows = [np.flatnonzero(row).tolist() for row in np.asarray(batch.oracle)[np.asarray(batch.scored)]]
    assert rows == [[0, 2], [], [1]]


def test_a_picture_is_read_patch_by_patch_and_unused_patches_are_black():
    """Three patches of two values each, in room for four."""
    patches = jnp.array([[0.5, 1.0], [0.0, 0.25], [1.0, 1.0], [7.0, 7.0]])
    sequence = Sequence(patches, jnp.int32(3), jnp.array([2, 1]), jnp.int32(2), jnp.eye(2, 4, dtype=bool))
    batch = LAYOUTS["encoder_decoder"].arrange(sequence, 10)
    assert batch.inputs["source"].tolist() == [[0.5, 1.0], [0.0, 0.25], [1.0, 1.0], [0.0, 0.0]]
    assert batch.inputs["source"].dtype == jnp.float32
    assert (batch.inputs["source_lengths"], batch.inputs["tokens"].tolist()) == (3, [11, 2])


def test_a_target_may_be_shorter_than_its_source():
    """Room and length of source and target are apart: 4 1 2 6 -> 2 4, in rooms of five and three."""
    alignment = np.zeros((3, 5), bool)
    alignment[0, 2] = alignment[1, 0] = True
    sequence = Sequence(
        jnp.array([4, 1, 2, 6, 9]), jnp.int32(4), jnp.array([2, 4, 9]), jnp.int32(2), jnp.asarray(alignment)
    )
    batch = LAYOUTS["decoder"].arrange(sequence, 10)
    assert batch.inputs["tokens"].tolist() == [4, 1, 2, 6, 11, 2, 10, 10]
    assert batch.inputs["lengths"] == 6
    assert np.argwhere(batch.oracle).tolist() == [[4, 2], [5, 0]]
    assert np.flatnonzero(batch.scored).tolist() == [4, 5]
    assert batch.targets[4:6].tolist() == [2, 4]
    batch = LAYOUTS["encoder_decoder"].arrange(sequence, 10)
    assert batch.inputs["source"].tolist() == [4, 1, 2, 6, 10]
    assert batch.inputs["tokens"].tolist() == [11, 2, 10]
    assert batch.oracle.shape == (3, 5)
    assert batch.scored.tolist() == [True, True, False]
