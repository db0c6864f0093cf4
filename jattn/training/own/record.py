"""The code of one's own that a run was made with, in its folder: where it was, its digests, and a copy.

``code.json`` has the path and the SHA-256 of each file by its name in the config; the folder ``code`` has the files as
they were executed. The copies are for a person to compare with, and are never executed.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jattn.drawing.files import replacing
from jattn.training.own.code import Code, Places

RECORD, COPIES = "code.json", "code"


class ChangedCode(ValueError):
    """Code that is not what a run was made with; its text names the file and says what to do."""


def record_code(folder: Path, code: Sequence[Code]) -> None:
    """Writes down what code a run is made with; nothing where there is none."""
    if not code:
        return
    (folder / COPIES).mkdir(exist_ok=True)
    copies = _copies(folder, [one.file for one in code])
    for one in code:
        with replacing(copies[one.file]) as file:
            file.write(one.text)
    record = {one.file: {"path": str(one.path), "sha256": one.sha256} for one in code}
    with replacing(folder / RECORD) as file:
        file.write(json.dumps(record, indent=2).encode())


def places_of_code(folder: Path, known: Mapping[str, str], needed: Iterable[str]) -> Places:
    """Returns where the code of the run in a folder is, once it is known to be as it was.

    Args:
      folder: of the run.
      known: the path of a file by its name in the config, where it is not where it was.
      needed: the names of the files that the run needs; others in the record are not looked at.

    Raises:
      ChangedCode: if a file is not there, has changed, or is not in the record; or the record cannot be read.
    """
    record, places = _read_record(folder / RECORD), {}
    copies = _copies(folder, record)
    for file in dict.fromkeys(needed):
        if file not in record:
            raise ChangedCode(f"{folder}: the run needs {file}, of which {RECORD} does not say what it was")
        then = record[file]
        paths = [Path(known[file])] if file in known else [Path(then["path"]), Path(file)]
        there = next((path for path in paths if path.is_file()), None)
        copy = f"the file as it was is {copies[file]}"
        if there is None:
            raise ChangedCode(f"{folder}: the run needs {file}, which is not at {then['path']}; {copy}")
        now = hashlib.sha256(there.read_bytes()).hexdigest()
        if now != then["sha256"]:
            raise ChangedCode(
                f"{folder}: {file} has changed since the run began (SHA-256 {then['sha256'][:8]} then, {now[:8]} now"
                f"{_first_change(copies[file], there)}); {copy}: "
                "put it back, or choose another run.folder, or run.overwrite to delete that run"
            )
        places[file] = str(there.absolute())
    return Places(known=places)


def _first_change(copy: Path, there: Path) -> str:
    """Says which line of a file is the first that is not that of its copy, where there is one."""
    try:
        then, now = (path.read_bytes().splitlines() for path in (copy, there))
    except OSError:
        return ""
    same = [one == other for one, other in zip(then, now, strict=False)]
    return "" if then == now else f"; line {[*same, False].index(False) + 1} is the first that differs"


def _read_record(path: Path) -> dict[str, dict[str, str]]:
    try:
        record = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError:
        record = None
    if not isinstance(record, dict) or not all(map(_is_entry, record.values())):
        raise ChangedCode(f"{path}: expected JSON of the path and the SHA-256 of each file of code, got something else")
    return record


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("path", "sha256"))


def _copies(folder: Path, files: Iterable[str]) -> dict[str, Path]:
    """Returns where the copy of each file is; a module is one, too. Files whose copies had one name have a digest."""
    names = {file: re.sub(r"[^\w.-]", "_", file).removesuffix(".py") for file in files}
    times = Counter(name.lower() for name in names.values())
    for file, name in names.items():
        if times[name.lower()] > 1:
            names[file] = f"{name}_{hashlib.sha256(file.encode()).hexdigest()[:8]}"
    return {file: folder / COPIES / f"{name}.py" for file, name in names.items()}
