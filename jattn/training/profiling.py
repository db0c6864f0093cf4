"""A profile of some steps: what JAX's profiler traces of them, written into the run folder."""

from pathlib import Path

import jax

from jattn.training.config import Config


class Profiler:
    """Traces the steps that ``run.profile`` asks for, into ``profile/`` of the run folder.

    Args:
      config: of the run.
      folder: the run's.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self._first, self._last = config.run.profile or (-1, -1)
        self._path, self._traces = folder / "profile", False

    def reached(self, step: int) -> None:
        """Begins the trace where it is to begin, or ends it; `step` steps were taken."""
        if self._traces and step >= self._last:
            self.close()
        if not self._traces and step == self._first:
            jax.profiler.start_trace(str(self._path))
            self._traces = True

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._traces:
            self._traces = False
            jax.profiler.stop_trace()
