"""What made a run: the command, the versions, the devices and the times, kept in `provenance.json`.

The file holds `command`, which repeats the run; `differences`, the config's keys and values that are not defaults;
`code`, the SHA-256 of each file of a person's own that the config names; `parameters`, how many numbers the model has;
`seeds`; and `sessions`, one for each process that trained: `started`, the step it began `from_step`, `seconds` until it
ended or last saved a checkpoint, `python`, `platform`, `packages` with their versions, `device`, `devices`,
and `ran_on`, which says both in words.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jattn.drawing.files import replacing

PROVENANCE = "provenance.json"


def save_provenance(run_dir: Path | str, provenance: Mapping[str, Any]) -> None:
    """Writes `provenance.json` of a run folder in one step; a failed write leaves the old file."""
    with replacing(Path(run_dir) / PROVENANCE) as file:
        file.write(json.dumps(provenance, indent=1).encode())


def read_provenance(run_dir: Path | str) -> dict[str, Any]:
    """Reads `provenance.json` of a run folder; empty where there is none, or nothing that can be read.

    A report does not fail for it: what a run has learned does not depend on it.
    """
    try:
        found = json.loads((Path(run_dir) / PROVENANCE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    sessions = found.get("sessions") if isinstance(found, dict) else None
    whole = isinstance(sessions, list) and all(isinstance(session, dict) for session in sessions)
    return found if whole else {}
