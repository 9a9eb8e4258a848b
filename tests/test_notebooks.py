"""The notebooks: kept with their outputs, and executed again by `make notebooks`."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def figures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_they_walk_the_lecture_in_order():
    assert [path.stem.split("_")[0] for path in PATHS] == [f"{i:02}" for i in range(1, 13)]


@every_notebook
def test_they_are_kept_whole_with_their_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {int(path.stem.split('_')[0])}. ")
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum(map(figures, code(notebook))) >= 3
    assert path.stat().st_size < 2_000_000


@pytest.mark.notebook
@every_notebook
def test_they_run_and_draw_what_they_promise(path):
    """A cell whose kept output has figures promises as many."""
    client = pytest.importorskip("nbclient")
    kept = nbformat.read(path, as_version=4)
    promised = [figures(cell) for cell in code(kept)]
    resources = {"metadata": {"path": str(FOLDER)}}
    client.NotebookClient(kept, timeout=400, kernel_name="python3", resources=resources).execute()
    assert [figures(cell) for cell in code(kept)] == promised
