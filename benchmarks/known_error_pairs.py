"""Pairs of heads whose local error is known: `python -m benchmarks.known_error_pairs SET -o FOLDER [--count N] [--hidden]`.

They judge metrics that predict the local error after a registration, in mm. Both images of every pair are read once from
their source, through maps with a common motion, and carry noise of their own: neither blur nor identical voxels give
the answer away. No head of these sets trains or calibrates anything.

- known: one anatomy, drawn motions. Kinds rigid, elastic, mixed (affine and elastic), aligned.
- residual: what real registrations, good and bad ones, leave of a known field; the kind is the method.
- unrelated: no correspondence (or half of it): other organ, smooth noise, flipped, not overlapping, other head, half missing.
- failures: good registrations against five kinds of failed ones.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.data import data_folder
from benchmarks.known_error_files import KnownErrorPair as KnownErrorPair
from benchmarks.known_error_files import read_pair as read_pair
from benchmarks.known_error_files import store as store
from benchmarks.known_error_motion import CONTRASTS, SOLVED, Head, Heads, Parting, draw_parting, places
from regsim.errors import InputError, unknown_name
from regsim.images import Grid, Image
from regsim.misalign.window import WindowSettings, draw_window
from regsim.transforms import Transform

NOISE = (0.01, 0.03)
SPACING, FINE = 2.0, 1.0
FINE_EVERY = 31
LARGEST = {"rigid": 8.0, "elastic": 6.0, "mixed": 8.0, "aligned": 0.2}
KNOWN_KINDS = ("rigid", "elastic", "mixed", "rigid", "elastic", "mixed", "aligned")
WINDOW = WindowSettings(disc=0.5, box=0.5, smallest=0.35, largest=0.55)
WINDOW_TRIALS, WINDOW_INSIDE, COARSE = 40, 0.97, 4
BRIGHTEST = 1.3
ABOUT = "set.json"


@dataclass(frozen=True)
class PairSet:
    """`draw(heads, index, seed)`: the pair of a number, whatever was drawn before; `count`: how many by default."""

    count: int
    draw: Callable[[Heads, int, int], KnownErrorPair]


SETS = ("known", "residual", "unrelated", "failures")
MODULES = {"residual": "residuals", "unrelated": "unrelated", "failures": "failures"}


def pair_set(name: str) -> PairSet:
    """A set by name.

    Raises:
        SettingsError: there is no such set.
    """
    if name not in SETS:
        raise unknown_name("set", name, list(SETS))
    if name == "known":
        return PairSet(240, draw_known)
    found: PairSet = getattr(import_module(f"benchmarks.known_error_{MODULES[name]}"), name.upper())
    return found


def pairs(
    set_name: str, place: Path, count: int | None = None, seed: int = 0, hidden: bool = False
) -> Iterator[KnownErrorPair]:
    """Draw the pairs of a set one after the other; the same seed gives the same pairs.

    Args:
        set_name: see the top of this file.
        place: the folder that holds the real sets.
        count: how many; contrasts and kinds are balanced in every beginning of the list.
        seed: of everything that is drawn.
        hidden: show only a ball or box inside the head, so that no outline shows.
    """
    chosen, heads = pair_set(set_name), Heads(place)
    for index in range(chosen.count if count is None else count):
        yield _drawn(chosen, heads, index, seed, hidden)


def _drawn(chosen: PairSet, heads: Heads, index: int, seed: int, hidden: bool) -> KnownErrorPair:
    pair = chosen.draw(heads, index, seed)
    return with_outline_hidden(pair, generator_for(seed, index, 9)) if hidden else pair


def generator_for(seed: int, index: int, stream: int = 0) -> torch.Generator:
    """The generator of one pair."""
    return torch.Generator().manual_seed((seed * 1_000_003 + index) * 10 + stream)


# --- one pair ---------------------------------------------------------------------------------------------------------


def assembled(
    name: str,
    kind: str,
    head: Head,
    contrasts: tuple[str, str],
    maps: tuple[Transform, Transform],
    grid: Grid,
    generator: torch.Generator,
) -> KnownErrorPair:
    """The pair that reads one head through two maps; the truth is solved for every voxel of its mask."""
    fixed, here = head.shown(contrasts[0], maps[0], grid)
    moved, there = head.shown(contrasts[1], maps[1], grid)
    mask = (_seen(head, maps[0], grid)) & here & there
    points = grid.points()[mask[0]]
    with torch.no_grad():
        found, away = places(maps[1], maps[0](points), points)
    error = torch.zeros(mask.shape)
    error[mask] = (found - points).norm(dim=-1)
    mask[mask.clone()] = away < SOLVED
    both = here & there
    return KnownErrorPair(
        name,
        head.person,
        label_of(contrasts),
        kind,
        Image(noisy(fixed, both, head.stripped, generator), grid, name=contrasts[0]),
        Image(noisy(moved, both, head.stripped, generator), grid, name=contrasts[1]),
        mask,
        error * mask,
    )


def label_of(contrasts: tuple[str, str]) -> str:
    """`("FLAIR", "T1")` as "T1-FLAIR".

    >>> label_of(("FLAIR", "T1"))
    'T1-FLAIR'
    """
    return "-".join(sorted(contrasts, key=("T1", "T2", "FLAIR").index))


def _seen(head: Head, transform: Transform, grid: Grid) -> torch.Tensor:
    read = replace(head, images={"seen": head.seen}).shown("seen", transform, grid)[0]
    return read > 0.5


def noisy(
    values: torch.Tensor, held: torch.Tensor, stripped: bool, generator: torch.Generator, sigma: float | None = None
) -> torch.Tensor:
    """Values with noise of their own where there is data; the empty surroundings of a stripped head stay 0."""
    low, high = NOISE
    width = low + (high - low) * float(torch.rand((), generator=generator)) if sigma is None else sigma
    noise = width * torch.randn(values.shape, generator=generator)
    where = held & (values > 0) if stripped else held
    return torch.where(where, (values + noise).clamp(0, BRIGHTEST), torch.zeros(()))


def ordered(contrasts: str, generator: torch.Generator) -> tuple[str, str]:
    """Which contrast is fixed: either, equally often."""
    first, second = contrasts.split("-")
    return (first, second) if float(torch.rand((), generator=generator)) < 0.5 else (second, first)


def shuffled(names: Sequence[str], index: int, seed: int) -> str:
    """The name of this number in an endless list in which each name comes once a round, in a random order."""
    turn, place = divmod(index, len(names))
    order = torch.randperm(len(names), generator=generator_for(seed, turn, 7))
    return names[int(order[place])]


def draw_known(heads: Heads, index: int, seed: int) -> KnownErrorPair:
    """Pair `index` of the set "known": contrasts in turn, heads shuffled, a few pairs at 1 mm."""
    generator = generator_for(seed, index)
    contrasts, turn = CONTRASTS[index % 3], index // 3
    fine = index % FINE_EVERY == FINE_EVERY - 1
    names = heads.fine_names(contrasts) if fine else heads.names(contrasts)
    spacing = FINE if fine else SPACING
    head = heads.read(shuffled(names, turn, seed + index % 3), spacing)
    kind = KNOWN_KINDS[turn % len(KNOWN_KINDS)]
    name = f"{index:04d} {head.name} {contrasts} {kind}" + (" 1 mm" if fine else "")
    return known_pair(name, kind, head, ordered(contrasts, generator), spacing, generator)


def known_pair(
    name: str, kind: str, head: Head, contrasts: tuple[str, str], spacing: float, generator: torch.Generator
) -> KnownErrorPair:
    """One pair of the set "known". Half of the aligned pairs do not part at all, the others by 0.02 to 0.2 mm."""
    share = float(torch.rand((), generator=generator))
    target, way = LARGEST[kind] * share, kind
    if kind == "aligned":
        target = 0.0 if share < 0.5 else 0.02 + 0.36 * (share - 0.5)
        way = "rigid" if float(torch.rand((), generator=generator)) < 0.5 else "mixed"
    parting = draw_parting(way, target, head, generator)
    return assembled(name, kind, head, contrasts, _maps(parting), head.grid(spacing), generator)


def _maps(parting: Parting) -> tuple[Transform, Transform]:
    return parting.fixed, parting.moving


def with_outline_hidden(pair: KnownErrorPair, generator: torch.Generator) -> KnownErrorPair:
    """The same pair where only a random ball or box inside the head is shown; all else is zero."""
    inside = pair.mask & (pair.fixed.data > 0) & (pair.moved.data > 0)
    few = inside[:, ::COARSE, ::COARSE, ::COARSE]
    best, most = generator.get_state(), -1.0
    for _ in range(WINDOW_TRIALS):
        state = generator.get_state()
        share = float(few[draw_window(1, tuple(few.shape[1:]), WINDOW, generator)[0] > 0].float().mean())
        if share > most:
            best, most = state, share
        if share > WINDOW_INSIDE:
            break
    generator.set_state(best)
    window = draw_window(1, pair.fixed.grid.shape, WINDOW, generator)[0] > 0
    shown = [replace(image, data=image.data * window) for image in (pair.fixed, pair.moved)]
    return replace(pair, fixed=shown[0], moved=shown[1], mask=pair.mask & window, error=pair.error * window)


# --- files ------------------------------------------------------------------------------------------------------------


def cached(
    set_name: str,
    folder: Path,
    place: Path | None = None,
    count: int | None = None,
    seed: int = 0,
    hidden: bool = False,
) -> Iterator[KnownErrorPair]:
    """The pairs of a set from one file each; those that are missing are drawn and stored first.

    Values are kept in thousandths, errors in hundredths of a millimetre.

    Args:
        set_name, count, seed, hidden: see `pairs`.
        folder: of the files.
        place: the folder that holds the real sets; needed where a file is missing.

    Raises:
        InputError: the folder holds another set, or a file is missing and there are no real sets.
    """
    chosen = pair_set(set_name)
    _check_folder(folder, {"set": set_name, "seed": seed, "hidden": hidden})
    heads: Heads | None = None
    for index in range(chosen.count if count is None else count):
        path = folder / f"{index:04d}.npz"
        if not path.exists():
            heads = heads or Heads(_place(place))
            store(_drawn(chosen, heads, index, seed, hidden), path)
        yield read_pair(path)


def _place(place: Path | None) -> Path:
    found = place or data_folder()
    if found is None:
        raise InputError("the real sets are not here: set REGSIM_DATA to the folder that holds them")
    return found


def _check_folder(folder: Path, about: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ABOUT
    if not path.exists():
        path.write_text(json.dumps(about), encoding="utf-8")
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored != about:
        raise InputError(f"'{folder}' holds other pairs ({stored}) than asked for ({about}); give another folder")


# --- command line -----------------------------------------------------------------------------------------------------


def summary(found: Sequence[tuple[str, str, str, float]]) -> Table:
    """Pairs and mean errors by kind and contrasts, of rows (kind, contrasts, subject, mean error)."""
    table = Table("kind", "contrasts", "pairs", "subjects", "mean error, mm", "smallest", "largest")
    for kind, contrasts in sorted({row[:2] for row in found}):
        own = [row for row in found if row[:2] == (kind, contrasts)]
        errors = [row[3] for row in own]
        figures = (f"{value:.2f}" for value in (sum(errors) / len(own), min(errors), max(errors)))
        table.add_row(kind, contrasts, str(len(own)), str(len({row[2] for row in own})), *figures)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the pairs")
    parser.add_argument("--count", type=int, help="how many pairs; default the whole set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", action="store_true", help="show only a ball or box inside the head")
    asked = parser.parse_args(arguments)
    count, began = asked.count or pair_set(asked.set).count, time.perf_counter()
    drawn = cached(asked.set, asked.output, None, count, asked.seed, asked.hidden)
    rows = [(p.kind, p.contrasts, p.subject, p.mean_error) for p in track(drawn, asked.set, count)]
    Console().print(summary(rows))
    size = sum(path.stat().st_size for path in asked.output.glob("*.npz")) / 2**20
    print(f"{len(rows)} pairs, {time.perf_counter() - began:.0f} s, {size:.0f} MiB in {asked.output}")


if __name__ == "__main__":
    main()
