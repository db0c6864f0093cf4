"""Which cases of a long table the default run tries; the others are tried by `pytest -m exhaustive`."""

import pytest


def sampled(names, cases, keep, **options):
    """Parametrizes a test as `pytest.mark.parametrize` does, with the mark `exhaustive` on all but some of the cases.

    Args:
      names: the names of the arguments, as `pytest.mark.parametrize` takes them.
      cases: the values.
      keep: how many cases are unmarked, spread evenly from the first to the last; or the unmarked cases themselves.
      **options: what else `pytest.mark.parametrize` takes, such as ``ids``.

    Raises:
      ValueError: if no case is left unmarked, or a case to keep is not in the table.

    Example:
      >>> mark = sampled("length", range(10), keep=3)
      >>> [case if isinstance(case, int) else "-" for case in mark.args[1]]
      [0, '-', '-', '-', 4, '-', '-', '-', '-', 9]
    """
    cases = list(cases)
    kept = set(spread(len(cases), keep)) if isinstance(keep, int) else {cases.index(case) for case in keep}
    if not kept:
        raise ValueError(f"keep: expected at least one case of {names}, got {keep!r}")
    several = not isinstance(names, str) or "," in names
    marked = [case if place in kept else exhaustive(case, several) for place, case in enumerate(cases)]
    return pytest.mark.parametrize(names, marked, **options)


def spread(size, number):
    """Returns so many places among the first ``size``, evenly spread from the first to the last."""
    number = min(number, size)
    return [place * (size - 1) // max(number - 1, 1) for place in range(number)]


def exhaustive(case, several=False):
    """Puts the mark on a case, whose values are several if the test takes them under several names."""
    if hasattr(case, "marks"):  # a `pytest.param`
        return pytest.param(*case.values, id=case.id, marks=[*case.marks, pytest.mark.exhaustive])
    return pytest.param(*(case if several else [case]), marks=pytest.mark.exhaustive)
