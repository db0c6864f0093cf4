"""The tasks on whole sentences restated in plain Python, as those in `restated`."""


def sentences(source):
    _sentence(source)
    return [(word, {i}, i) for i, word in enumerate(source)]


def roles(source):
    who, whom, verb, place, _ = _sentence(source)
    answers = [source[who].removesuffix("s"), _stem(source[verb]), source[whom].removesuffix("s"), source[place]]
    return [(word, {at}, i) for i, (word, at) in enumerate(zip(answers, (who, verb, whom, place), strict=True))]


def properties(source):
    return _sentence(source)[-1]


def _stem(verb):
    return verb.removesuffix("ed").removesuffix("s")


_ADJECTIVES = ["old", "young", "small", "big", "tall", "quiet", "happy", "proud"]


def _sentence(source):
    """Takes a sentence apart: the places of who, whom, the verb and the place, and its properties."""
    begin = 3 if source[0] == "in" else 0
    somewhere = source[:3] if begin else source[-3:]
    assert somewhere[:2] == ["in", "the"]
    middle = source[begin : len(source) - 3 + begin]
    second = len(middle) - 1 - middle[::-1].index("the")
    first_noun, second_noun = (1 + (middle[at + 1] in _ADJECTIVES) + at for at in (0, second))
    assert second_noun == len(middle) - 1
    passive = "by" in middle
    verb = first_noun + 1 + passive
    several = [middle[noun].endswith("s") for noun in (first_noun, second_noun)]
    if passive:
        auxiliary, by = middle[first_noun + 1], middle[verb + 1]
        assert (by, verb + 2) == ("by", second)
        assert middle[verb].endswith("ed")
        past = auxiliary in ("was", "were")
        assert auxiliary == {(0, 0): "is", (0, 1): "are", (1, 0): "was", (1, 1): "were"}[past, several[0]]
    else:
        assert verb + 1 == second
        past = middle[verb].endswith("ed")
        assert past or middle[verb].endswith("s") == (not several[0])
    assert middle[0] == middle[second] == "the"
    described = [first_noun == 2, second_noun - second == 2]
    who, whom = (second_noun, first_noun) if passive else (first_noun, second_noun)
    told = {"passive": passive, "past": past, "place first": begin == 3, "words": len(source) - 8}
    for kind, values in (("several", several), ("adjective of", described)):
        told |= dict(zip((f"{kind} who", f"{kind} whom"), values[::-1] if passive else values, strict=True))
    place = 2 if begin else len(source) - 1
    return who + begin, whom + begin, verb + begin, place, told
