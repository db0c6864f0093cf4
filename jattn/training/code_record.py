"""The code of one's own that a run was made with, in its folder: where it was, its digests, and a copy.

``code.json`` has the path and the SHA-256 of each file by its name in the config; the folder ``code`` has the files as
they were executed. The copies are for a person to compare with, and are never executed.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jattn.drawing.files import replacing
from jattn.training.own import Code, Places

RECORD, COPIES = "code.json", "code"


class ChangedCode(ValueError):
    """Code that is not what a run was made with; its text names the file and says what to do."""


def record_code(folder: Path, code: Sequence[Code]) -> None:
    """Writes down what code a run is made with; nothing where there is none."""
    if not code:
        return
    (folder / COPIES).mkdir(exist_ok=True)
    for one in code:
        with replacing(_copy(folder, one.file)) as file:
            file.write(one.text)
    record = {one.file: {"path": str(one.path), "sha256": one.sha256} for one in code}
    with replacing(folder / RECORD) as file:
        file.write(json.dumps(record, indent=2).encode())


def places_of_code(folder: Path, known: Mapping[str, str]) -> Places:
    """Returns where the code of the run in a folder is, once it is known to be as it was.

    Args:
      folder: of the run.
      known: the path of a file by its name in the config, where it is not where it was.

    Raises:
      ChangedCode: if a file is not there, or has changed.
    """
    path, places = folder / RECORD, {}
    record = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for file, then in record.items():
        paths = [Path(known[file])] if file in known else [Path(then["path"]), Path(file)]
        there = next((path for path in paths if path.is_file()), None)
        copy = f"the file as it was is {_copy(folder, file)}"
        if there is None:
            raise ChangedCode(f"{folder}: the run needs {file}, which is not at {then['path']}; {copy}")
        now = hashlib.sha256(there.read_bytes()).hexdigest()
        if now != then["sha256"]:
            raise ChangedCode(
                f"{folder}: {file} has changed since the run began (SHA-256 {then['sha256'][:8]} then, {now[:8]} now); "
                f"{copy}: put it back, or choose another run.folder, or run.overwrite to delete that run"
            )
        places[file] = str(there.absolute())
    return Places(known=places)


def _copy(folder: Path, file: str) -> Path:
    """Returns where the copy of a file is; a module is one, too."""
    name = re.sub(r"[^\w.-]", "_", file)
    return folder / COPIES / (name if name.endswith(".py") else f"{name}.py")
