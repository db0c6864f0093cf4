"""The configs that come with jattn."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def configs_folder() -> Path:
    """Finds them: beside the package in a checkout, also one installed as editable; in the package of a wheel."""
    beside, inside = PACKAGE.parent / "configs", PACKAGE / "configs"
    return inside if inside.is_dir() else beside


def find_config(path: Path) -> Path:
    """Returns a path as it is if there is such a file, else the config that comes with jattn under that name.

    ``reverse``, ``reverse.toml`` and ``configs/reverse.toml`` name one that comes with jattn, also where a folder has
    that name, as that of a run may; other folders are a person's own.
    """
    name = path.name if path.suffix else f"{path.name}.toml"
    shipped = configs_folder() / name
    return shipped if not path.is_file() and path.parent in (Path(), Path("configs")) and shipped.is_file() else path
