"""Pages that a person looks at. Reads results folders only, computes nothing."""

from pathlib import Path

from regsim.evaluation.batch_rows import TABLE
from regsim.evaluation.check_rows import CHECK
from regsim.evaluation.sweep_rows import RESULTS
from regsim.evaluation.training_rows import CARD
from regsim.report.batch_page import render_batch_page, write_batch_page
from regsim.report.check_page import render_check_page, write_check_page
from regsim.report.landscape_page import RESULTS_NAME, render_landscape_page, write_landscape_page
from regsim.report.page import render_registration_page, write_registration_page
from regsim.report.sweep_page import render_sweep_page, write_sweep_page
from regsim.report.training_page import render_training_page, write_training_page

__all__ = [
    "render_batch_page",
    "render_check_page",
    "render_landscape_page",
    "render_registration_page",
    "render_sweep_page",
    "render_training_page",
    "write_batch_page",
    "write_check_page",
    "write_landscape_page",
    "write_page",
    "write_registration_page",
    "write_sweep_page",
    "write_training_page",
]


def write_page(folder: Path) -> Path:
    """Write the page of a results folder, whatever made it."""
    if (folder / CARD).is_file():
        return write_training_page(folder)
    if (folder / CHECK).is_file():
        return write_check_page(folder)
    if (folder / RESULTS).is_file():
        return write_sweep_page(folder)
    if (folder / TABLE).is_file():
        return write_batch_page(folder)
    return (write_landscape_page if (folder / RESULTS_NAME).is_file() else write_registration_page)(folder)
