import numpy as np
import pytest

from jattn.drawing.bins import bin_labels, bin_starts, cell_words, pool_weights, tick_bins


@pytest.mark.parametrize(("bins", "count"), [(1, 7), (3, 8), (8, 8), (16, 17), (5, 100)])
def test_a_bin_starts_at_the_first_index_whose_part_rounds_down_to_it(bins, count):
    bin_of = [index * bins // count for index in range(count)]
    assert bin_starts(bins, count).tolist() == [bin_of.index(each) for each in range(bins)]


def test_labels_say_which_positions_a_bin_holds():
    assert bin_labels(3, 8) == ["0–2", "3–5", "6–7"]
    assert bin_labels(3, 4) == ["0–1", "2", "3"]


@pytest.mark.parametrize(
    ("bins", "counts", "words"),
    [
        ((256, 256), (512, 512), "2 queries x 2 keys"),
        ((16, 16), (16, 40), "1 query x 2 to 3 keys"),
        ((2, 3), (3, 3), "1 to 2 queries x 1 key"),
    ],
)
def test_words_say_what_a_cell_stands_for(bins, counts, words):
    assert cell_words(bins, counts) == words


def test_ticks_hold_the_first_bin_and_with_room_for_two_the_last():
    assert [tick_bins(100, room) for room in (-1, 0, 1, 2)] == [[0], [0], [0], [0, 99]]
    assert [len(tick_bins(bins, 50)) for bins in (1, 3, 100)] == [1, 3, 5]


def test_pooling_is_the_mean_over_queries_of_sums_over_keys():
    weights = np.random.default_rng(0).random((2, 7, 10))
    expected = np.zeros((2, 3, 4))
    for a in range(3):
        rows = [i for i in range(7) if i * 3 // 7 == a]
        for b in range(4):
            columns = [j for j in range(10) if j * 4 // 10 == b]
            expected[:, a, b] = [np.mean([sum(head[i, j] for j in columns) for i in rows]) for head in weights]
    np.testing.assert_allclose(pool_weights(weights, (3, 4)), expected)
    np.testing.assert_array_equal(pool_weights(weights, (7, 10)), weights)
