"""The words of others for keys, and what is said to them."""

from collections import Counter

import pytest

from jattn.training.meant import NO_KEYS, OTHER_WORDS, meant_by
from jattn.training.reading import paths


def test_every_word_stands_for_one_key_and_is_none_itself():
    words = Counter(word for table in (OTHER_WORDS, NO_KEYS) for words in table.values() for word in words.split())
    assert [word for word, count in words.items() if count > 1] == []
    assert set(OTHER_WORDS) <= set(paths())
    assert words.keys().isdisjoint(path.partition(".")[2] for path in paths())


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("max-length", "task.max_length"),
        ("evaluation.batch_size", "training.batch_size"),
        ("Training.Learning_Rate", "training.learning_rate"),
        ("run.hidden", "model.hidden"),
        ("model.fooo", None),
        ("zzz", None),
    ],
)
def test_a_key_of_that_name_comes_first(word, meant):
    assert meant_by(word, paths()) == meant
