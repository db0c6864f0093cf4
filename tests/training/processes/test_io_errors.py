"""I/O errors: wherever a call on a file fails, the run says so in a line, and loses nothing."""

import dataclasses
import errno
import re

import pytest

from tests.training.processes.commands import WENT_ON, Command, Fault, fits, newest, run

LASTING = ("ENOSPC", "EDQUOT", "EROFS")
"""Errors that all calls that write have once one has."""

ERRORS = (*LASTING, "EIO", "EACCES", "EFBIG", "EMFILE")
PARTS = 60
"""How many tests the places are spread over."""


def places(calls):
    """Lists the places that open, write, rename or sync, with what is random or a number in their paths left out."""
    found = {}
    for listed in calls:
        call, path = listed.split(" ", 1)
        if call == "unlink":
            continue
        path = re.sub("[0-9a-f]{32}", "*", path)
        path = re.sub(r"(?<=\.)\d+$|(?<=step_)\d{8}", "*", path)
        found[call, re.sub(r"(?<=[/_])\d+(?=[./]|$)", "[0-9]", path)] = None
    return list(found)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(PARTS))
def test_errors_at_every_place(part, whole, tmp_path):
    commands = []
    for place, (call, path) in enumerate(places(whole.calls)[part::PARTS]):
        for kind, name in enumerate(ERRORS):
            fault = Fault(call, path, fate="fail", error=getattr(errno, name), lasting=name in LASTING)
            times = sum(fits(fault, listed) for listed in whole.calls)
            fault = dataclasses.replace(fault, number=1 + kind * max(1, times // 2) // len(ERRORS))
            commands.append(
                Command(tmp_path / f"{place}_{name}", fault=fault, report="figures" in path or "report" in path)
            )
    ended = run(*commands, limit=900)
    steps = [newest(command.folder) for command in commands]
    again = run(*(Command(command.folder, report=command.report) for command in commands), limit=900)
    problems = []
    for command, one, step, other in zip(commands, ended, steps, again, strict=True):
        try:
            check(command, one, step, whole)
            assert re.findall(WENT_ON, other.out) == ([] if step is None else [str(step)]), other
            whole.check(command.folder, other)
        except AssertionError as error:
            problems.append(f"{command.fault}\n{one}\n{other}\n{str(error)[:3000]}")
    assert not problems, f"{len(problems)} of {len(commands)}\n" + "\n\n".join(problems)


def check(command, ended, step, whole):
    """Asserts that a command that failed says so in one line, and that what it had saved is as it was."""
    assert "Traceback" not in ended.err + ended.out
    if ended.status == 0:
        assert ended.err == ""
        assert ended.states == whole.ended.states
        return
    assert ended.status in (1, 2)
    assert ended.err.count("\n") == 1
    assert str(command.folder) in ended.err
    assert all(digests == whole.states[at] for at, digests in ended.states.items())
    assert step is None or step in ended.states
