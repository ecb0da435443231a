"""Pairs: the truth that comes with them is true, both images are treated alike, and draws repeat."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as Picture

from regsim.errors import GridError, InputError, SettingsError
from regsim.images.image import Image
from regsim.images.io import write_image
from regsim.misalign.motion import KINDS, CommonSettings, MotionSettings, draw_motion, rigid_motion
from regsim.misalign.pairs import PairBatch, PairMaker, PairSettings
from regsim.misalign.sources import SourceSettings, Subject, bundled_subject, by_scale, read_subjects, shape_subjects
from regsim.misalign.window import WindowSettings, draw_window

OPEN = WindowSettings(disc=0, box=0)
CALM = CommonSettings(rotation=5, translation=3, zoom=1.05, shear=0.02, flips=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_subject(shape: tuple[int, int, int] = (3, 128, 128), seed: int = 0) -> Subject:
    """Blobs about ten voxels wide, so that interpolation errors are small, everywhere anatomy."""
    coarse = torch.rand((1, 1, *(max(2, n // 8) for n in shape)), generator=generator(seed))
    volume = F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]
    return Subject(f"blobs{seed}", {"t1": volume}, None, torch.ones(shape, dtype=torch.bool), empty_outside=False)


def only(kind: str, error: tuple[float, float] = (1.0, 6.0), aligned: float = 0.0) -> MotionSettings:
    shares = {name: float(name == kind) for name in KINDS}
    return MotionSettings(error=error, aligned=aligned, common=CALM, elastic_error=6.0, **shares)


def misplaced(pairs: PairBatch) -> float:
    """How far fixed(p) and moving(p + displacement) differ, as a share of what fixed(p) and moving(p) do."""
    dims = pairs.fixed.ndim - 2
    shape = pairs.fixed.shape[2:]
    axes = [torch.arange(n) - (n - 1) / 2 for n in shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
    where = (points + pairs.displacement.movedim(1, -1)) / torch.tensor([(n - 1) / 2 for n in shape[::-1]])
    found = F.grid_sample(pairs.moving, where, align_corners=True)
    held = F.grid_sample(pairs.mask, where, align_corners=True) * pairs.mask > 0.999
    inside = held & (where.abs().amax(dim=-1)[:, None] < 0.9)
    assert inside.float().mean() > 0.3, dims
    apart, before = (pairs.fixed - found).abs()[inside].mean(), (pairs.fixed - pairs.moving).abs()[inside].mean()
    return float(apart / before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_is_true(kind: str) -> None:
    maker = PairMaker([smooth_subject()], PairSettings(size=64, motion=only(kind), window=OPEN))
    assert misplaced(maker(6, generator())) < 0.08


def test_the_truth_is_true_in_3d() -> None:
    maker = PairMaker(
        [smooth_subject((48, 48, 48))], PairSettings(dims=3, size=24, motion=only("rigid", (1, 3)), window=OPEN)
    )
    assert misplaced(maker(3, generator())) < 0.12


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_what_was_asked_for(kind: str) -> None:
    motion = draw_motion(12, (64, 64), 1.0, only(kind, (3.0, 3.0)), generator())
    found = motion.error(draw_window(12, (64, 64), WindowSettings(disc=1, smallest=1, largest=1), generator()))
    torch.testing.assert_close(found, torch.full((12,), 3.0), atol=0.35, rtol=0)


def test_errors_are_drawn_evenly_whatever_the_motion() -> None:
    motion = draw_motion(600, (32, 32), 1.0, MotionSettings(error=(0.0, 8.0), aligned=0.25), generator())
    target = motion.parameters["target"]
    assert abs(float((target == 0).float().mean()) - 0.25) < 0.06
    assert abs(float(target[target > 0].mean()) - 4.0) < 0.3
    linear = motion.parameters["generator"]
    turns = linear[:, 0, 1].abs() > 0
    shifts = linear[:, :2, 2].norm(dim=1) > 0
    for part in (turns & ~shifts, shifts & ~turns, shifts & turns):
        assert abs(float(target[part].mean()) - 4.0) < 0.6
    assert float(linear[turns, 0, 1].mean().abs()) < 0.2 * float(linear[turns, 0, 1].abs().mean())


def test_aligned_pairs_of_one_image_are_the_same_picture() -> None:
    maker = PairMaker([smooth_subject()], PairSettings(size=32, motion=only("elastic", aligned=1.0), window=OPEN))
    pairs = maker(4, generator())
    torch.testing.assert_close(pairs.fixed, pairs.moving)
    assert not pairs.misaligned.any()
    assert float(pairs.error.max()) < 1e-4


def test_an_image_alone_is_bent_alike_whatever_the_pair_does() -> None:
    still, apart = (
        draw_motion(40, (48, 48), 1.0, only("elastic", aligned=share).model_copy(update={"common": CALM}), generator(1))
        for share in (1.0, 0.0)
    )
    roughness = [motion.fixed.diff(dim=1).diff(dim=1).norm(dim=-1).mean() for motion in (still, apart)]
    assert abs(float(roughness[0] / roughness[1]) - 1) < 0.15


def test_rigid_motion_by_hand() -> None:
    motion = rigid_motion(90.0, (2.0, 0.0), (5, 5))
    corner = motion.displacement[0, :, 0, 0]
    torch.testing.assert_close(torch.tensor([-2.0, -2.0]) + corner, torch.tensor([2.0 + 2.0, -2.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        rigid_motion(0.0, (1.5, -0.5), (4, 4)).displacement[0, :, 1, 2], torch.tensor([1.5, -0.5])
    )


def test_draws_repeat_and_differ_by_seed() -> None:
    maker = PairMaker([smooth_subject()], PairSettings(size=32))
    first, again, other = (maker(3, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.fixed, again.fixed)
    assert torch.equal(first.displacement, again.displacement)
    assert not torch.equal(first.fixed, other.fixed)


def test_windows_show_the_same_part_of_both() -> None:
    settings = PairSettings(size=48, window=WindowSettings(disc=1, box=0, smallest=0.3, largest=0.6))
    pairs = PairMaker([smooth_subject()], settings)(5, generator())
    share = pairs.mask.flatten(1).mean(dim=1)
    assert float(share.max()) < 0.31
    assert float(share.min()) > 0.03
    assert not pairs.fixed[pairs.mask == 0].any()
    assert not pairs.moving[pairs.mask == 0].any()


def test_slabs_are_whole_but_across_one_axis() -> None:
    settings = WindowSettings(disc=0, box=0, slab=1, thinnest=0.2, largest=0.5)
    shown = draw_window(12, (20, 20, 20), settings, generator())[:, 0] > 0
    for one in shown:
        sides = sorted(int(one.any(dim=first).any(dim=second).sum()) for first, second in ((2, 1), (2, 0), (1, 0)))
        assert sides[1:] == [20, 20]
        assert 3 <= sides[0] <= 11
        assert int(one.sum()) == sides[0] * 400
    assert len({one.numpy().tobytes() for one in shown}) > 6
    with pytest.raises(SettingsError, match="share more than 1"):
        WindowSettings.checked({"disc": 0.5, "box": 0.3, "slab": 0.3})


def test_a_coarser_subject_is_the_mean_of_blocks() -> None:
    subject = smooth_subject((8, 12, 16))
    coarse = by_scale(subject, 4)
    assert coarse.shape == (2, 3, 4)
    [image] = coarse.images.values()
    [whole] = subject.images.values()
    assert float(image[1, 2, 3]) == pytest.approx(float(whole[4:, 8:, 12:].mean()), rel=1e-5)
    assert by_scale(smooth_subject((1, 12, 16)), 4).shape == (1, 3, 4)  # a plane stays one
    assert by_scale(subject, 1) is subject


def test_other_windows_draw_what_they_drew_before_there_were_slabs() -> None:
    one, two = (draw_window(30, (16, 16), WindowSettings(slab=slab), generator()) for slab in (0.0, 0.6))
    same = (one == two).flatten(1).all(dim=1)
    assert 8 < int(same.sum()) < 30


def test_crops_never_show_what_was_not_imaged() -> None:
    subject = smooth_subject((1, 40, 40))
    pairs = PairMaker([subject], PairSettings(size=48, window=OPEN))(8, generator())
    assert float(pairs.mask.mean()) < 0.9
    assert not pairs.fixed[pairs.mask == 0].any()


def test_neighbours_lie_as_far_apart_as_said() -> None:
    ramp = torch.arange(20.0).reshape(20, 1, 1).expand(20, 64, 64) / 20
    subject = replace(
        smooth_subject(), images={"t1": ramp}, seen=torch.ones(20, 64, 64, dtype=torch.bool), steps=(2.0, 1, 1)
    )
    settings = PairSettings(size=32, pairing=("neighbours",), apart=(4.0, 4.0), window=OPEN)
    pairs = PairMaker([subject], settings)(20, generator())
    apart = (pairs.fixed - pairs.moving).abs().amax(dim=(1, 2, 3)) * 20
    torch.testing.assert_close(apart, torch.full((20,), 2.0), atol=0.02, rtol=0)


def test_two_contrasts_and_paintings() -> None:
    brain = bundled_subject(SourceSettings(spacing=4.0))
    pairs = PairMaker([brain], PairSettings(size=32, pairing=("contrasts",), motion=only("rigid", aligned=1.0)))(
        4, generator()
    )
    assert float((pairs.fixed - pairs.moving).abs().mean()) > 0.01
    assert pairs.labels is not None
    assert set(pairs.labels.unique().tolist()) <= {0, 1, 2}
    made = shape_subjects(2, 64, 2, seed=0)
    painted = PairMaker(made, PairSettings(size=32, motion=only("rigid", aligned=1.0), window=OPEN))(4, generator())
    assert float((painted.fixed - painted.moving).abs().mean()) > 0.02
    assert painted.fixed.isfinite().all()


def test_the_papers_way_moves_one_image_only() -> None:
    settings = PairSettings(size=32, resample="misaligned", motion=only("rigid"), window=OPEN)
    pairs = PairMaker([smooth_subject()], settings)(6, generator())
    assert float((pairs.moving == 0).float().mean()) > float((pairs.fixed == 0).float().mean())
    assert bool((pairs.mask == 1).all())


# --- sources --------------------------------------------------------------------------------------------------------


def store(path: Path, shape: tuple[int, ...] = (12, 14, 16), spacing: float = 1.0, seed: int = 0) -> None:
    values = torch.rand(shape, generator=generator(seed))
    write_image(Image.of_array(values, spacing=spacing), path)


def test_a_folder_of_named_files(tmp_path: Path) -> None:
    for subject in ("a", "b"):
        for contrast in ("t1", "t2"):
            store(tmp_path / f"{subject}_{contrast}.nii.gz")
    found = read_subjects(tmp_path, SourceSettings())
    assert [subject.name for subject in found] == ["a", "b"]
    assert sorted(found[0].images) == ["t1", "t2"]
    assert found[0].shape == (12, 14, 16)
    assert sorted(read_subjects(tmp_path, SourceSettings(contrasts=("t2",)))[0].images) == ["t2"]


def test_a_folder_of_sections_is_one_stack(tmp_path: Path) -> None:
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 255, (20, 24), dtype=np.uint8)
        Picture.fromarray(values).save(tmp_path / f"{number:02d}.png")
    [stack] = read_subjects(tmp_path, SourceSettings())
    assert stack.shape == (4, 20, 24)
    assert stack.axes == (0,)


def test_a_manifest(tmp_path: Path) -> None:
    store(tmp_path / "x.nii.gz")
    (tmp_path / "list.csv").write_text("subject,contrast,path,set,licence\ns1,T1,x.nii.gz,mine,CC0\n")
    [subject] = read_subjects(tmp_path / "list.csv", SourceSettings())
    assert (subject.name, subject.data_set, subject.licence) == ("s1", "mine", "CC0")


def test_thick_slices_are_cut_across_only(tmp_path: Path) -> None:
    image = Image.of_array(torch.rand((6, 20, 20), generator=generator()), spacing=(0.5, 0.5, 4.0))
    write_image(image, tmp_path / "a_t1.nii.gz")
    [subject] = read_subjects(tmp_path, SourceSettings(spacing=1.0))
    assert subject.axes == (0,)
    assert subject.shape == (6, 10, 10)
    assert math.isclose(subject.steps[0], 4.0)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("subject,path\na,x.nii.gz\n", "columns"),
        ("subject,contrast,path\na,,x.nii.gz\n", "line 2: no contrast"),
        ("subject,contrast,path\na,t1,none.nii.gz\n", "does not exist"),
        ("subject,contrast,path\n", "expected rows"),
    ],
)
def test_bad_manifests(tmp_path: Path, rows: str, problem: str) -> None:
    (tmp_path / "list.csv").write_text(rows)
    with pytest.raises(InputError, match=problem):
        read_subjects(tmp_path / "list.csv", SourceSettings())


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_subjects(tmp_path / "none", SourceSettings())
    with pytest.raises(InputError, match="holds no images"):
        read_subjects(tmp_path, SourceSettings())


def test_labels_of_another_grid(tmp_path: Path) -> None:
    store(tmp_path / "a_t1.nii.gz")
    write_image(Image.of_array(torch.ones((6, 7, 8), dtype=torch.int64), spacing=2.0), tmp_path / "a_labels.nii.gz")
    with pytest.raises(GridError, match="another grid"):
        read_subjects(tmp_path, SourceSettings())


def test_constant_and_small_images(tmp_path: Path) -> None:
    write_image(Image.of_array(torch.full((12, 12, 12), 3.0), spacing=1.0), tmp_path / "a_t1.nii.gz")
    with pytest.raises(InputError, match="constant"):
        read_subjects(tmp_path, SourceSettings())
    with pytest.raises(InputError, match="too small"):
        PairMaker([smooth_subject((1, 20, 20))], PairSettings(size=128))
    with pytest.raises(InputError, match="no subjects"):
        PairMaker([], PairSettings())


@pytest.mark.parametrize(
    "values",
    [
        {"motion": {"error": [3, 1]}},
        {"motion": {"error": [0, 5], "distribution": "log"}},
        {"motion": {"rigid": 0}},
        {"pairing": []},
        {"appearance": [{"kind": "nois"}]},
    ],
)
def test_bad_settings(values: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        PairSettings.checked(values)
