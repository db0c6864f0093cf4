"""A run that nothing disturbs, which all others must end like."""

import dataclasses
from pathlib import Path

import pytest

from tests.training.processes.commands import Command, Ended, names, rows, run


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed.

    Attributes:
      folder: of the run.
      ended: how its command ended.
      calls: what it called on files of its folder, each as "call path".
      states: as of `Ended`, with the checkpoints that were deleted.
    """

    folder: Path
    ended: Ended
    calls: list[str]
    states: dict[int, list[str]]

    def check(self, folder: Path, ended: Ended) -> None:
        """Asserts that another run ended as this one: in its arrays, rows and files, bit for bit."""
        assert ended.status == 0, ended
        assert ended.err == "", ended
        assert ended.states[12] == self.states[12], ended
        assert all(digests == self.states.get(step, digests) for step, digests in ended.states.items()), ended
        kept = {name for step in ended.states for name in (f"{step}", f"digests_{step}.json")}
        assert {path.name for path in (folder / "checkpoints").iterdir()} == kept, ended
        assert rows(folder) == rows(self.folder), ended
        drawn = {name for name in names(self.folder) if name.startswith(("figures/", "report.html"))}
        assert names(folder) | drawn == names(self.folder), ended


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    calls = folder.parent / "calls"
    ended, kept = run(
        Command(folder, report=True, calls=calls), Command(folder.with_name("kept"), ("--run.keep-checkpoints", "9"))
    )
    assert (ended.status, ended.err) == (0, ""), ended
    assert len(kept.states) == 4
    return Whole(folder, ended, calls.read_text().splitlines(), kept.states)
