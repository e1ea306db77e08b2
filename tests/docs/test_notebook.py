"""examples/notebook.ipynb: its cells run from top to bottom, in a real kernel."""

import nbformat
from nbclient import NotebookClient


def test_the_notebook_trains_watches_and_plots(clone):
    """The live line ends with the state of the run, and the curves are a picture."""
    place = clone / "examples"
    notebook = nbformat.read(place / "notebook.ipynb", as_version=4)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code"] == [[]] * 4
    resources = {"metadata": {"path": str(place)}}
    NotebookClient(notebook, timeout=240, resources=resources).execute()
    start, watch, plot, logs = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert start.outputs[0].data["text/plain"] == "'act_tiny/version_0'"
    live = watch.outputs[0].data["text/plain"]
    assert live.startswith("'SUCCEEDED  epoch 2  step 22  ")
    assert "val/loss" in live
    assert "image/png" in plot.outputs[-1].data
    assert logs.outputs[0].text.startswith("[rank ")
    assert (place / "experiments/act_tiny/version_0/launch/done.json").is_file()
