"""Views of one anatomy: the place of every voxel in the other view is true, tissues are named rightly, draws repeat."""

from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F

from regsim.errors import InputError, SettingsError
from regsim.misalign.shapes import Shapes, random_shapes
from regsim.misalign.sources import Subject
from regsim.misalign.tissue_contrast import ContrastSettings, Palette, Shades, draw_shades, recoloured, t1_shades
from regsim.misalign.tissues import STRUCTURES, TISSUES, protocol_named, protocol_of, tissue_classes
from regsim.misalign.view_anatomy import view_anatomy, with_brains
from regsim.misalign.views import KINDS, ViewBatch, ViewMaker, ViewSettings
from regsim.misalign.window import WindowSettings

OPEN = WindowSettings(disc=0, box=0)
NOISY = [{"kind": "bias_field"}, {"kind": "blur", "probability": 0.5}, {"kind": "noise"}]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settings(dims: int, **changes: object) -> ViewSettings:
    """Small views, as they come when nothing hides or changes them."""
    size, shift = (48, 8.0) if dims == 2 else (24, 3.0)
    return ViewSettings.checked(
        {"dims": dims, "size": size, "shift": shift, "bend": 0.8, "window": OPEN, "protocols": {"t": "tissues"}}
        | changes
    )


def tissue_map(side: int = 40, seed: int = 0) -> torch.Tensor:
    """Smooth shapes of fluid (1), grey (2) and white (3)."""
    shapes = Shapes(labels=(12, 12), size=(0.3, 0.3), octaves=2, outline=0)
    return random_shapes(1, (side,) * 3, generator(seed), shapes)[0, 0] % 4


