"""The tour runs from top to bottom in a clean kernel, on its small budget and without a display."""

import pathlib

import jax
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[1]
TOUR = ROOT / "notebooks" / "01_tour.ipynb"


@pytest.mark.slow
def test_tour_runs_in_a_clean_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("MJX_SAFETY_NOTEBOOK_BUDGET", "small")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    monkeypatch.delenv("DISPLAY", raising=False)
    tour = nbformat.read(TOUR, as_version=4)

    # A cell that raises fails the test, with its traceback.
    NotebookClient(tour, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = [output.get("data", {}) for cell in tour.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in data for data in outputs) == 6
    videos = [data["text/html"] for data in outputs if "Video" in data.get("text/plain", "")]
    assert len(videos) == 3
    assert all("data:video/mp4;base64," in html for html in videos)
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert (run_dir / "policy.npz").exists()


def test_tour_is_stored_without_outputs():
    tour = nbformat.read(TOUR, as_version=4)
    nbformat.validate(tour)
    code = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert len(code) > 5
    assert not any(cell.outputs or cell.execution_count for cell in code)
