"""What `train.py` does: a run, or a sweep of runs, from the arguments to the exit status."""

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jattn.command.console import on_console, quiet
from jattn.drawing.plain import message
from jattn.training.interrupts import Interrupts, Stopped, handled
from jattn.training.processes import end, end_without, is_first, is_of_runtime, joined, leave

# Whatever takes time to import is imported late: a signal is handled, and a mistake answered, before.
if TYPE_CHECKING:
    from jattn.training.config import Config
    from jattn.training.sweeps import Sweep


def main(arguments: list[str], program: str = "train.py") -> int:
    """Does what `train.py`, or another program that trains, is asked for; returns the exit status.

    0 done, 2 wrong config or arguments, 129, 130 or 143 after saving on SIGHUP, SIGINT or SIGTERM, 1 otherwise.
    """
    asked: list[Config | Sweep] = []
    signals = Interrupts(lambda: outlook(asked))
    try:
        with handled(signals):
            status = on_console(lambda: answer(arguments, program, signals, asked))
            end("its own message says why", status)
            return status
    except Stopped as stopped:
        complain(signals.farewell(stopped.number))
        end(f"it was stopped by {stopped}", stopped.status, signals.shared)
        return stopped.status
    except Exception as error:
        if asked and joined():
            traceback.print_exc()
            end(f"{type(error).__name__}: {error}", 1)
        raise


def answer(arguments: list[str], program: str, signals: Interrupts, asked: "list[Config | Sweep]") -> int:
    """Does what is asked for, and says in one line why it could not; returns the exit status.

    Args:
      arguments, program, signals: of the command.
      asked: is given the run or the sweep, as soon as it is known.
    """
    with signals.nothing_begun():
        from jattn.training.reading import ConfigError

    try:
        with signals.nothing_begun():
            asked.append(read(arguments, program))
    except ConfigError as error:
        complain(str(error))
        return 2
    from jattn.training.config import Config
    from jattn.training.run_folder import RunFolderError, check_folder

    command = shlex.join([*(["python"] if program.endswith(".py") else []), *program.split(), *arguments])

    try:
        if not isinstance(asked[0], Config):
            return do_sweep(asked[0], signals, command)
        check_folder(asked[0])
        return do_run(asked[0], signals, command)
    except (ConfigError, RunFolderError) as error:
        complain(str(error))
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:
        complain(str(error))
        return 1


def read(arguments: list[str], program: str) -> "Config | Sweep":
    """Reads what is asked for: a run, or a sweep."""
    from jattn.command.order import check_order

    check_order(arguments, program)
    if "--sweep" in arguments:
        from jattn.command.sweeps import sweep_from_arguments

        if sweep := sweep_from_arguments(arguments, program):
            return sweep
    from jattn.command.options import config_from_arguments

    return config_from_arguments(arguments, program)


def do_run(config: "Config", signals: Interrupts, command: str) -> int:
    """Does one run and prints its result; returns the exit status."""
    from jattn.training.announcing import first_line
    from jattn.training.progress import reporter
    from jattn.training.runs import configure_jax

    if config.run.joins:
        # Its warnings are of what is done on purpose.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        with signals.nothing_begun():
            configure_jax([config], signals.outlook)
    with nullcontext() if not config.run.joins or is_first() else quiet():
        print(first_line(config), flush=True)
        with reporter(config.training.steps, announces=False) as report:
            report.doing("starting")
            with signals.nothing_begun():
                configure_jax([config], signals.outlook)

                from jattn.training.loop import train
                from jattn.training.step import TrainingFailed

            try:
                result = train(config, signals=signals, report=report, command=command)
            except TrainingFailed as error:
                complain(str(error))
                return 1
            except Exception as error:
                if is_of_runtime(error):
                    end_without(f"what the processes compute together failed: {str(error).partition(chr(10))[0]}")
                raise
        say_result(config, result)
    leave()
    return 0


def say_result(config: "Config", result: dict[str, Any]) -> None:
    """Prints what the test of a run found."""
    from jattn.training.announcing import result_words

    kind = "held-out" if config.task.reads() and config.task.model_dump()["test_share"] else "fresh"
    print(f"test on {result['examples']} {kind} sequences: {result_words(result)}")
    for length, found in result["by_length"].items():
        print(f"    length {length:>4}: {result_words(found)}")
    print(message(f"see {Path(config.run.folder) / 'report.html'}"))


def do_sweep(sweep: "Sweep", signals: Interrupts, command: str) -> int:
    """Does the runs of a sweep, once all are known to be right, and prints their results; returns the exit status."""
    from jattn.training.announcing import first_line_of_sweep
    from jattn.training.runs import configure_jax, leaving_memory
    from jattn.training.sweeps import prepare, run_sweep

    print(first_line_of_sweep(sweep.combinations[0].config, len(sweep.combinations), sweep.folder), flush=True)
    # The runs at once have processes and memory of their own; this one only checks them and waits.
    with signals.nothing_begun(), leaving_memory() if sweep.jobs > 1 else nullcontext():
        configure_jax([one.config for one in sweep.combinations])
        sweep = prepare(sweep)
    outcomes = run_sweep(sweep, signals, command)
    print(message(f"see {sweep.folder / 'sweep.html'}; sweep.png, sweep.md and sweep.csv are beside it"))
    return 1 if any(outcome.test is None for outcome in outcomes) else 0


def outlook(asked: "Sequence[Config | Sweep]") -> str:
    """Says what the same command will do after it was stopped; reads names of files alone."""
    if not asked:
        return "nothing was begun"
    one: Any = asked[0]
    # Nothing is imported here: the main thread may be inside of an import.
    is_sweep = hasattr(one, "combinations")
    run = one.combinations[0].config.run if is_sweep else one.run
    without = " without --run.overwrite" if run.overwrite else ""
    if is_sweep:
        return f"the same command{without} goes on with what is left of the sweep"
    found = (path.stem.rpartition("_")[2] for path in Path(run.folder, "checkpoints").glob("digests_*.json"))
    step = max((int(number) for number in found if number.isdecimal()), default=None)
    if step is None:
        return "nothing was saved yet: the same command starts anew"
    return f"saved at step {step}: the same command{without} resumes there"


def complain(text: str) -> None:
    """Says what is wrong, or what ended the command."""
    print(message(text), file=sys.stderr)
