"""The tasks with the options, lengths and room that the tests sample them with."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from jattn.tasks import LAYOUTS, TASKS
from tests.tasks import restated, restated_published


@dataclasses.dataclass(frozen=True)
class Case:
    """A task with options, what its restatement is told of them, and how long its sources are."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    told: tuple[str, ...] = ()
    longest: int = 8
    room: int = 11

    @property
    def id(self):
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.options)])

    @functools.cached_property
    def task(self):
        return TASKS[self.name](**dict(self.options))

    def restate(self, words):
        options = dict(self.options)
        rules = restated_published if "generator" in options else restated
        return getattr(rules, self.name)(words, **{key: options[key] for key in self.told})


def case(name, longest=8, room=11, told=(), **options):
    return Case(name, tuple(options.items()), tuple(told), longest, room)


CASES = [
    case("copy", num_symbols=97),
    case("reverse", num_symbols=97),
    case("shift", told=["by"], by=3),
    case("shift", told=["by"], by=-2),
    case("odds_first", num_symbols=97),
    case("odds_first", num_symbols=97, generator="chomsky"),
    case("sort", num_symbols=3),
    case("permute", longest=12, room=13, num_places=6),
    case("selective_copy", longest=16, room=16),
    case("selective_copy", items=1),
    case("selective_copy", longest=16, room=17, items=3, generator="mad"),
    case("needle", longest=12, room=12),
    case("associative_recall", longest=11, room=11, num_keys=5, num_values=3),
    case("associative_recall", longest=12, room=13, num_keys=4, num_values=3, generator="safari"),
    case("mqar", longest=18, room=20, told=["pairs"], vocabulary=20, pairs=3),
    case("mqar", longest=64, room=64, told=["pairs"], pairs=4, vocabulary=8192),
    case("induction", num_symbols=5),
    case("induction", num_symbols=5, generator="safari"),
    case("variable_tracking", longest=17, room=17, told=["hops"], hops=1, num_names=8),
    case("variable_tracking", longest=19, room=20, told=["hops"], hops=2),
    case("histogram", num_symbols=3),
    case("most_frequent", num_symbols=3),
    case("majority"),
    case("parity"),
    case("dyck", longest=12, room=13),
    case("balanced", longest=12, room=13),
    case("addition", told=["base"], base=3, longest=11, room=12),
    case("addition", told=["base"], base=2, longest=11, room=12, generator="chomsky"),
    case("addition", told=["base"], base=3, longest=9, room=9, generator="chomsky"),
    case("modular_addition", told=["modulus"], modulus=7, longest=3, room=3),
    case("modular_addition", told=["modulus"], modulus=7, train_share=0.5, longest=3, room=3),
    case("listops", told=["depth"], longest=14, room=16, depth=2),
    case("listops", told=["depth"], longest=23, room=23, depth=3),
    case("listops", told=["depth"], longest=9, depth=1, num_operators=2),
    case("pronoun", longest=13, room=13),
    case("pronoun", told=["split"], longest=13, room=13, split="test"),
    case("pronoun", told=["split", "read_at"], longest=13, room=13, split="train", read_at="end"),
    case("agreement", longest=16, room=17),
    case("reading", told=["facts"], longest=30, room=34, facts=1),
    case("reading", told=["facts"], longest=41, room=41, facts=2),
    case("reading", told=["facts"], longest=44, room=45, facts=3),
    case("entailment", longest=27, room=27),
    case("summarisation", longest=19, room=19),
    case("roles", longest=12, room=12),
    case("sentences", longest=12, room=12),
    case("captions", told=["shape"], longest=9, room=9, image=12, shape=4),
    case("captions", told=["shape"], longest=25, room=25, image=10, patch=2, shape=5),
    case("captions", told=["shape"], longest=4, room=4, image=6, patch=3, shape=3),
]
FIRST = list({case.name: case for case in reversed(CASES)}.values())[::-1]
"""One case of each task."""


@functools.cache
def sampler(case):
    """Makes a function of a seed, indices and bounds of their lengths that samples sequences."""

    def sample(seed, index, shortest, longest):
        length_rng, rng = jax.random.split(jax.random.fold_in(jax.random.key(seed), index))
        return case.task.sample(rng, jax.random.randint(length_rng, (), shortest, longest + 1), case.room)

    return jax.jit(jax.vmap(sample, in_axes=(None, 0, 0, 0)))


@functools.cache
def sequences(case, seed=0, indices=range(1050)):
    """Samples a thousand sequences, and 50 of the shortest length."""
    longest = np.array([case.longest] * 1000 + [case.task.shortest] * 50)
    return jax.device_get(sampler(case)(seed, np.array(indices), np.full(1050, case.task.shortest), longest))


ARRANGE = {name: jax.jit(jax.vmap(layout.arrange, in_axes=(0, None))) for name, layout in LAYOUTS.items()}
"""How a layout arranges sequences; tasks whose sequences have the same shapes share a program."""


@functools.cache
def arranged(case, layout, seed=0, indices=range(1050)):
    """Arranges those sequences as a layout shows them."""
    return jax.device_get(ARRANGE[layout](sequences(case, seed, indices), len(case.task.symbols)))


def layouts_of(case):
    """The layouts that a case is tested in: the first case of a task in all it has, the others in one."""
    return case.task.layouts if case in FIRST else case.task.layouts[:1]


def words(case, sequence, i):
    """The text of the source of example `i`; of a picture, the values of each patch."""
    source = sequence.source[i][: sequence.source_length[i]]
    return [tuple(patch.tolist()) for patch in source] if source.ndim == 2 else case.task.words(source)


def expected_batch(layout, source, answers, pad, room, target_room):
    """One example as a layout should show it, from what its source holds; targets that are not scored are zero."""
    special, count = pad + 1, len(answers)
    target = [answer for answer, _, _ in answers]

    def filled(tokens, size):
        return tokens + [pad] * (size - len(tokens))

    if layout == "decoder":
        tokens = [*source, special, *target[:-1]]
        inputs = {"tokens": filled(tokens, room + target_room), "lengths": len(source) + count}
        queries, size, keys = [len(source) + i for i in range(count)], room + target_room, room + target_room
    elif layout == "encoder_decoder":
        inputs = {"source": filled(source, room), "source_lengths": len(source)}
        inputs["tokens"] = filled([special, *target[:-1]], target_room)
        queries, size, keys = list(range(count)), target_room, room
    else:
        inputs = {"tokens": filled(source, room), "lengths": len(source)}
        queries, size, keys = [read_at for _, _, read_at in answers], room, room
    targets, scored = np.zeros(size, int), np.zeros(size, bool)
    oracle = np.zeros((size, keys), bool)
    for query, (answer, places, _) in zip(queries, answers, strict=True):
        targets[query], scored[query] = answer, True
        oracle[query, list(places)] = True
    return inputs, targets, scored, oracle
