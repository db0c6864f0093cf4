"""What tests of refusals share: damaged files, and the check that one clear line says what is wrong."""

import os

import pytest

from jattn.pretrained import load
from tests.pretrained.test_sources import in_one_file

CANNOT = "got one that cannot be read: "


def check_refusal(case, tmp_path, monkeypatch):
    """Loads what the writer of a case writes, which has to be refused in one line with the words of the case."""
    monkeypatch.chdir(tmp_path)
    write, message = case
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the table has the messages)
        load(write(tmp_path / "model"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "it-ran").exists()


def truncated(write, part=0.6):
    def damaged(path):
        path = write(path)
        file = path if path.is_file() else next(path.glob("*.bin"))
        os.truncate(file, int(file.stat().st_size * part))
        return path

    return damaged


def bytes_of(name, data):
    """Makes a writer of a model in which one file is these bytes."""

    def write(path):
        in_one_file(path)
        (path / name).write_bytes(data)
        return path / name if name.endswith("gguf") else path

    return write
