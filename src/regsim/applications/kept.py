"""Results that an earlier run left behind, if they are whole and of the same images and settings: long runs go on from them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from regsim.applications.files import FileRequest
from regsim.evaluation.results import RegistrationResults
from regsim.metrics.names import is_model
from regsim.output import sha256, versions
from regsim.registration.schedule import Schedule
from regsim.report.page import PAGE_NAME, read_provenance, read_results

START = "start"


def kept_results(
    folder: Path, settings: Mapping[str, object], seed: int, inputs: Sequence[tuple[str, Path]]
) -> RegistrationResults | None:
    """The results in a folder that this version's `align` has filled, or None where they have to be made (again).

    Args:
        folder: of one registration.
        settings: must stand in `run.json` with the same values. `start` is looked up in the schedule that was followed:
            `run.json` itself has the start that was found.
        seed: must be the same.
        inputs: roles and paths; there must be as many, with the same bytes.
    """
    try:
        run = read_provenance(folder / "run.json")
        recorded = {**run.settings, START: json.loads(str(run.settings["schedule"]))[START]}
        same = all(name in recorded and recorded[name] == value for name, value in settings.items())
        if not same or (run.seed, run.versions["regsim"]) != (seed, versions()["regsim"]):
            return None
        results = read_results(folder / "results.json")
        if not all((folder / name).is_file() for name in (*results.files.values(), "views.npz", PAGE_NAME)):
            return None
        found = [(entry.role, entry.sha256) for entry in run.inputs]
        return results if found == [(role, sha256(path)) for role, path in inputs] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def model_inputs(asked: FileRequest) -> list[tuple[str, Path]]:
    """The folders of models that drive, which a result depends on as on its images."""
    if asked.schedule is None:
        specs = [spec for spec in (asked.metric, asked.linear_metric, asked.coarse_metric) if spec]
    else:
        specs = list(Schedule.of_toml(asked.schedule).metrics)
    return [("model", Path(spec)) for spec in dict.fromkeys(specs) if is_model(spec) and Path(spec).is_dir()]
