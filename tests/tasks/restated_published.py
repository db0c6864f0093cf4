"""The tasks as published generators have them, restated in plain Python as others are in `restated`."""


def odds_first(source):
    return [
        (source[place], {place}, i) for i, place in enumerate([*range(1, len(source), 2), *range(0, len(source), 2)])
    ]


def selective_copy(source):
    """Every item that stands before ``>``; the last of them just before it, and as many blanks behind."""
    asked = source.index(">")
    places = [i for i, word in enumerate(source) if word.isdigit()]
    assert places[-1] == asked - 1
    assert source[asked + 1 :] == ["."] * len(places)
    return [(source[place], {place}, asked + 1 + i) for i, place in enumerate(places)]


def induction(source):
    """Every next token; only the last is to be found somewhere."""
    place, last = [i for i, word in enumerate(source) if word == "=>"]
    assert place < last - 2
    assert last == len(source) - 1
    return [*((source[i + 1], set(), i) for i in range(last)), (source[place + 1], {place + 1}, last)]


def associative_recall(source):
    """Every next token; values are found beside the same key, wherever it came before."""
    last = len(source) - 1
    value_of = dict(zip(source[: last - 1 : 2], source[1 : last - 1 : 2], strict=True))
    assert all(source[i + 1] == value_of[source[i]] for i in range(0, last - 1, 2))
    assert source.index("=>") == last - 1
    answers = []
    for i in range(last + 1):
        asks = i == last or (i % 2 == 0 and i < last - 1)
        places = {j + 1 for j in range(0, min(i, last - 1), 2) if source[j] == source[i]} if asks else set()
        answers.append((value_of[source[i]] if i == last else source[i + 1], places, i))
    return answers


def addition(source, base):
    """The digits of the sum up to the highest that is not zero, and the end, which is found nowhere."""
    plus = source.index("+")
    numbers = [list(map(int, digits)) for digits in (source[:plus], source[plus + 1 :])]
    places_of = [list(range(plus)), list(range(plus + 1, len(source)))]

    def add(numbers):
        total = sum(digit * base**i for digits in numbers for i, digit in enumerate(digits))
        return [total // base**i % base for i in range(len(source))]

    total = add(numbers)
    count = max(i for i, digit in enumerate(total) if digit) + 1
    answers = []
    for column, digit in enumerate(total[:count]):
        columns = {column}
        for below in reversed(range(column)):
            columns.add(below)
            if sum(digits[below] for digits in numbers if below < len(digits)) != base - 1:
                break
        places = {each[i] for i in columns for each in places_of if i < len(each)}
        # Whatever stands elsewhere changes nothing.
        for other in (0, base - 1):
            changed = [
                [digit if place in places else other for digit, place in zip(digits, each, strict=True)]
                for digits, each in zip(numbers, places_of, strict=True)
            ]
            assert add(changed)[column] == digit
        answers.append((str(digit), places, column))
    return [*answers, (".", set(), count)]
