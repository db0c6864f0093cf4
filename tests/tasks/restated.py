"""Every task restated in plain Python, from the words of a source alone: the specification of the samplers.

Each function returns a line per answer: the word to say, the places of the source that hold it, and the place of the
source where it is read.
"""

import itertools

from tests.tasks.restated_pictures import captions as captions
from tests.tasks.restated_sentences import roles as roles, sentences as sentences


def _at(source, places):
    """Answers that are single source tokens, read one after the other."""
    return [(source[place], {place}, i) for i, place in enumerate(places)]


def copy(source):
    return _at(source, range(len(source)))


def reverse(source):
    return _at(source, reversed(range(len(source))))


def shift(source, by=1):
    places = list(range(len(source)))
    for _ in range(by % len(source)):
        places = [places[-1], *places[:-1]]
    return _at(source, places)


def odds_first(source):
    return _at(source, [*range(0, len(source), 2), *range(1, len(source), 2)])


def sort(source):
    ordered = sorted(source, key=int)
    return [(word, {j for j, other in enumerate(source) if other == word}, i) for i, word in enumerate(ordered)]


def permute(source):
    half = len(source) // 2
    order = [int(word) for word in source[half:]]
    assert sorted(order) == list(range(half))
    return [(source[place], {place}, half + i) for i, place in enumerate(order)]


def selective_copy(source):
    places = [i for i, word in enumerate(source) if word.isdigit()]
    first = source.index(">")
    assert set(source[first:]) == {">"}
    assert len(source) - first == len(places)
    return [(source[place], {place}, first + i) for i, place in enumerate(places)]


def needle(source):
    (place,) = [i for i, word in enumerate(source) if word.isdigit()]
    assert source.index("?") == len(source) - 1
    return [(source[place], {place}, len(source) - 1)]


def associative_recall(source):
    keys, values = source[:-1:2], source[1::2]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set(values)
    place = 2 * keys.index(source[-1]) + 1
    return [(source[place], {place}, len(source) - 1)]


def mqar(source, pairs):
    keys = source[: 2 * pairs : 2]
    assert len({*keys, *source[1 : 2 * pairs : 2]}) == 2 * pairs
    answers = []
    for place in range(2 * pairs, len(source)):
        if source[place][0] == "k":
            assert place % 2 == 0
            held = 2 * keys.index(source[place]) + 1
            answers.append((source[held], {held}, place))
    assert sorted(source[read_at] for _, _, read_at in answers) == sorted(keys)
    return answers


def induction(source):
    (place,) = [i for i, word in enumerate(source[:-1]) if word == source[-1]]
    return [(source[place + 1], {place + 1}, len(source) - 1)]


def variable_tracking(source, hops):
    told = {source[i]: source[i + 1] for i in range(0, len(source) - 1, 2)}
    assert len(told) == len(source) // 2
    assert len(told) % (hops + 1) == 0
    name, followed = source[-1], 0
    while told[name] in told:
        assert source.index(told[name]) < source.index(name)
        name, followed = told[name], followed + 1
    assert followed == hops
    return [(told[name], {source.index(name) + 1}, len(source) - 1)]


def histogram(source):
    return [
        (str(source.count(word)), {j for j, other in enumerate(source) if other == word}, i)
        for i, word in enumerate(source)
    ]


def most_frequent(source):
    words = source[:-1]
    counts = sorted(((words.count(word), word) for word in set(words)), reverse=True)
    assert len(counts) == 1 or counts[0][0] > counts[1][0]
    return [(counts[0][1], {i for i, word in enumerate(words) if word == counts[0][1]}, len(words))]


def majority(source):
    ones, bits = source.count("1"), len(source) - 1
    assert 2 * ones != bits
    return [("1" if 2 * ones > bits else "0", set(range(bits)), bits)]


def parity(source):
    bits = len(source) - 1
    return [("odd" if source.count("1") % 2 else "even", set(range(bits)), bits)]


def dyck(source):
    answers, open_places = [], []
    for place, word in enumerate(source):
        if word == "_":
            opened = open_places.pop()
            answers.append(({"(": ")", "[": "]"}[source[opened]], {opened}, place))
        else:
            open_places.append(place)
    assert not open_places
    return answers


def balanced(source):
    open_places, wrong = [], set()
    for place, word in enumerate(source[:-1]):
        if word in "([":
            open_places.append(place)
        elif {"(": ")", "[": "]"}[source[open_places.pop()]] != word:
            wrong.add(place)
    assert not open_places
    assert len(wrong) in (0, 2)
    assert source.count("(") == source.count(")")
    return [("no" if wrong else "yes", wrong, len(source) - 1)]


