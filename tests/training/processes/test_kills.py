"""Kills: a run that dies anywhere, and the same command again, ends as one that nothing disturbed."""

import dataclasses
import random
import re

import pytest

from tests.training.processes.commands import WENT_ON, Command, Fault, fits, newest, run

KILLS = 5
"""How many times a run is killed before it is let alone."""

PHASES = {
    "config": Fault("rename", "config.toml"),
    "probes": Fault("write", "filters/.probes.json.*", fate="die halfway"),
    "snapshot": Fault("rename", "filters/step_*.npz"),
    "row": Fault("write", "metrics.jsonl", fate="die halfway"),
    "evaluation": Fault("write", "metrics.jsonl", fate="die after"),
    "arrays": Fault("*", "checkpoints/*.orbax-checkpoint-tmp/*"),
    "checkpoint": Fault("rename", "checkpoints/[0-9]*", fate="die after"),
    "digests": Fault("rename", "checkpoints/digests_*.json"),
    "old checkpoint": Fault("unlink", "checkpoints/[0-9].orbax-checkpoint-tmp/default/*"),
    "old digests": Fault("unlink", "checkpoints/digests_*.json"),
    "rewinding": Fault("rename", "metrics.jsonl"),
    "report": Fault("write", "figures/.filters.gif.*", fate="die halfway"),
}
"""What the process does when it dies."""


def killed(command):
    """Does a command that is killed; returns whether it was, and asserts that it kept what had been saved."""
    step = newest(command.folder)
    (ended,) = run(command)
    assert ended.status in (0, -9), ended
    assert ended.err == "", ended
    assert re.findall(WENT_ON, ended.out) in ([], [str(step)]), ended
    assert step is None or newest(command.folder) >= step
    return ended.status == -9


def finished(*folders, report=False):
    """Does the same commands again, which nothing disturbs."""
    steps = [newest(folder) for folder in folders]
    ended = run(*(Command(folder, report=report) for folder in folders))
    for one, step in zip(ended, steps, strict=True):
        assert re.findall(WENT_ON, one.out) == ([] if step is None else [str(step)]), one
    return zip(folders, ended, strict=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(40))
def test_kills_at_random(seed, whole, tmp_path):
    rng = random.Random(seed)
    folders = [tmp_path / "0"]
    for _ in range(KILLS):
        number, fate = rng.randrange(1, len(whole.calls)), rng.choice(("die before", "die after", "die halfway"))
        if not killed(Command(folders[-1], fault=Fault(number=number, fate=fate))):
            folders.append(tmp_path / str(len(folders)))
    for folder, ended in finished(*folders):
        whole.check(folder, ended)


@pytest.mark.exhaustive
@pytest.mark.parametrize("phase", PHASES)
def test_kills_in_each_phase(phase, whole, tmp_path):
    fault, report = PHASES[phase], phase == "report"
    places = sum(fits(fault, call) for call in whole.calls)
    folders = [tmp_path / str(number) for number in sorted({1, places // 2 + 1, places * 3 // 4 + 1})]
    for folder in folders:
        assert killed(Command(folder, fault=dataclasses.replace(fault, number=int(folder.name)), report=report))
        killed(Command(folder, fault=fault, report=report))
    for folder, ended in finished(*folders, report=report):
        whole.check(folder, ended)