def scan(contrasts: Sequence[str] = ("t1",), seed: int = 0, side: int = 40, **parts: object) -> Subject:
    """Blobs some eight voxels wide, between .2 and 1."""
    volumes = {}
    for number, name in enumerate(contrasts):
        coarse = torch.rand((1, 1, *[side // 8] * 3), generator=generator(seed + number))
        volume = F.interpolate(coarse, size=(side,) * 3, mode="trilinear", align_corners=True)[0, 0]
        volumes[name] = 0.2 + 0.8 * volume
    seen = torch.ones((side,) * 3, dtype=torch.bool)
    return replace(Subject(f"scan{seed}", volumes, None, seen, (0, 1, 2)), **parts)  # type: ignore[arg-type]


def labelled(seed: int = 0, **parts: object) -> Subject:
    labels = tissue_map(seed=seed)
    subject = Subject(f"map{seed}", {}, labels, labels > 0, (0, 1, 2), data_set="tissue maps")
    return replace(subject, **parts)  # type: ignore[arg-type]


def t1(seed: int = 0, **parts: object) -> Subject:
    """A FreeSurfer map and a T1 of it: ventricles .2, cortex .5, white matter .8."""
    ids = torch.tensor([0, 4, 3, 2])[tissue_map(seed=seed)]
    image = torch.tensor([0.0, 0.2, 0.5, 0.8])[tissue_map(seed=seed)]
    subject = Subject(f"t1-{seed}", {"t1": image}, ids, ids > 0, (0, 1, 2))
    return replace(subject, **parts)  # type: ignore[arg-type]


def places(views: ViewBatch) -> torch.Tensor:
    """Where the first view's voxels lie in the second, `(N, *spatial, d)`, -1 ... 1 from border to border, x first."""
    side, dims = views.first.shape[-1], views.first.ndim - 2
    axis = torch.arange(side) - (side - 1) / 2
    points = torch.stack(torch.meshgrid(*[axis] * dims, indexing="ij"), dim=-1).reshape(1, -1, dims)
    moved = (points - views.shift[:, None]) @ views.turn
    return (moved * 2 / (side - 1)).flip(-1).reshape(len(views.first), *[side] * dims, dims)


def carried(second: torch.Tensor, views: ViewBatch, mode: str = "bilinear") -> tuple[torch.Tensor, torch.Tensor]:
    """The second view's volumes on the first one, and where they have data there."""
    where = places(views)
    found = F.grid_sample(second, where, mode=mode, align_corners=True)
    return found, (where.abs().amax(dim=-1) < 1)[:, None]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_images_agree_at_the_mapped_places(dims: int) -> None:
    side = 64 if dims == 2 else 40
    views = ViewMaker([scan(side=side)], settings(dims))(6, generator())
    found, inside = carried(views.second, views)
    inside &= carried(views.second_seen[:, None].float(), views)[0] > 0.99
    inside &= views.first_seen[:, None]
    total = torch.zeros(2)
    for number in range(6):
        here, there, still = (image[number][inside[number]] for image in (views.first, found, views.second))
        assert len(here) > 0.1 * views.first[0].numel()
        scale = (here @ there) / (there @ there)  # each view has its own brightness
        apart = (here - scale * there).abs().mean()
        assert apart < 0.05 * here.std(), (number, apart, here.std())
        total += torch.stack([apart, (here - scale * still).abs().mean()])
    assert total[0] < 0.05 * total[1]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_tissues_agree_at_the_mapped_places(dims: int) -> None:
    views = ViewMaker([labelled()], settings(dims))(6, generator())
    found, inside = carried(views.second_tissue[:, None].float(), views, "nearest")
    same = (found[:, 0] == views.first_tissue)[inside[:, 0]].float().mean()
    still = (views.second_tissue == views.first_tissue)[inside[:, 0]].float().mean()
    assert float(same) > 0.9 > 0.8 > float(still)


@pytest.mark.parametrize("dims", [2, 3])
def test_without_motion_both_views_lie_alike(dims: int) -> None:
    views = ViewMaker([labelled()], settings(dims, turn=0.0, shift=0.0))(3, generator())
    assert torch.equal(views.first_tissue, views.second_tissue)
    assert torch.equal(views.turn, torch.eye(dims).expand(3, -1, -1))
    assert not views.shift.any()


def test_bending_and_turning_are_off_where_they_are_set_to_nothing() -> None:
    still = settings(3, rotation=0.0, zoom=1.0, stretch=0.0, bend=0.0, flips=(0, 0, 0), turn=0.0, shift=0.0)
    labels = torch.zeros((40,) * 3, dtype=torch.long)
    labels[20:22, 20, 20] = torch.tensor([2, 3])
    views = ViewMaker([labelled(labels=labels, seen=labels > 0)], still)(4, generator())
    for tissue in views.first_tissue:
        assert (tissue == 2).sum() == (tissue == 3).sum() == 1
        step = (tissue == 3).nonzero()[0] - (tissue == 2).nonzero()[0]
        assert step.tolist() == [1, 0, 0]


def test_turns_and_shifts_stay_within_their_ends_and_use_them() -> None:
    views = ViewMaker([labelled()], settings(2, turn=20.0, shift=4.0))(80, generator())
    angle = torch.rad2deg(torch.atan2(views.turn[:, 1, 0], views.turn[:, 0, 0]))
    torch.testing.assert_close(views.turn @ views.turn.mT, torch.eye(2).expand(80, -1, -1))
    assert 15 < float(angle.abs().max()) <= 20
    assert 3 < float(views.shift.abs().max()) <= 4


@pytest.mark.parametrize(
    ("protocol", "classes"),
    [
        ("freesurfer", {0: 0, 24: 0, 4: 1, 72: 1, 3: 2, 47: 2, 10: 2, 54: 2, 2: 3, 46: 3, 16: 3, 52: 3, 507: 0}),
        ("muse", {0: 0, 11: 1, 51: 1, 100: 2, 207: 2, 38: 2, 59: 2, 31: 2, 81: 3, 95: 3, 35: 3, 55: 3, 69: 0}),
        ("tissues", {0: 0, 1: 0, 2: 2, 3: 3}),
        ("icbm152", {0: 0, 1: 2, 2: 3}),
    ],
)
def test_ids_have_the_tissue_of_their_protocol(protocol: str, classes: dict[int, int]) -> None:
    ids = torch.tensor(list(classes))
    assert tissue_classes(ids.reshape(1, -1), protocol)[0].tolist() == list(classes.values())
    assert max(classes.values()) < len(TISSUES)


@pytest.mark.parametrize("name", ["freesurfer", "muse", "tissues", "icbm152"])
def test_a_protocol_gives_each_id_one_meaning(name: str) -> None:
    protocol = protocol_named(name)
    ids = [number for numbers in protocol.structures.values() for number in numbers]
    assert len(set(ids)) == len(ids)
    assert set(protocol.structures) <= set(STRUCTURES)
    assert not set(ids) & set(protocol.outside)
    sides = [number for pair in protocol.twins for number in pair]
    assert len(set(sides)) == len(sides)
    meaning = {number: kind for kind, numbers in protocol.structures.items() for number in numbers}
    assert all(meaning.get(right) == meaning.get(left) for right, left in protocol.twins)


def test_the_longest_fitting_name_of_a_data_set_decides() -> None:
    protocols = {"IXI": "muse", "IXI tissues": "tissues"}
    assert protocol_of("IXI tissues 2", protocols) is protocol_named("tissues")
    assert protocol_of("IXI, labelled", protocols) is protocol_named("muse")
    assert protocol_of("OASIS", protocols) is protocol_named("freesurfer")


def test_unknown_protocols_and_kinds_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"label protocol 'muze'.*'muse'.*freesurfer"):
        settings(2, protocols={"IXI": "muze"})
    with pytest.raises(SettingsError, match=r"label protocol 'x'.*tissues"):
        tissue_classes(torch.tensor([1]), "x")
    with pytest.raises(SettingsError, match=r"'paint'.*contrasts, labelled, painted, scans"):
        settings(2, shares={"paint": 1.0})
    with pytest.raises(SettingsError, match="at least 0"):
        settings(2, shares={"scans": -1.0})
    with pytest.raises(SettingsError, match="only zeros"):
        settings(2, shares={"scans": 0.0})


def all_kinds() -> list[Subject]:
    both = scan(("t1", "t2"), 0), scan(seed=3), t1(), labelled(1)
    return [replace(subject, name=f"{number}") for number, subject in enumerate((*both, scan(seed=5), scan(seed=6)))]


def test_kinds_are_drawn_by_their_shares() -> None:
    maker = ViewMaker(all_kinds(), settings(2, size=8, bend=0, shares={"contrasts": 3, "labelled": 1, "painted": 2}))
    drawn = maker(400, generator()).subject.bincount(minlength=6) / 400
    torch.testing.assert_close(drawn, torch.tensor([3, 0, 1, 2, 0, 0]) / 6, atol=0.08, rtol=0)
    maker = ViewMaker(all_kinds(), settings(2, size=8, bend=0, shares={"scans": 3, "painted": 1, "contrasts": 0}))
    drawn = maker(400, generator()).subject.bincount(minlength=6) / 400
    torch.testing.assert_close(drawn, torch.tensor([0, 0.25, 0, 0.25, 0.25, 0.25]), atol=0.08, rtol=0)
    drawn = ViewMaker(all_kinds(), settings(2, size=8))(400, generator()).subject.bincount(minlength=6) / 400
    torch.testing.assert_close(drawn, torch.full((6,), 1 / 6), atol=0.08, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_draws_repeat_and_depend_on_the_generator_only(dims: int) -> None:
    maker = ViewMaker(all_kinds(), settings(dims, appearance=NOISY, window=WindowSettings()))
    first, again, other = maker(8, generator(1)), maker(8, generator(1)), maker(8, generator(2))
    for part in fields(ViewBatch):
        assert torch.equal(getattr(first, part.name), getattr(again, part.name)), part.name
    assert not torch.equal(first.first, other.first)


@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_kinds_and_ranges_of_a_batch(dims: int) -> None:
    wanted = settings(dims, appearance=NOISY)
    views = ViewMaker(all_kinds(), wanted)(8, generator()).to("cpu")
    spatial = (wanted.size,) * dims
    assert views.first.shape == views.second.shape == (8, 1, *spatial)
    assert views.turn.shape == (8, dims, dims)
    assert views.shift.shape == (8, dims)
    assert views.subject.shape == (8,)
    for image in (views.first, views.second):
        assert image.dtype == torch.float32
        assert 0 <= float(image.min()) <= float(image.max()) <= 1.3
        assert bool((image.flatten(1).std(dim=1) > 0).all())
    for tissue, seen in ((views.first_tissue, views.first_seen), (views.second_tissue, views.second_seen)):
        assert tissue.shape == seen.shape == (8, *spatial)
        assert (tissue.dtype, seen.dtype) == (torch.int64, torch.bool)
        assert tissue.min() >= -1
        assert tissue.max() <= 3


def test_unlabelled_subjects_have_no_known_tissue() -> None:
    maker = ViewMaker([scan(), labelled()], settings(2))
    views = maker(12, generator())
    bare = views.subject == 0
    assert 0 < int(bare.sum()) < 12
    for tissue in (views.first_tissue, views.second_tissue):
        assert bool((tissue[bare] == -1).all())
        assert bool((tissue[~bare] >= 0).all())


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_is_outside_a_window(dims: int) -> None:
    hidden = WindowSettings(disc=0.5, box=0.5, smallest=0.5, largest=0.6)
    views = ViewMaker([labelled()], settings(dims, window=hidden, appearance=NOISY))(6, generator())
    outside = views.first_tissue == -1
    assert torch.equal(outside, views.second_tissue == -1)
    assert bool((outside.flatten(1).float().mean(dim=1) > 0.5).all())
    for image, seen in ((views.first, views.first_seen), (views.second, views.second_seen)):
        assert not image[:, 0][outside].any()
        assert not seen[outside].any()
        assert bool(image[:, 0][~outside].any())


def test_windows_are_as_frequent_as_they_are_set() -> None:
    seldom = WindowSettings(disc=0.1, box=0.2, smallest=0.5, largest=0.6)
    views = ViewMaker([labelled()], settings(2, size=8, window=seldom))(400, generator())
    assert abs(float((views.first_tissue == -1).flatten(1).any(dim=1).float().mean()) - 0.3) < 0.07


def test_a_t1_is_recoloured_through_its_own_medians() -> None:
    subject = t1()
    anatomy = view_anatomy(subject, {})
    assert anatomy.shades is not None
    torch.testing.assert_close(torch.tensor([*vars(anatomy.shades).values()]), torch.tensor([0.2, 0.5, 0.8]))
    image = torch.tensor([0.0, 0.01, 0.2, 0.35, 0.5, 0.8]).reshape(1, 1, 1, -1)
    found = recoloured(image, anatomy.shades, Shades(csf=0.9, grey=0.5, white=0.3), generator()).flatten()
    torch.testing.assert_close(found, torch.tensor([0, 0, 0.9, 0.7, 0.5, 0.3]), atol=0.01, rtol=0)


def test_scans_that_are_no_t1_are_not_recoloured() -> None:
    places = torch.tensor([STRUCTURES.index(name) for name in ("ventricles", "cortex", "white")])
    assert t1_shades(torch.tensor([0.2, 0.5, 0.8]), places) == Shades(*torch.tensor([0.2, 0.5, 0.8]).tolist())
    assert t1_shades(torch.tensor([0.9, 0.5, 0.3]), places) is None
    assert t1_shades(torch.tensor([0.5, 0.8]), places[1:]) is None


def middle_value(views: ViewBatch, tissue: int) -> torch.Tensor:
    """`(N,)`: median of the first views over the inner voxels of a tissue."""
    inner = F.avg_pool2d((views.first_tissue == tissue)[:, None].float(), 5, 1, 2) == 1
    return torch.stack([image[there].median() for image, there in zip(views.first, inner, strict=True)])


def test_the_share_of_recoloured_views_is_what_was_asked_for() -> None:
    for share, ends in ((0.0, (0, 0)), (0.5, (0.3, 0.7)), (1.0, (0.9, 1))):
        wanted = ContrastSettings(recoloured=share, random=1.0)
        views = ViewMaker([t1()], settings(2, contrasts=wanted))(40, generator())
        fluid, white = (middle_value(views, number) for number in (1, 3))
        ratio = (fluid / white)[(fluid / white).isfinite()]
        assert len(ratio) > 20
        changed = float(((ratio - 0.25).abs() > 0.02).float().mean())
        assert ends[0] <= changed <= ends[1], share


def test_contrasts_are_like_those_of_scans() -> None:
    drawn = [draw_shades(ContrastSettings(random=0.0), generator(seed)) for seed in range(60)]
    orders = {tuple(sorted(vars(shades), key=vars(shades).__getitem__)) for shades in drawn}
    assert orders == {
        ("csf", "grey", "white"),
        ("white", "grey", "csf"),
        ("csf", "white", "grey"),
        ("white", "csf", "grey"),
    }
    assert all(0 < value < 1.05 for shades in drawn for value in vars(shades).values())


def test_painted_labels_look_like_their_tissues_and_both_sides_alike() -> None:
    ids = ("other", "cortex", "cortex", "white", "ventricles")
    structures = torch.tensor([STRUCTURES.index(name) for name in ids])
    palette = Palette(structures, torch.tensor([0, 1, 1, 3, 4]))
    labels = torch.arange(5).repeat_interleave(20).expand(100, 100)
    for seed in range(6):
        image = palette(labels, Shades(csf=0.2, grey=0.5, white=0.8), generator(seed))[0, 0]
        means = image.reshape(100, 5, 20)[:, :, 6:14].mean(dim=(0, 2))
        torch.testing.assert_close(means[1:], torch.tensor([0.5, 0.5, 0.8, 0.2]), atol=0.12, rtol=0)
        assert abs(float(means[1] - means[2])) < 0.08


def test_heads_come_a_second_time_as_brains() -> None:
    ids = t1().labels
    assert ids is not None
    head = torch.full_like(ids, 511)
    head[10:30, 10:30, 10:30] = ids[10:30, 10:30, 10:30]
    painted = Subject("head", {}, head, head > 0, (0, 1, 2))
    whole = t1(labels=torch.where(head == 511, 0, head), name="p/1", empty_outside=False)
    found = with_brains([painted, whole, labelled()], {"t": "tissues"})
    assert [subject.name for subject in found] == ["head", "p/1", "map0", "head/stripped", "p/1/stripped"]
    assert [subject.person for subject in found[3:]] == ["head", "p"]
    assert found[3].labels is not None
    assert 511 not in found[3].labels
    assert not found[3].seen[:9].any()
    assert found[4].empty_outside
    assert not found[4].images["t1"][:5].any()
    assert found[4].images["t1"][12:28].any()
    assert len(with_brains(found, {"t": "tissues"})) == len(found)
    assert len(ViewMaker([painted], settings(2, stripped=False)).subjects) == 1
    maker = ViewMaker([painted], settings(2))
    assert len(maker.subjects) == 2
    assert len(maker.with_subjects([labelled(), labelled(1), labelled(2)]).subjects) == 3


def test_thick_slices_are_brought_to_equal_steps() -> None:
    thick = labelled(steps=(3.0, 1.0, 1.0), axes=(0,))
    assert thick.labels is not None
    thick = replace(thick, labels=thick.labels[::3], seen=thick.seen[::3], images={"t1": scan().images["t1"][::3]})
    anatomy = view_anatomy(thick, {"t": "tissues"})
    assert anatomy.seen.shape == anatomy.images[0].shape == (42, 40, 40)
    assert anatomy.axes == (0, 1, 2)
    assert not anatomy.flat
    assert anatomy.labels is not None
    assert torch.equal(anatomy.labels[1::3], anatomy.labels[0::3])
    assert ViewMaker([thick], settings(3))(2, generator()).first.shape == (2, 1, 24, 24, 24)


def test_sections_and_pictures_stay_in_their_plane() -> None:
    numbers = torch.arange(1, 7).reshape(6, 1, 1).expand(6, 64, 64) / 8
    stack = Subject("stack", {"image": numbers.clone()}, None, numbers > 0, empty_outside=False)
    views = ViewMaker([stack], settings(2, contrasts=ContrastSettings(brightness=(1.0, 1.0))))(8, generator())
    for image, seen in zip(views.first, views.first_seen, strict=True):
        assert seen.float().mean() > 0.2
        inside = F.avg_pool2d(seen[None].float(), 3, 1, 1) == 1
        torch.testing.assert_close(image[inside], torch.ones(int(inside.sum())))
    picture = replace(stack, images={"image": numbers[:1]}, seen=numbers[:1] > 0, steps=(1.0, 0.4, 0.4))
    assert ViewMaker([picture], settings(2))(3, generator()).first_seen.any()


def test_ids_may_be_any_whole_numbers_and_background_may_be_missing() -> None:
    labels = torch.where(tissue_map() == 0, 2_000_000, tissue_map()) * torch.where(tissue_map() == 1, -1, 1)
    views = ViewMaker([labelled(labels=labels, seen=labels != 0)], settings(3))(3, generator())
    assert set(views.first_tissue.flatten().tolist()) == {0, 2, 3}


def test_unusable_subjects_are_refused() -> None:
    with pytest.raises(InputError, match="no subjects"):
        ViewMaker([], settings(2))
    with pytest.raises(InputError, match="too small for views of 512"):
        ViewMaker([scan()], settings(2, size=512))
    picture = scan(images={"image": torch.rand(1, 64, 64)}, seen=torch.ones((1, 64, 64), dtype=torch.bool), axes=(0,))
    with pytest.raises(InputError, match="picture or a stack of sections"):
        ViewMaker([picture], settings(3))
    with pytest.raises(InputError, match=r"no grey or no white matter.*'other'.*protocols"):
        ViewMaker([labelled(data_set="other", labels=tissue_map() % 3)], settings(2))
    with pytest.raises(InputError, match="ask for contrasts, and the subjects are painted"):
        ViewMaker([labelled()], settings(2, shares={"contrasts": 1}))
    with pytest.raises(InputError, match="no image and no labels"):
        ViewMaker([scan(images={})], settings(2))
    with pytest.raises(InputError, match="nothing but background"):
        ViewMaker([scan(seen=torch.zeros((40,) * 3, dtype=torch.bool))], settings(2))
    with pytest.raises(SettingsError, match="turns"):
        settings(2, turns=3.0)


def test_all_kinds_are_known() -> None:
    assert {"contrasts", "labelled", "painted", "scans"} == set(KINDS)
