"""Many pairs, each registered by a process of its own into a folder of its own; what is done already is kept."""

import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from regsim.applications.align import align
from regsim.applications.files import REPLACED, FileRequest, file_request
from regsim.applications.kept import kept_results, model_inputs
from regsim.applications.pairs_file import OWN, PairFiles, read_pairs_file
from regsim.applications.workers import WorkList, cores
from regsim.errors import InputError, RegsimError, SettingsError
from regsim.evaluation.batch_rows import TABLE, THUMBNAIL, BatchResults, PairRow, judging, pairs_csv
from regsim.evaluation.results import InputFile, Provenance, RegistrationResults, Views
from regsim.output import atomic_path, check_folder, now, sha256, size_in_bytes, staged, versions
from regsim.report.batch_figures import thumbnail
from regsim.report.batch_page import write_batch_page

PATHS = {"fixed", "moving", *OWN, "schedule"}
DIED = "its process died, perhaps for want of memory; try fewer --workers or a coarser --finest"


@dataclass(frozen=True)
class BatchRequest:
    """What `regsim register --pairs` was asked to do.

    `options`: of every pair, as in `FileRequest` without `fixed` and `moving`; a mask or a start that a pair names itself
    comes first. `workers`: processes; 0 = as many as the cores allow. `threads`: of each; 0 = 1.
    """

    pairs_file: Path
    output: Path
    options: Mapping[str, object] = field(default_factory=dict)
    workers: int = 0
    threads: int = 0


@dataclass(frozen=True)
class PairTask:
    """One pair as a process gets it."""

    name: str
    asked: FileRequest
    folder: Path


def register_pairs(request: BatchRequest, advance: Callable[[int, int], None] | None = None) -> BatchResults:
    """Register every pair of a list; write `pairs.csv`, `results.json`, `run.json` and `report.html` beside their folders.

    A pair whose folder holds whole results of the same inputs, settings and seed is kept; one with other settings is
    done again, in place of the old. A pair that fails becomes a row that says why. Call this from a program only under
    `if __name__ == "__main__":`, since processes are started.

    Args:
        request: the list and the settings.
        advance: called with the number of pairs that are done and of all.

    Raises:
        InputError: the list cannot be used; nothing was written.
        SettingsError: settings that fit no pair; nothing was written.
    """
    began, started = time.perf_counter(), now()
    pairs, source = read_pairs_file(request.pairs_file), _listed(request.pairs_file)
    check_folder(request.output)
    _check_list_is_safe(request)
    tasks = [PairTask(pair.name, _asked(pair, request.options), request.output / pair.name) for pair in pairs]
    for task in tasks:
        check_folder(task.folder)
    _check_settings(tasks[0].asked)
    threads = request.threads or 1
    workers = min(request.workers or _workers(threads, tasks[0].asked.device), len(tasks))
    rows: dict[str, PairRow] = {}
    kept: set[str] = set()

    def each(task: PairTask, outcome: tuple[PairRow, bool] | None) -> None:
        row, was_kept = (_failed(task.name, DIED), False) if outcome is None else outcome
        rows[task.name] = row
        kept.update([task.name] if was_kept else [])
        if advance is not None:
            advance(len(rows), len(tasks))

    WorkList(register_one, workers, threads).run(tasks, each)
    results = BatchResults(
        title=f"{len(tasks)} pairs of {request.pairs_file.name}",
        pairs=[rows[task.name] for task in tasks],
        kept=len(kept),
        workers=workers,
        threads=threads,
        seconds=time.perf_counter() - began,
    )
    _write(request, results, tasks[0].asked, source, started)
    return results


def _check_list_is_safe(request: BatchRequest) -> None:
    """Refuse a list that lies where the table of results goes to."""
    table = request.output / TABLE
    if table.is_file() and table.samefile(request.pairs_file):
        raise InputError(f"'{request.pairs_file}': the results would overwrite it; give another -o, or rename the list")


def finished_pairs(request: BatchRequest) -> tuple[int, int]:
    """How many folders of the list hold results, and how many pairs there are."""
    pairs = read_pairs_file(request.pairs_file)
    return sum((request.output / pair.name / "results.json").is_file() for pair in pairs), len(pairs)


