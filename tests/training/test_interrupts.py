"""SIGINT and SIGTERM: wait for the run to save where it asks for that, and end it at once elsewhere."""

import gc
import os
import signal
import sys
import time
from contextlib import suppress

import pytest

from jattn.training.interrupts import Interrupts, Stopped, handled, interrupts

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
every_signal = pytest.mark.parametrize("number", STATUS)


@pytest.fixture(autouse=True)
def handlers():
    """The handlers before a test; every test leaves them as they were."""
    before = {number: signal.getsignal(number) for number in STATUS}
    yield before
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert after == before


def save(log, *numbers, failure=None):
    """A run that has something to save when signals come."""
    with interrupts() as signals:
        with signals.waiting():
            log.append(signals.received)
            for number in numbers:
                signal.raise_signal(number)
                log.append(signals.received)
            if failure is not None:
                raise failure
            log.append("saved")
        log.append("went on")


def look(log, number):
    """A run that has nothing to save when a signal comes."""
    with interrupts() as signals:
        with signals.waiting():
            log.append("saved")
        signal.raise_signal(number)
        log.append("went on")


@every_signal
def test_a_signal_waits_until_the_run_has_saved(number):
    log = []
    with pytest.raises(Stopped, match=rf"^{number.name}$") as stopped:
        save(log, number)
    assert log == [False, True, "saved"]
    assert stopped.value.status == STATUS[number]


@every_signal
def test_a_signal_ends_at_once_what_has_nothing_to_save(number):
    log = []
    with pytest.raises(Stopped, match=rf"^{number.name}$") as stopped:
        look(log, number)
    assert log == ["saved"]
    assert stopped.value.status == STATUS[number]


@every_signal
def test_a_signal_before_anything_was_saved_ends_at_once(number):
    with interrupts(), pytest.raises(Stopped):
        signal.raise_signal(number)


@pytest.mark.parametrize("first", STATUS)
@pytest.mark.parametrize("second", STATUS)
def test_a_second_signal_does_not_wait(first, second):
    log = []
    with pytest.raises(Stopped) as stopped:
        save(log, first, second)
    assert log == [False, True]
    assert stopped.value.status == STATUS[second]


def save_after_a_lost_stop(log, number):
    """A run whose `Stopped` was lost where nothing can be raised, as in a callback of the garbage collector."""
    with interrupts() as signals:
        with suppress(Stopped):
            signal.raise_signal(number)
        log.append(signals.received)
        with signals.waiting():
            pass
        log.append("went on")


@every_signal
def test_a_stop_that_was_lost_on_its_way_is_remembered(number):
    log = []
    with pytest.raises(Stopped) as stopped:
        save_after_a_lost_stop(log, number)
    assert log == [True]
    assert stopped.value.status == STATUS[number]


def test_a_stop_that_the_garbage_collector_loses_prints_no_traceback(monkeypatch):
    lost = []
    monkeypatch.setattr("sys.unraisablehook", lost.append)

    def stop_once(phase, info):
        gc.callbacks.remove(stop_once)
        signal.raise_signal(signal.SIGINT)

    with interrupts() as signals:
        gc.callbacks.append(stop_once)
        gc.collect()
        assert signals.received
    assert lost == []


def test_what_is_set_in_the_time_of_a_run_to_print_what_is_lost_stays_set(monkeypatch):
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)
    before, others = sys.unraisablehook, []
    with interrupts():
        pass
    assert sys.unraisablehook is before
    with interrupts():
        sys.unraisablehook = others.append
    assert sys.unraisablehook == others.append


def test_without_a_signal_nothing_is_stopped():
    log = []
    save(log)
    assert log == [False, "saved", "went on"]


@every_signal
def test_a_failure_while_a_signal_waits_is_not_hidden(number):
    with pytest.raises(ZeroDivisionError):
        save([], number, failure=ZeroDivisionError())


def test_ordinary_error_handling_does_not_swallow_a_stop():
    assert not issubclass(Stopped, Exception)


@every_signal
def test_during_a_run_and_only_then_signals_are_its_own(number, handlers):
    with interrupts():
        assert signal.getsignal(number) != handlers[number]
    assert signal.getsignal(number) == handlers[number]


@every_signal
def test_handlers_are_restored_after_a_failure(number, handlers):
    with pytest.raises(KeyError), interrupts():
        raise KeyError
    assert signal.getsignal(number) == handlers[number]


def test_before_anything_is_begun_a_signal_is_no_exception(monkeypatch, capfd):
    ended = []
    monkeypatch.setattr("jattn.training.interrupts.os._exit", ended.append)

    def begin():
        with handled(Interrupts(lambda: "nothing was begun")) as signals, signals.nothing_begun():
            signal.raise_signal(signal.SIGTERM)
            while not ended:
                time.sleep(0.001)

    with pytest.raises(Stopped):
        begin()
    assert ended == [143]
    assert capfd.readouterr().err == "stopped by SIGTERM; nothing was begun\n"


def test_what_will_be_done_is_said_at_once_and_what_came_of_it_at_the_end(capfd):
    signals = Interrupts(lambda: "saved at step 7: the same command resumes there")

    def save():
        with handled(signals), signals.waiting():
            signals.saved_by = 7
            signal.raise_signal(signal.SIGINT)
            said = ""
            while not said:
                said = capfd.readouterr().err
            assert said == "stopping after this chunk (saved by step 7); again to stop at once\n"

    with pytest.raises(Stopped) as stopped:
        save()
    farewell = "stopped by SIGINT; saved at step 7: the same command resumes there"
    assert signals.farewell(stopped.value.number) == farewell


def test_a_second_signal_ends_a_process_whose_main_thread_is_elsewhere(monkeypatch, capfd):
    ended = []
    monkeypatch.setattr("jattn.training.interrupts.os._exit", ended.append)
    signals = Interrupts(lambda: "nothing was saved yet: the same command starts anew")
    signals.answer(signal.SIGINT)
    assert capfd.readouterr().err.startswith("stopping as soon as what is compiled or computed now is done")
    assert ended == []
    signals.answer(signal.SIGINT)
    assert ended == [130]
    assert capfd.readouterr().err == "stopped by SIGINT; nothing was saved yet: the same command starts anew\n"


IN_A_RUN = """
from jattn.training.interrupts import Interrupts, handled
run = handled(Interrupts(lambda: "nothing was saved yet: the same command starts anew"))
run.__enter__()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_ctrl_c_is_answered_while_no_handler_can_run(tmp_path):
    from tests.command.terminals import INSIDE_OF_C, in_terminal

    keys = [("compiling", 0), ("again to stop at once", 0)]
    status, written = in_terminal(tmp_path, program=("-c", IN_A_RUN + INSIDE_OF_C), keys=keys)
    assert [line.strip() for line in written.replace("^C", "").splitlines() if line.strip()] == [
        "compiling",
        "stopping as soon as what is compiled or computed now is done; again to stop at once",
        "\x1b[?25hstopped by SIGINT; nothing was saved yet: the same command starts anew",
    ]
    assert status == 130
