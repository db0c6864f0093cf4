"""Signals, one or two, whatever the run does: it stops with their status and a line, and goes on to the same end."""

import dataclasses
import re
import signal

import pytest

from tests.training.processes.commands import WENT_ON, Command, Fault, fits, newest, run

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PHASES = {
    "start": Fault("*", ".config.toml.*"),
    "training": Fault("*", "metrics.jsonl"),
    "saving": Fault("*", "checkpoints/*"),
    "test": Fault("*", "metrics.jsonl"),
    "report": Fault("*", "figures/*"),
}
"""What the run does when they come."""

SAVES = ("training", "saving")
"""The phases in which one signal waits for the state to be saved."""


SAID = r"(stopping .*; again to stop at once\n)?stopped by {}; {}\n"


def outlook(step):
    """What the same command will do after a run whose newest checkpoint is of this step."""
    if step is None:
        return "nothing was saved yet: the same command starts anew"
    return f"saved at step {step}: the same command resumes there"


@pytest.mark.exhaustive
@pytest.mark.parametrize("several", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("phase", PHASES)
def test_signals(phase, several, whole, tmp_path):
    places = sum(fits(PHASES[phase], call) for call in whole.calls)
    first = {"start": 1, "training": places // 2, "saving": places // 3, "test": places - 1, "report": places // 2}[
        phase
    ]
    faults = [
        dataclasses.replace(PHASES[phase], number=first, fate="signal", error=n, lasting=several) for n in SIGNALS
    ]
    commands = [Command(tmp_path / n.name, fault=fault) for n, fault in zip(SIGNALS, faults, strict=True)]
    commands = [dataclasses.replace(command, report=phase == "report") for command in commands]
    ended = run(*commands)
    steps = [newest(command.folder) for command in commands]
    again = run(*(Command(command.folder, report=command.report) for command in commands))
    for number, command, one, step, other in zip(SIGNALS, commands, ended, steps, again, strict=True):
        assert one.status == 128 + number, one
        assert re.fullmatch(SAID.format(number.name, outlook(step)), one.err), one
        assert all(digests == whole.states[at] for at, digests in one.states.items() if at in whole.states), one
        if phase in SAVES and not several:
            assert step is not None, one
            assert f'"step": {step}' in (command.folder / "metrics.jsonl").read_text()
        assert step is None or re.findall(WENT_ON, other.out) == [str(step)], other
        whole.check(command.folder, other)
