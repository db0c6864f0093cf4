"""Code of one's own that a config names: ``"my_tasks.py:zigzag"`` or ``"package.module:name"``.

A file is executed once for each text that it has; a module is imported once, and refused where its file has changed
since. Only a person's own config or command line names code.
"""

import ast
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


class OwnError(ValueError):
    """Code that cannot be used; its text names the code, what was expected and what came."""


@dataclasses.dataclass(frozen=True)
class Places:
    """Where files of code are looked for.

    Attributes:
      folders: they are tried in turn, and then the working folder.
      known: the path of a file by the name that a config has for it, as a run folder remembers it.
    """

    folders: tuple[Path, ...] = ()
    known: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def all_folders(self) -> list[Path]:
        """Returns the folders and the working folder, each once."""
        return list(dict.fromkeys(folder.absolute() for folder in (*self.folders, Path())))


@dataclasses.dataclass(frozen=True, eq=False)
class Code:
    """One thing that code of one's own defines.

    Attributes:
      name: its name in the config, ``file:attribute``.
      path: the file, as an absolute path.
      text: of the file, as it was executed.
      made: the thing itself.
    """

    name: str
    path: Path
    text: bytes = dataclasses.field(repr=False)
    made: Any

    @property
    def sha256(self) -> str:
        """The digest of the text."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def file(self) -> str:
        """The part of the name that says the file or the module."""
        return self.name.rpartition(":")[0]

    def wrong(self, problem: str) -> OwnError:
        """Says what is wrong with the thing, and where it is defined."""
        line = line_that_defines(self.name.rpartition(":")[2], self.text)
        where = f"; defined in {self.path.name}, line {line}" if line else ""
        return OwnError(f"{self.name}: {problem}{where}")

    def raised(self, error: BaseException) -> OwnError:
        """Says which line of the file raised, and what; where none did, where the thing is defined."""
        said = line_that_raised(error, self.path)
        return OwnError(f"{self.name}: {said}") if said.startswith("line ") else self.wrong(said)


_MODULES: dict[Path, tuple[bytes, ModuleType]] = {}
_IMPORTED: dict[Path, bytes] = {}
_CODE: dict[tuple[str, Path, bytes], Code] = {}


def is_own(name: Any) -> bool:
    """Says whether a name in a config is that of code.

    Example:
      >>> from jattn.training.own.code import is_own
      >>> is_own("my_tasks.py:zigzag"), is_own("reverse")
      (True, False)
    """
    return isinstance(name, str) and ":" in name


def load(name: str, places: Places | None = None) -> Code:
    """Imports what a config names, which executes the file.

    Args:
      name: ``"FILE.py:NAME"`` or ``"PACKAGE.MODULE:NAME"``.
      places: where files are looked for; by default in the working folder.

    Raises:
      OwnError: if there is no such file, module or name in it, or importing it raises, naming the line.

    Example:
      >>> from jattn.training.own.code import load
      >>> load("jattn.tasks.aligned:reverse").made.__name__
      'reverse'
      >>> load("my_tasks.py:zigzag")    # doctest: +ELLIPSIS
      Traceback (most recent call last):
      jattn.training.own.code.OwnError: my_tasks.py: no such file; looked in ...
    """
    places = places or Places()
    file, _, attribute = name.rpartition(":")
    is_file = file.endswith(".py")
    if not attribute.isidentifier() or not (is_file or all(part.isidentifier() for part in file.split("."))):
        raise OwnError(f"expected FILE.py:NAME or PACKAGE.MODULE:NAME, got {name!r}")
    if is_file:
        path = _find_file(file, places)
        text, module = _execute(path, file)
    else:
        path, text, module = _import(file, places)
    if not hasattr(module, attribute):
        raise OwnError(f"{file}: has no {attribute!r}; {_others(module, attribute)}")
    if (name, path, text) not in _CODE:
        _CODE[name, path, text] = Code(name, path, text, getattr(module, attribute))
    return _CODE[name, path, text]


def line_that_defines(name: str, text: bytes) -> int | None:
    """Returns the line in which a file defines a name, by ``def``, ``class`` or ``=``: the last.

    Example:
      >>> from jattn.training.own.code import line_that_defines
      >>> line_that_defines("rate", b"import math\\n\\nrate = 0.5\\n")
      3
    """
    found = None
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        else:
            continue
        found = max(found or 0, node.lineno) if name in names else found
    return found


def line_that_raised(error: BaseException, path: Path) -> str:
    """Says which line of a file raised, and what.

    Example:
      >>> from pathlib import Path
      >>> from jattn.training.own.code import line_that_raised
      >>> line_that_raised(KeyError("size"), Path("my_tasks.py"))
      "raises KeyError: 'size'"
    """
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    text = (error.msg if isinstance(error, SyntaxError) else str(error)).split("\n")[0]
    return f"{f'line {lines[-1]} ' if lines else ''}raises {type(error).__name__}{f': {text}' if text else ''}"


def _find_file(file: str, places: Places) -> Path:
    path = Path(places.known.get(file, file)).expanduser()
    folders = places.all_folders()
    found = next((folder / path for folder in folders if (folder / path).is_file()), None)
    if found is not None:
        return found.resolve()
    if path.is_absolute():
        raise OwnError(f"{path}: no such file")
    names = [other.name for folder in folders for other in (folder / path).parent.glob("*.py")]
    near = difflib.get_close_matches(path.name, names, n=1)
    said = f"did you mean {path.with_name(near[0])}?" if near else f"looked in {' and in '.join(map(str, folders))}"
    raise OwnError(f"{file}: no such file; {said}")


def _execute(path: Path, file: str) -> tuple[bytes, ModuleType]:
    """Executes a file under a name by which what it defines can be pickled; returns its text and the module."""
    text, before = path.read_bytes(), _MODULES.get(path)
    if before is not None and before[0] == text:
        return before
    _let_import_from(path.parent)
    name = before[1].__name__ if before else _free_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # What is executed is what the digest is of, and not a cached compilation.
        exec(compile(text, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise OwnError(f"{file}: {line_that_raised(error, path)}") from error
    _MODULES[path] = text, module
    return _MODULES[path]


def _free_name(path: Path) -> str:
    """Returns the name of the file, or a longer one where a module has that."""
    name = re.sub(r"\W", "_", path.stem)
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    taken = name in sys.modules or (spec is not None and spec.origin != str(path))
    return f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}" if taken else name


def _import(name: str, places: Places) -> tuple[Path, bytes, ModuleType]:
    known = places.known.get(name)
    for folder in [_root(Path(known), name)] if known else places.all_folders():
        _let_import_from(folder)
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise OwnError(f"{name}: no such module; a file is named with .py, as in my_tasks.py:zigzag") from None
        path = _first_file(error)
        # A package around the module, which is imported first, may be what raised.
        where = "" if path == path.with_stem(name.rpartition(".")[2]) else f"{path}: "
        raise OwnError(f"{name}: {where}{line_that_raised(error, path)}") from error
    if not getattr(module, "__file__", None):
        raise OwnError(f"{name}: expected a module with a file, got a folder or a built-in module")
    path = Path(str(module.__file__)).resolve()
    text = path.read_bytes()
    if _IMPORTED.setdefault(path, text) != text:
        raise OwnError(f"{name}: {path} has changed since it was imported; start Python anew")
    return path, text, module


def _root(path: Path, name: str) -> Path:
    """Returns the folder that a module is imported from; that of a package is one higher than its file says."""
    return path.parents[name.count(".") + (path.name == "__init__.py")]


def _first_file(error: BaseException) -> Path:
    """Returns the first file that an import executed before it raised; one that cannot be compiled was not executed."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    executed = [file for file in files if not file.startswith("<") and file not in (__file__, importlib.__file__)]
    return Path(executed[0] if executed else getattr(error, "filename", None) or "")


def _let_import_from(folder: Path) -> None:
    """Lets the code import its neighbours; what is installed comes first."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _others(module: ModuleType, name: str) -> str:
    """Names the nearest name that a module defines, or all of them."""
    names = [other for other in vars(module) if not other.startswith("_")]
    own = [other for other in names if getattr(vars(module)[other], "__module__", "") == module.__name__] or names
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"it has {', '.join(own[:8])}" if own else "it is empty"
