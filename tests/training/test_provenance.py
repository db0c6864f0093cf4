"""The record of what made a run: the time of a process that is killed is known up to its last checkpoint."""

from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import pytest

from jattn.report.provenance import read_provenance
from jattn.training.announcing import device_words
from jattn.training.interrupts import Interrupts
from jattn.training.loop import take_steps
from jattn.training.provenance import recorded
from jattn.training.reading import check


def test_the_time_so_far_is_written_down_before_the_end(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    mesh = SimpleNamespace(devices=np.array(jax.devices()[:1]), size=1)
    setup = SimpleNamespace(config=check({}, "test"), seeds=np.zeros(1, int), mesh=mesh)
    found = []
    with recorded(setup, tmp_path, SimpleNamespace(number=0, params={}), "", finished=False) as note_time:
        for now[0] in (103.0, 107.0):
            note_time()
            found.append(read_provenance(tmp_path)["sessions"][0]["seconds"])
        now[0] = 108.0
    assert found == [3.0, 7.0]
    assert read_provenance(tmp_path)["sessions"][0]["seconds"] == 8.0


@pytest.mark.parametrize(
    ("platform", "kind", "number", "cores", "words"),
    [
        ("gpu", "NVIDIA H200", 1, 16, "1 NVIDIA H200"),
        ("tpu", "TPU v5 lite", 4, 16, "4 TPU v5 lite"),
        ("cpu", "cpu", 2, 2, "2 CPU cores"),
        ("cpu", "cpu", 1, 1, "1 CPU core"),
        ("cpu", "cpu", 8, 2, "2 CPU cores as 8 devices"),
    ],
)
def test_devices_are_named_in_words(monkeypatch, platform, kind, number, cores, words):
    monkeypatch.setattr("jattn.training.announcing.cpu_cores", lambda: cores)
    device = SimpleNamespace(platform=platform, device_kind=kind)
    assert device_words(mock.Mock(mesh=SimpleNamespace(devices=np.array([device]), size=number))) == words


def test_a_run_that_is_finished_writes_nothing_more_down(tmp_path):
    with recorded(mock.Mock(), tmp_path, mock.Mock(), "", finished=True) as note_time:
        note_time()
    assert list(tmp_path.iterdir()) == []


def test_the_time_is_written_down_with_every_checkpoint(monkeypatch):
    monkeypatch.setattr("jattn.training.loop.check_finite", lambda *arguments: None)
    config = check({"training": {"steps": 10}, "run": {"checkpoint_every": 4, "snapshots": 2}}, "test")
    journal = mock.Mock(timed=lambda steps, take: take(), is_done=lambda step: step == 10)
    events = mock.Mock()
    checkpoints = mock.Mock(save=events.save)

    def chunk(state, until):
        return SimpleNamespace(number=int(until))

    start = SimpleNamespace(number=0)
    take_steps(mock.Mock(config=config), start, chunk, journal, checkpoints, Interrupts(), events.note_time)
    assert [call[0] for call in events.method_calls] == ["save", "note_time"] * 3
