"""The trainer: what a killed run leaves and how it goes on, seeds, checks, curves, clear ends; and splits by subject."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from regsim.errors import InputError, SettingsError, TrainingError
from regsim.kernels.channel_norm import ChannelNorm
from regsim.training import devices, memory
from regsim.training.folds import split_by_subject
from regsim.training.log import CurveRow, as_table, from_table
from regsim.training.state import STATE, TrainingState, load_state, remove_state, save_state, step_seed
from regsim.training.trainer import Stage, StageSettings, Trained, TrainerSettings, train

Figures = tuple[torch.Tensor, dict[str, torch.Tensor]]
QUICK = TrainerSettings(checkpoint_every=0, device="cpu")


def network() -> nn.Sequential:
    """Convolution, normalisation, dropout: whatever a resumed run could get wrong."""
    torch.manual_seed(7)
    body = nn.Sequential(nn.Conv2d(1, 6, 3), ChannelNorm(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Dropout(0.3))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 1))


def mean_error(net: nn.Module, batch: torch.Tensor) -> Figures:
    """The network is to say the mean of each picture."""
    loss = (net(batch) - batch.mean((2, 3))).square().mean()
    return loss, {"rmse": loss.sqrt()}


def pictures(size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(size, 1, 12, 12, generator=generator)


def unseen(net: nn.Module) -> dict[str, float]:
    assert not net.training
    assert not torch.is_grad_enabled()
    torch.rand(3)  # a check that draws must not change what is learnt
    return {"error": float(mean_error(net, pictures(8, torch.Generator().manual_seed(99)))[0])}


def stage_settings(**changes: Any) -> StageSettings:
    values = {"objective": "mean", "steps": 12, "batch": 4, "learning_rate": 1e-2}
    return StageSettings.checked({**values, **changes})


def stages() -> list[Stage]:
    """Two, with everything that has a state."""
    first = stage_settings(objective="one", optimiser="muon", schedule="onecycle", clip=0.5)
    second = stage_settings(
        objective="two",
        steps=20,
        schedule="cosine",
        optimiser="adamw",
        weight_decay=0.01,
        check_every=6,
        decides="error",
    )
    return [Stage(mean_error, pictures, None, first), Stage(mean_error, pictures, unseen, second)]


def weights(net: nn.Module) -> list[bytes]:
    return [tensor.detach().contiguous().numpy().tobytes() for tensor in net.state_dict().values()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(network(), stages(), QUICK, tmp_path_factory.mktemp("unbroken"))


# --- killed and resumed -------------------------------------------------------------------------------------------------

SLOW = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import test_trainer as here
def slowly(row):
    print(row.stage, row.step, flush=True)
    time.sleep(0.03)
here.train(here.network(), here.stages(), here.QUICK, Path(sys.argv[2]), on_step=slowly)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_and_resumed_gives_the_same_weights(unbroken: Trained, tmp_path: Path) -> None:
    """kill -9 twice, in the first and in the second stage, at whatever the process is doing then."""
    for last in ("0 5", "1 9"):
        arguments = [sys.executable, "-c", SLOW, str(Path(__file__).parent), str(tmp_path)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert any(line.strip() == last for line in process.stdout)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    state = load_state(tmp_path)
    assert state is not None
    assert (state.facts["place"]["stage"], state.facts["place"]["step"] in (8, 9)) == (1, True)
    torch.rand(5)
    resumed = train(network(), stages(), QUICK, tmp_path)
    assert weights(resumed.network) == weights(unbroken.network)
    assert resumed.best == unbroken.best
    assert [(row.name, row.step, row.loss) for row in resumed.curves] == [
        (row.name, row.step, row.loss) for row in unbroken.curves
    ]


@pytest.mark.parametrize("broken_at", [0, 11, 12, 17, 31])
def test_resumed_after_any_step(broken_at: int, unbroken: Trained, tmp_path: Path) -> None:
    """Stopped by an error of the caller after every kind of step: first, last of a stage, one with a check."""

    def stop(row: CurveRow) -> None:
        if row.stage * 12 + row.step - 1 == broken_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(network(), stages(), QUICK, tmp_path, on_step=stop)
    assert weights(train(network(), stages(), QUICK, tmp_path).network) == weights(unbroken.network)


def test_a_finished_run_comes_back_at_once(tmp_path: Path) -> None:
    made = train(network(), stages(), QUICK, tmp_path)
    again = train(network(), stages(), QUICK, tmp_path, on_step=lambda row: pytest.fail("a step was made"))
    assert weights(again.network) == weights(made.network)
    assert (again.best, len(again.curves)) == (made.best, len(made.curves))
    assert again.seconds <= made.seconds
    remove_state(tmp_path)
    assert load_state(tmp_path) is None


def test_without_resume_it_starts_again(tmp_path: Path) -> None:
    train(network(), stages()[:1], QUICK, tmp_path)
    seen: list[int] = []
    train(network(), stages()[:1], QUICK, tmp_path, on_step=lambda row: seen.append(row.step), resume=False)
    assert seen == list(range(1, 13))


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(network(), stages()[:1], QUICK, tmp_path, recipe="a")
    other = [Stage(mean_error, pictures, None, stage_settings(learning_rate=2e-3))]
    for changed in (lambda: train(network(), other, QUICK, tmp_path, recipe="a"),
                    lambda: train(network(), stages()[:1], QUICK, tmp_path, recipe="b")):  # fmt: skip
        with pytest.raises(InputError, match="other settings, data or network; give another folder"):
            changed()
    patient = TrainerSettings(checkpoint_every=9, fast_memory=False, device="cpu")
    train(network(), stages()[:1], patient, tmp_path, recipe="a")  # these change nothing that is learnt


def test_damaged_states(tmp_path: Path) -> None:
    train(network(), stages()[:1], QUICK, tmp_path)
    whole = (tmp_path / STATE).read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\x80\x04" + whole[2:], b"PK\x03\x04" + whole[4:]):
        (tmp_path / STATE).write_bytes(content)
        with pytest.raises(InputError, match=r"is damaged \(.*remove it to train from the start"):
            train(network(), stages()[:1], QUICK, tmp_path)


def test_state_round_trip(tmp_path: Path) -> None:
    tensor = memory.channels_last(torch.rand(2, 3, 4, 5))
    save_state(tmp_path, TrainingState({"a": [1, 0.1]}, {"network": {"x/y.z": tensor, "tied": tensor}}))
    back = load_state(tmp_path)
    assert back is not None
    assert back.facts == {"a": [1, 0.1]}
    assert all(torch.equal(value, tensor) for value in back.tensors["network"].values())
    assert set(back.tensors["network"]) == {"x/y.z", "tied"}
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


# --- seeds, layouts, processes ------------------------------------------------------------------------------------------


def test_seeds(unbroken: Trained, tmp_path: Path) -> None:
    again = train(network(), stages(), QUICK, tmp_path / "a")
    other = train(network(), stages(), QUICK.model_copy(update={"seed": 1}), tmp_path / "b")
    assert weights(again.network) == weights(unbroken.network)
    assert weights(other.network) != weights(unbroken.network)
    seeds = {step_seed(s, stage, step, p, w) for s in (0, 1) for stage in (0, 1) for step in range(50)
             for p in (0, 1) for w in ("batch", "network")}  # fmt: skip
    assert len(seeds) == 800
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_callers_generator_is_left_alone(tmp_path: Path) -> None:
    net = network()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(net, stages()[:1], QUICK, tmp_path)
    assert torch.equal(torch.rand(4), expected)


def test_layout_changes_speed_only(tmp_path: Path) -> None:
    losses = []
    for on in (True, False):
        settings = QUICK.model_copy(update={"channels_last": on})
        net = network()
        net[0][-1] = nn.Identity()  # dropout draws in the order of the memory
        losses.append([row.loss for row in train(net, stages()[:1], settings, tmp_path / str(on)).curves])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_layout_of_one_channel() -> None:
    net = memory.weights_channels_last(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv3d(2, 3, 1), nn.Linear(2, 2)))
    assert [tuple(p.stride()) for p in net.parameters() if p.ndim > 2] == [(9, 1, 3, 1), (2, 1, 2, 2, 2)]
    assert net[0](torch.rand(2, 1, 8, 8)).is_contiguous(memory_format=torch.channels_last)


def test_batches_ahead_are_the_same() -> None:
    from regsim.training.batches import batches

    plain, ahead = ([*batches(pictures, 2, lambda step: step, range(3, 9), n)] for n in (0, 2))
    assert all(torch.equal(a, b) for a, b in zip(plain, ahead, strict=True))
    stopped = batches(pictures, 2, lambda step: step, range(10**9), 2)
    next(stopped)
    stopped.close()


def test_half_precision(tmp_path: Path) -> None:
    made = train(network(), stages(), QUICK.model_copy(update={"amp": "bf16"}), tmp_path)
    assert {tensor.dtype for tensor in made.network.parameters()} == {torch.float32}
    with pytest.raises(SettingsError, match="fp16 needs a GPU"):
        train(network(), stages(), QUICK.model_copy(update={"amp": "fp16"}), tmp_path / "b")


@pytest.mark.parametrize(("has", "amp"), [(True, "bf16"), (False, "no")])
def test_a_processor_without_bf16_goes_without(has: bool, amp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "processor_has_bf16", lambda: has)
    made = devices.make_accelerator(TrainerSettings(device="cpu", amp="bf16"))
    assert made.mixed_precision == amp


# --- checks, early stop, curves -----------------------------------------------------------------------------------------


def scripted(values: list[float]) -> tuple[Stage, list[list[bytes]]]:
    """A stage whose checks give these figures one after another, and the weights that each of them saw."""
    seen: list[list[bytes]] = []

    def check(net: nn.Module) -> dict[str, float]:
        seen.append(weights(net))
        return {"auc": values[len(seen) - 1], "other": 1.0}

    settings = stage_settings(steps=40, check_every=2, patience=3, decides="auc", better="higher")
    return Stage(mean_error, pictures, check, settings), seen


def test_early_stop_keeps_the_best(tmp_path: Path) -> None:
    stage, seen = scripted([0.5, 0.9, float("nan"), 0.9, 0.8, 1.0])
    made = train(network(), [stage], QUICK, tmp_path)
    assert len(seen) == 5
    assert made.curves[-1].step == 10
    [best] = made.best
    assert (best.step, best.steps, best.figure, best.value) == (4, 10, "auc", 0.9)
    assert weights(made.network) == seen[1]
    assert not made.network.training


def test_without_checks_the_last_weights_are_kept(tmp_path: Path) -> None:
    made = train(network(), [Stage(mean_error, pictures, unseen, stage_settings())], QUICK, tmp_path)
    assert made.best == []
    assert len(made.curves) == 12


def test_training_learns(tmp_path: Path) -> None:
    settings = stage_settings(steps=150, batch=16, schedule="onecycle")
    made = train(
        network(),
        [Stage(mean_error, pictures, None, settings)],
        QUICK.model_copy(update={"checkpoint_every": 60.0}),
        tmp_path,
    )
    losses = [row.loss for row in made.curves]
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])


def test_curves(unbroken: Trained, tmp_path: Path) -> None:
    train(network(), stages(), QUICK, tmp_path)
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["stage", "step", "loss", "rmse", "check_error", "learning_rate", "seconds"]
    assert [row["stage"] for row in rows] == ["one"] * 12 + ["two"] * 20
    assert [row["step"] for row in rows if row["check_error"]] == ["6", "12", "18", "20"]
    assert float(rows[3]["loss"]) == pytest.approx(unbroken.curves[3].loss, rel=1e-6)
    rates = [float(row["learning_rate"]) for row in rows]
    assert max(rates[:12]) == pytest.approx(1e-2, rel=0.01)
    assert rates[12] == pytest.approx(1e-2)
    assert rates[-1] < 1e-3
    assert [float(row["seconds"]) for row in rows] == sorted(float(row["seconds"]) for row in rows)
    columns, table = as_table(unbroken.curves)
    assert from_table(columns, table, ["one", "two"]) == unbroken.curves


# --- clear ends ---------------------------------------------------------------------------------------------------------


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    calls = []

    def breaks(net: nn.Module, batch: torch.Tensor) -> Figures:
        calls.append(1)
        loss, figures = mean_error(net, batch)
        return loss * (float("inf") if len(calls) == 8 else 1), figures

    with pytest.raises(
        TrainingError, match=r"stage 'mean': the loss is inf at step 8; the last good state is in"
    ) as caught:
        train(network(), [Stage(breaks, pictures, None, stage_settings())], QUICK, tmp_path)
    assert caught.value.step == 8
    state = load_state(tmp_path)
    assert state is not None
    assert state.facts["place"]["step"] == 7
    assert all(bool(tensor.isfinite().all()) for tensor in state.tensors["network"].values())


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    """The loss is fine, its gradient is not."""

    def breaks(net: nn.Module, batch: torch.Tensor) -> Figures:
        return (net(batch) * 0).abs().sqrt().sum(), {}

    with pytest.raises(
        TrainingError, match="weights are not finite after step 1; nothing is kept; lower learning_rate"
    ):
        train(network(), [Stage(breaks, pictures, None, stage_settings())], QUICK, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_clip(tmp_path: Path) -> None:
    """Adam hardly feels the length of a gradient, so its moments are looked at."""
    norms = []
    for clip in (0.0, 1e-3):
        folder = tmp_path / str(clip)

        def stop(row: CurveRow) -> None:
            if row.step == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(
                network(), [Stage(mean_error, pictures, None, stage_settings(clip=clip))], QUICK, folder, on_step=stop
            )
        state = load_state(folder)
        assert state is not None
        moments = [v for k, v in state.tensors["optimiser"].items() if k.endswith("exp_avg")]
        norms.append(float(torch.cat([m.flatten() for m in moments]).norm()))
    assert norms[1] == pytest.approx(1e-4, rel=1e-3)  # (1 - beta1) times the clipped norm
    assert norms[0] > 10 * norms[1]


def test_mistakes_in_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="check_every needs 'decides'"):
        stage_settings(check_every=2)
    with pytest.raises(SettingsError, match="patience counts checks"):
        stage_settings(patience=2)
    with pytest.raises(SettingsError, match="did you mean 'learning_rate'"):
        stage_settings(learning_rat=2)
    checked = stage_settings(check_every=2, decides="eror")
    with pytest.raises(SettingsError, match="has no check; give validation subjects"):
        train(network(), [Stage(mean_error, pictures, None, checked)], QUICK, tmp_path)
    with pytest.raises(SettingsError, match="unknown figure to decide by 'eror'; did you mean 'error'"):
        train(network(), [Stage(mean_error, pictures, unseen, checked)], QUICK, tmp_path)
    with pytest.raises(SettingsError, match="one stage at least"):
        train(network(), [], QUICK, tmp_path)
    with pytest.raises(InputError, match="no weights to train"):
        train(nn.Sequential(nn.ReLU()), stages(), QUICK, tmp_path / "b")
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="no GPU"):
            train(network(), stages(), TrainerSettings(device="cuda"), tmp_path)


# --- splits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 4, 7, 20, 101])
def test_split_by_subject(count: int) -> None:
    names = [f"s{number}" for number in range(count)]
    [fold] = split_by_subject(names * 3, seed=4)
    assert sorted([*fold.train, *fold.validation, *fold.test]) == sorted(names)
    assert all((fold.train, fold.validation, fold.test))
    assert split_by_subject(reversed(names), seed=4) == [fold]
    assert count < 7 or split_by_subject(names, seed=5) != [fold]


def test_folds() -> None:
    names = [f"s{number}" for number in range(11)]
    folds = split_by_subject(names, folds=5)
    assert sorted(name for fold in folds for name in fold.test) == sorted(names)
    assert sorted(name for fold in folds for name in fold.validation) == sorted(names)
    for fold in folds:
        assert sorted([*fold.train, *fold.validation, *fold.test]) == sorted(names)


def test_too_few_subjects() -> None:
    with pytest.raises(
        InputError, match=r"one subject \('ann'\).*needs 3 or more: add images of other subjects, or set"
    ):
        split_by_subject(["ann", "ann"])
    with pytest.raises(InputError, match="there are 2 subjects, but a split by subject needs 3"):
        split_by_subject(["ann", "bob"])
    with pytest.raises(InputError, match=r"needs 5 or more: .* ask for fewer folds"):
        split_by_subject("abcd", folds=5)
    with pytest.raises(SettingsError, match="expected 3 or more"):
        split_by_subject("abcd", folds=2)
    with pytest.raises(SettingsError, match="add up to 1"):
        split_by_subject("abcd", (0.5, 0.5, 0.5))
    assert split_by_subject(["ann"], (1.0, 0.0, 0.0))[0].train == ("ann",)
    assert split_by_subject(["ann", "bob"], (0.5, 0.0, 0.5))[0].validation == ()


# --- the fast normalisation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", [(5, 7, 6), (3, 4, 5, 3), (1, 6, 6)])
@pytest.mark.parametrize("last", [True, False])
def test_channel_norm(batch: int, shape: tuple[int, ...], last: bool) -> None:
    """Values and gradients: torch's own in the usual order, and finite differences."""
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, theirs = ChannelNorm(shape[0]).double(), nn.GroupNorm(shape[0], shape[0]).double()
    with torch.no_grad():
        ours.weight.copy_(torch.linspace(0.5, 2, shape[0]))
        ours.bias.copy_(torch.linspace(-1, 1, shape[0]))
    theirs.load_state_dict(ours.state_dict())
    upstream = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = []
    for norm, here in ((theirs, x.clone()), (ours, memory.channels_last(x) if last else x.clone())):
        here.requires_grad_()
        y = norm(here)
        y.backward(memory.channels_last(upstream) if last and norm is ours else upstream)
        found.append([y.detach(), here.grad, norm.weight.grad, norm.bias.grad])
    for mine, known in zip(*found, strict=True):
        torch.testing.assert_close(mine, known, rtol=1e-9, atol=1e-9)
    free = memory.channels_last(x[:, :, :3]) if last else x[:, :, :3].clone()
    assert torch.autograd.gradcheck(ours, (free.detach().requires_grad_(),), fast_mode=True)


def test_channel_norm_in_half_precision() -> None:
    x = memory.channels_last(torch.randn(2, 6, 9, 9, generator=torch.Generator().manual_seed(1)).bfloat16())
    norm = ChannelNorm(6)
    found = norm(x.requires_grad_())
    found.sum().backward()
    assert (found.dtype, x.grad is not None and x.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    torch.testing.assert_close(found, nn.GroupNorm(6, 6)(x.detach().float()).bfloat16(), rtol=0.01, atol=0.01)


@pytest.mark.filterwarnings("ignore")
def test_channel_norm_exports() -> None:
    x = memory.channels_last(torch.rand(2, 4, 6, 6))
    norm = ChannelNorm(4)
    assert torch.equal(torch.jit.trace(norm, x)(x), norm(x))
    assert torch.equal(torch.jit.script(norm)(x), norm(x))
