"""What the page of a landscape shows: curves, nuisances, surfaces, and the images with each metric's own map."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from regsim.evaluation.criteria import Costs, PairTable, looks_like, shift_curve
from regsim.evaluation.landscape_rows import CurveRow, NuisanceRow
from regsim.evaluation.landscape_settings import LandscapeSettings
from regsim.evaluation.measuring import Screen
from regsim.evaluation.probes import Probe, mean_error
from regsim.evaluation.surface import local_minima
from regsim.metrics import AbstractMetric
from regsim.transforms.linear import Rigid, Similarity

Pictures = dict[str, npt.NDArray[np.generic]]
Array = npt.NDArray[np.float64]
SCALE_AT = 4.0
SHOWN_SHIFT, SHOWN_DEGREES = 4.0, 4.0


def curves(tables: Sequence[PairTable], labels: Sequence[str]) -> list[CurveRow]:
    """The response along every axis, averaged over the pairs; 0 = aligned, 1 = a shift of 4 units (or the nearest to it)."""
    rows = []
    for number, label in enumerate(labels):
        costs = [table.of(number) for table in tables]
        for kind in costs[0].kinds("axis"):
            amounts = costs[0].take("axis", kind)[0]
            means = np.mean([_scaled(c, c.take("axis", kind)[2]) for c in costs], axis=0)
            rows.append(CurveRow(metric=label, kind=kind, amounts=amounts.tolist(), responses=means.tolist()))
    return rows


def _scaled(costs: Costs, values: Array) -> Array:
    """0 = aligned, 1 = a shift of 4 units; where such a shift costs nothing, the whole range counts as 1."""
    lengths, rise = shift_curve(costs)
    one = float(np.interp(SCALE_AT, lengths, rise))
    one = one if one > 0 else float(np.ptp(values)) or 1.0
    return (values - costs.aligned()) / one


def nuisances(tables: Sequence[PairTable], labels: Sequence[str]) -> list[NuisanceRow]:
    """What each change of intensity looks like as a shift, averaged over the pairs."""
    rows = []
    known = [(p.kind, p.amount) for p in tables[0].probes if p.group == "nuisance"]
    for number, label in enumerate(labels):
        for kind, amount in known:
            mean = float(np.mean([looks_like(table.of(number), kind, (amount,)) for table in tables]))
            rows.append(NuisanceRow(metric=label, kind=kind, amount=amount, looks_like=mean))
    return rows


def surface_arrays(tables: Sequence[PairTable], asked: LandscapeSettings) -> Pictures:
    """The surfaces of the first pair that has them, and the scatter of cost over true error of all pairs."""
    found: Pictures = {}
    with_surface = next((table for table in tables if any(p.group == "surface" for p in table.probes)), None)
    if with_surface is not None:
        for group, steps in (("surface", asked.steps), ("wide", asked.wide_steps)):
            probes = [p for p in with_surface.probes if p.group == group]
            found[f"{group}_shifts"] = np.array([p.amount for p in probes[:steps]])
            found[f"{group}_degrees"] = np.array([p.second for p in probes[::steps]])
            for number in range(len(with_surface.costs)):
                costs = with_surface.of(number).surface(group, steps)
                if costs is not None:
                    found[f"{group}_{number}"] = costs[0]
                    found[f"{group}_minima_{number}"] = np.array(local_minima(costs[0]), dtype=np.int64).reshape(-1, 2)
    found["ladder_errors"] = np.concatenate([table.of(0).take("ladder")[1] for table in tables])
    for number in range(len(tables[0].costs)):
        found[f"ladder_{number}"] = np.concatenate([table.of(number).take("ladder")[2] for table in tables])
    return found


@torch.no_grad()
def pictures(screen: Screen, tilt: Rigid, metrics: Sequence[AbstractMetric]) -> Pictures:
    """One slice of the images, aligned and misaligned (4 units and 4 degrees), and of the maps of the metrics that have one."""
    moved = _shown_motion(screen)
    aligned = Probe("picture", "aligned", 0.0, Similarity(screen.canvas.grid.ndim), tilt, 0.0)
    misaligned = Probe(
        "picture", "misaligned", SHOWN_SHIFT, moved, tilt, mean_error(moved, screen.canvas.body), SHOWN_DEGREES
    )
    found: Pictures = {"misaligned_error": np.array(misaligned.error)}
    for name, probe in (("aligned", aligned), ("misaligned", misaligned)):
        shown = screen.show([probe])
        found["fixed"], found[name] = _slice(shown.fixed, screen), _slice(shown.moving, screen)
        for number, metric in enumerate(metrics):
            if metric.has_map:
                found[f"map_{name}_{number}"] = _slice(metric.map(shown.fixed, shown.moving, shown.mask), screen)
    return found


def _shown_motion(screen: Screen) -> Similarity:
    grid = screen.canvas.grid
    motion = Similarity(grid.ndim, screen.canvas.centre.numpy())
    motion.translation[:] = torch.tensor(grid.direction, dtype=torch.float64)[:, 0] * SHOWN_SHIFT
    motion.rotation[-1] = float(np.deg2rad(SHOWN_DEGREES))
    return motion


def _slice(batch: torch.Tensor, screen: Screen) -> npt.NDArray[np.float32]:
    """The middle slice (of the slowest axis) of the first item, channels averaged, turned as a radiologist looks at it."""
    image = batch[0].mean(dim=0).float().cpu()
    picked = image if image.ndim == 2 else image[image.shape[0] // 2]
    turned = [1 - axis for axis in (0, 1) if screen.canvas.grid.direction[axis][axis] < 0]
    array: npt.NDArray[np.float32] = picked.flip(turned).numpy().astype(np.float32)
    return array
