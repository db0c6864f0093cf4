"""A profile of some steps: what JAX's profiler traces of them, written into the run folder."""

from collections.abc import Callable
from pathlib import Path

import jax

from jattn.training.config import Config
from jattn.training.processes import is_first


class Profiler:
    """Traces the steps that ``run.profile`` asks for, into ``profile/`` of the run folder; only the first process does.

    Args:
      config: of the run.
      folder: the run's.
      say: is told if these steps were taken before, without a trace.
    """

    def __init__(self, config: Config, folder: Path, say: Callable[[str], None]) -> None:
        self._left = config.run.profile if is_first() else ()
        self._path, self._say, self._traces = folder / "profile", say, False

    def reached(self, step: int) -> None:
        """Begins the trace where it is to begin, or ends it; `step` steps were taken."""
        if not self._left:
            return
        first, last = self._left
        if step >= last:
            self._left = ()
            if not self._traces and not self._path.exists():
                self._say(f"run.profile: nothing is traced, as steps {first} to {last} were taken before")
            self.close()
        elif step >= first and not self._traces:
            # A run that was cut off between the two traces what is left.
            jax.profiler.start_trace(str(self._path))
            self._traces = True

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._traces:
            self._traces = False
            jax.profiler.stop_trace()
