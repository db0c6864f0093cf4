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
    """

    folder: Path
    ended: Ended
    calls: list[str]

    def check(self, folder: Path, ended: Ended) -> None:
        """Asserts that another run ended as this one: in its arrays, rows and files, bit for bit."""
        assert ended.status == 0, ended
        assert ended.err == "", ended
        assert ended.state == self.ended.state, ended
        assert rows(folder) == rows(self.folder), ended
        drawn = {name for name in names(self.folder) if name.startswith(("figures/", "report.html"))}
        assert names(folder) | drawn == names(self.folder), ended


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    (ended,) = run(Command(folder, report=True, calls=folder.parent / "calls"))
    assert (ended.status, ended.err) == (0, ""), ended
    return Whole(folder, ended, (folder.parent / "calls").read_text().splitlines())
