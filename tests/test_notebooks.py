"""The notebooks of the documentation run from top to bottom, and are stored without outputs."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_is_in_the_documentation(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in cells if cell["outputs"] or cell["execution_count"]] == []
    assert f"notebooks/{path.name}" in (ROOT / "mkdocs.yml").read_text()
    assert f"notebooks/{path.name}" in (ROOT / "docs" / "index.md").read_text()


def test_an_idea_takes_fewer_than_fifty_lines():
    cells = json.loads((ROOT / "docs" / "notebooks" / "your_own_idea.ipynb").read_text())["cells"]
    lines = max((cell["source"] for cell in cells), key=len)
    assert 30 < len([line for line in lines if line.strip()]) < 50


def texts(cell):
    """Returns what a cell shows as text: what it prints, and its value in HTML or plain text."""
    shown = [output.get("text", "") for output in cell.outputs]
    for output in cell.outputs:
        data = output.get("data", {})
        shown.append(data.get("text/html", data.get("text/plain", "")))
    return "\n".join(shown)


@pytest.fixture(scope="module")
def executed():
    """Returns what executes a notebook, in a process that computes as these tests do."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")

    def execute(name, folder):
        book = nbformat.read(ROOT / "docs" / "notebooks" / f"{name}.ipynb", as_version=4)
        nbformat.validate(book)
        nbclient.NotebookClient(book, timeout=None, resources={"metadata": {"path": str(folder)}}).execute()
        return [cell for cell in book.cells if cell.cell_type == "code"]

    return execute


# Of the packages that run notebooks, not of what they run.
ignored = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


class TestExecuted:
    pytestmark = [pytest.mark.exhaustive, *ignored]  # noqa: RUF012

    def test_a_filter_forms(self, executed, tmp_path):
        cells = executed("watch_a_filter_form", tmp_path)
        shown = list(map(texts, cells))
        assert "data:image/gif" in shown[3]
        assert "image/png" in cells[4].outputs[0]["data"]
        mass = float(re.search(r"weight on the oracle: ([\d.]+)", shown[6])[1])
        assert 0.6 < mass <= 1
        assert shown[5].count("<img") == 1
        assert "reversed" in shown[7]
        assert "8 5 6 2 9 5 1 4 1 3" in shown[8]

    def test_an_idea_of_ones_own_learns_and_forgets_keys(self, executed, tmp_path):
        cells = executed("your_own_idea", tmp_path)
        right = [float(share) for share in re.findall(r"([\d.]+)% right", texts(cells[1]))]
        zeros = [float(share) for share in re.findall(r"(\d+)% of the weights", texts(cells[1]))]
        assert min(right) > 90
        assert zeros[0] == 0
        assert zeros[1] > 30
        assert "image/png" in cells[2].outputs[0]["data"]

    def test_heads_are_taken_out_and_forced(self, executed, tmp_path):
        shown = list(map(texts, executed("head_surgery", tmp_path)))
        assert shown[1].startswith("induction, layout causal: ")
        assert shown[1].count("compiling") == 1
        assert "induction" in shown[2]
        assert shown[3].count("<img") == 2
        assert shown[4].count("<tr>") == 7
        trained, before, first = (float(share) for share in re.findall(r"([\d.]+)%", shown[5]))
        assert trained > 90
        assert first < before
        assert first < 50
