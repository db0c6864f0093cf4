"""`run.distributed`: which process of a run this is, and where the others are found. Imports no JAX."""

import re
import reprlib
from typing import Any

import pydantic
from pydantic import Field

from jattn.training.sections import Section

ADDRESS = re.compile(r"(?P<host>[^\s\[\]/]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")
"""An address, as in ``10.0.0.1:1234``, ``node7:1234`` or ``[fe80::1]:1234``."""

EXPECTED = """'auto' or {coordinator = "HOST:PORT", processes = N, index = 0 to N - 1}"""


class Processes(Section):
    """One of several processes that train together."""

    coordinator: str = Field(description="address of the process with index 0, as in 10.0.0.1:1234")
    processes: int = Field(ge=1, le=1_048_576, description="how many there are")
    index: int = Field(ge=0, description="which of them this is")
    wait: int = Field(default=300, ge=1, le=86_400, description="seconds to wait for the others")

    def __str__(self) -> str:
        return (
            f'{{coordinator = "{self.coordinator}", processes = {self.processes}, index = {self.index}, '
            f"wait = {self.wait}}}"
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)

    @classmethod
    def of(cls, asked: Any) -> "Processes":
        """Reads a table.

        Raises:
          ValueError: in one line, if it is none, or something in it is wrong.

        Example:
          >>> from jattn.training.distributed import Processes
          >>> Processes.of({"coordinator": "10.0.0.1:1234", "processes": 2, "index": 0}).address
          ('10.0.0.1', 1234)
        """
        if not isinstance(asked, dict):
            raise ValueError(f"run.distributed: expected {EXPECTED}, got {reprlib.repr(asked)}")
        try:
            made = cls.model_validate(asked)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key, said = first["loc"][0], first["msg"][0].lower() + first["msg"][1:]
            raise ValueError(
                f"run.distributed: expected {EXPECTED}, got {reprlib.repr(asked)}: {key}: {said}"
            ) from None
        found = ADDRESS.fullmatch(made.coordinator)
        if found is None or not 0 < int(found["port"]) < 65_536:
            raise ValueError(
                "run.distributed: expected an address such as 10.0.0.1:1234 as coordinator, "
                f"got {reprlib.repr(made.coordinator)}"
            )
        if made.index >= made.processes:
            raise ValueError(
                f"run.distributed: expected an index from 0 to {made.processes - 1} of {made.processes} processes, "
                f"got {made.index}"
            )
        return made