def register_one(task: PairTask) -> tuple[PairRow, bool]:
    """One pair, by the results that are there or by a registration; whether they were there."""
    try:
        asked, inputs = task.asked, _inputs(task.asked)
        found = kept_results(task.folder, _settings(asked), asked.seed, inputs)
        results = found or align(replace(file_request(asked), inputs=inputs), task.folder)
        _draw(task.folder)
        return _done(task, results), found is not None
    except (RegsimError, OSError) as problem:
        return _failed(task.name, str(problem)), False
    except Exception as problem:
        if os.environ.get("REGSIM_DEBUG"):
            traceback.print_exc()
        if isinstance(problem, MemoryError) or "allocate" in str(problem):  # the second is torch's own way to say it
            return _failed(task.name, "out of memory; try fewer --workers or a coarser --finest"), False
        return _failed(task.name, f"{type(problem).__name__}: {problem}"), False


def _workers(threads: int, device: str) -> int:
    """One process on a GPU, else as many as there are cores for."""
    return max(1, cores() // threads) if device == "cpu" else 1


def _asked(pair: PairFiles, options: Mapping[str, object]) -> FileRequest:
    own = {name: getattr(pair, name) for name in OWN}
    given = {name: path for name, path in own.items() if path is not None}
    return FileRequest.checked({**options, "fixed": pair.fixed, "moving": pair.moving, **given})


def _check_settings(asked: FileRequest) -> None:
    """Refuse settings that no pair could be registered with; what is wrong with the first pair's images is its own affair."""
    try:
        file_request(asked)
    except SettingsError:
        raise
    except RegsimError:
        return


def _inputs(asked: FileRequest) -> list[tuple[str, Path]]:
    """All that a result depends on, with its role."""
    roles = ("fixed", "moving", "schedule", *OWN)
    found = [(role.replace("_", " "), getattr(asked, role)) for role in roles]
    return [(role, path) for role, path in found if path is not None] + model_inputs(asked)


def _settings(asked: FileRequest) -> dict[str, object]:
    """What `run.json` must hold for a result to be kept. The device is no part of it."""
    left_out = PATHS | {"seed", "device"} | (REPLACED if asked.schedule is not None else set())
    return asked.model_dump(mode="json", exclude=left_out)


def _done(task: PairTask, results: RegistrationResults) -> PairRow:
    judge = judging(results.metrics)
    facts = {} if judge is None else judge.model_dump(include={"metric", "before", "after", "higher_is_better"})
    if results.levels:
        facts["overlap"] = results.levels[-1].overlap
    if results.jacobian is not None:
        facts["folded"] = results.jacobian.folded_fraction
    if results.check is not None:
        facts |= results.check.model_dump(include={"verdict", "expected_error"})
    return PairRow(name=task.name, status="done", seconds=results.seconds, folder=task.name, **facts)


def _failed(name: str, reason: str) -> PairRow:
    return PairRow(name=name, status="failed", reason=" ".join(reason.split()))


def _draw(folder: Path) -> None:
    """The small picture for the table of all pairs, unless a newer one than the slices is there."""
    target, slices = folder / THUMBNAIL, folder / "views.npz"
    if target.is_file() and target.stat().st_mtime >= slices.stat().st_mtime:
        return
    picture = thumbnail(Views.load(slices))
    if picture is not None:
        with atomic_path(target) as part:
            part.write_bytes(picture)


def _listed(path: Path) -> InputFile:
    return InputFile(role="pairs", name=path.name, sha256=sha256(path), size=size_in_bytes(path))


def _write(request: BatchRequest, results: BatchResults, asked: FileRequest, source: InputFile, started: str) -> None:
    shared = {"schedule", *OWN}
    settings = asked.model_dump(mode="json", exclude={"fixed", "moving", "seed", "device"} | shared)
    settings |= {name: str(request.options[name]) for name in shared if request.options.get(name) is not None}
    run = Provenance(
        command="register --pairs",
        settings={**settings, "workers": results.workers},
        seed=asked.seed,
        device=asked.device,
        threads=results.threads,
        versions=versions(),
        inputs=[source],
        started=started,
        seconds=results.seconds,
    )
    with staged(request.output, ("results.json", "report.html")) as part:
        (part / TABLE).write_text(pairs_csv(results), encoding="utf-8")
        (part / "run.json").write_text(run.model_dump_json(indent=1), encoding="utf-8")
        (part / "results.json").write_text(results.model_dump_json(indent=1), encoding="utf-8")
        write_batch_page(part)
