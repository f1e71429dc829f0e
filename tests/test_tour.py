"""docs/tour.ipynb runs from its first cell to its last."""

import nbformat
from conftest import ROOT
from nbclient import NotebookClient


def test_every_cell_of_the_tour_runs():
    tour = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    client = NotebookClient(tour, timeout=300, resources={"metadata": {"path": str(ROOT / "docs")}})
    client.execute()  # raises what a cell raises
    cells = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert len(cells) == 12 and all(cell.outputs for cell in cells)