def addition(source, base):
    digits = source.index("+")
    first, second = ([int(word) for word in each] for each in (source[:digits], source[digits + 1 :]))

    def add(first, second):
        total = sum((a + b) * base**i for i, (a, b) in enumerate(zip(first, second, strict=True)))
        return [total // base**i % base for i in range(digits + 1)]

    def changed(number, place, digit):
        return [digit if i == place else other for i, other in enumerate(number)]

    answers = []
    for column, digit in enumerate(add(first, second)):
        places = {column, digits + 1 + column} if column < digits else set()
        below = column - 1
        while below >= 0:
            places |= {below, digits + 1 + below}
            if first[below] + second[below] != base - 1:
                break
            below -= 1
        # Whatever the other columns hold, they change nothing; each of these columns may.
        for other in range(digits):
            sums = {
                add(changed(first, other, a), changed(second, other, b))[column]
                for a, b in itertools.product((0, base - 1), repeat=2)
            }
            assert (other in places) == (sums != {digit})
        answers.append((str(digit), places, column))
    return answers


def modular_addition(source, modulus):
    return [(str((int(source[0]) + int(source[1])) % modulus), {0, 1}, 2)]


def listops(source, depth):
    value, places, end, deep = _worked_out(source, 0)
    assert end == len(source)
    assert deep <= depth
    return [(value, places, len(source) - 1)]


def _worked_out(source, place):
    """What the argument at a place comes to, the places that make it, where it ends, and how deep lists lie in it."""
    if source[place].isdigit():
        return source[place], {place}, place + 1, 0
    arguments, end = [], place + 1
    while source[end] != "]":
        arguments.append(_worked_out(source, end))
        end = arguments[-1][2]
    assert len(arguments) >= 2
    ordered = sorted(value for value, *_ in arguments)
    value = ordered[{"[MIN": 0, "[MED": (len(ordered) - 1) // 2, "[MAX": -1}[source[place]]]
    places = set().union(*(places for other, places, *_ in arguments if other == value))
    return value, places, end + 1, 1 + max(deep for *_, deep in arguments)


_ANIMALS = "animal dog cat horse rabbit donkey camel sheep goat cow fox wolf bear deer mouse hen pig lamb pony puppy"
_PLACES = (
    "street road river bridge field valley desert hill mountain canyon swamp lake meadow forest tunnel path square "
    "garden beach glacier"
)
_VERBS = "cross enter explore visit search climb approach pass"
_OF_PLACES = "wide long narrow steep crowded rocky slippery remote windy icy foggy bumpy"


def pronoun(source, split="all", read_at="it"):
    text = " ".join(source)
    nouns = [i for i, word in enumerate(source) if i and source[i - 1] == "the"]
    assert len(nouns) == 2
    place, animal = sorted(nouns, key=lambda i: source[i] not in _PLACES.split())
    verb = source[4].removesuffix("ed")
    if " by " in text:
        assert text.startswith(f"the {source[place]} was not {verb}ed by the {source[animal]} because it was too ")
    else:
        assert text.startswith(f"the {source[animal]} did not {verb} the {source[place]} because it was too ")
    (number,) = [i for i, each in enumerate(_VERBS.split()) if verb in (each, each.removesuffix("e"))]
    total = number + _ANIMALS.split().index(source[animal]) + _PLACES.split().index(source[place])
    assert split in ("all", "train" if total % 5 else "test")
    meant = place if source[-1] in _OF_PLACES.split() else animal
    return [(source[meant], {meant}, source.index("it") if read_at == "it" else len(source) - 1)]


def agreement(source):
    nouns = source[1::3]
    assert source[::3] == ["the"] * len(nouns)
    assert source[-1] == "?"
    plural = [word.endswith("s") for word in nouns]
    assert sum(plural) in (len(nouns) // 2, (len(nouns) + 1) // 2)
    return [("are" if plural[0] else "is", {1}, len(source) - 1)]


def reading(source, facts):
    """Lives through the story: who is where, and who carries what."""
    story, question = " ".join(source).rsplit(" . ", 1)
    at, carries, things, begin = {}, {}, {}, 0
    for sentence in story.split(" . "):
        words = sentence.split()
        if words[1:4] == ["went", "to", "the"]:
            at[words[0]] = (words[4], begin + 4)
            for thing in carries.get(words[0], []):
                things[thing].append(at[words[0]])
        else:
            assert words[1:4] == ["picked", "up", "the"]
            assert words[4] not in things
            carries.setdefault(words[0], []).append(words[4])
            things[words[4]] = [at[words[0]]] if words[0] in at else []
        begin += 6
    assert begin + len(question.split()) == len(source)
    words = question.split()
    if facts == 1:
        assert words == ["where", "is", words[2], "?"]
        answer, place = at[words[2]]
    elif facts == 2:
        assert words == ["where", "is", "the", words[3], "?"]
        answer, place = things[words[3]][-1]
    else:
        assert words == ["where", "was", "the", words[3], "before", "the", words[6], "?"]
        assert things[words[3]][-1][0] == words[6] != things[words[3]][-2][0]
        answer, place = things[words[3]][-2]
    return [(answer, {place}, len(source) - 1)]


_KINDS = {
    "dogs": "dogs poodles beagles",
    "cats": "cats lions tigers",
    "birds": "birds robins eagles",
    "fish": "fish trout salmon",
    "insects": "insects ants bees",
    "snakes": "snakes cobras vipers",
}


def entailment(source):
    *text, (noun, deed) = [sentence.split() for sentence in " ".join(source).removesuffix(" ?").split(" . ")]
    quantifiers, kinds, deeds = zip(*text, strict=True)
    assert len(set(kinds)) == len(set(deeds)) == len(text)
    assert {quantifiers.count(word) for word in ("all", "no")} == {len(text) // 2}
    assert deed in deeds
    (number,) = [number for number, kind in enumerate(kinds) if noun in _KINDS[kind].split()]
    told = {"all": "entailment", "no": "contradiction"}[quantifiers[number]]
    return [(told if deeds[number] == deed else "neutral", {4 * number + i for i in range(3)}, len(source) - 1)]


def summarisation(source):
    marked = []
    for place in range(0, len(source), 5):
        assert source[place + 4] == "."
        if source[place] in ("importantly", "notably", "crucially"):
            marked.append(place + 3)
        else:
            assert source[place] in ("meanwhile", "incidentally", "elsewhere")
    assert marked
    return [*_at(source, marked), (".", set(), len(marked))]
