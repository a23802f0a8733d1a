"""The moving average of the weights: a plain loop says the same, and a resumed run goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_processes import STILL, finished, launch
from torch import Tensor, nn

from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
from crossalign.recipe import EMASettings, load_recipe
from crossalign.training.checkpoint import load_checkpoint
from crossalign.training.moving_average import MovingAverage
from crossalign.training.state import kept_epochs, kept_place
from crossalign.training.trainer import train
from interrupted_training import interrupted

EMA = "training.ema={decay: 0.8}"


def moved(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all that training moves."""
    values = {name: value for name, value in model.named_parameters() if value.requires_grad}
    values |= {name: value for name, value in model.named_buffers() if value.is_floating_point()}
    return {name: value.detach().clone() for name, value in values.items()}


def plain_average(steps: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """One number after the other, in double precision."""
    result = {}
    for name in steps[0]:
        rows = [step[name].double().flatten().tolist() for step in steps]
        average = rows[0]
        for row in rows[1:]:
            average = [decay * old + (1 - decay) * new for old, new in zip(average, row, strict=True)]
        result[name] = torch.tensor(average).reshape(steps[0][name].shape)
    return result


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[2].requires_grad_(False)
    return model


def step(model: nn.Module) -> None:
    model.train()
    model(torch.randn(8, 4)).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
                parameter.grad = None


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_the_average_is_that_of_a_plain_loop(decay: float) -> None:
    model = network()
    average = MovingAverage(model, EMASettings(decay=decay, start_epoch=1))
    steps = []
    for epoch in (0, 0, 1, 1, 2, 2, 2):
        step(model)
        average.update(epoch)
        if epoch >= 1:
            steps.append(moved(model))
        else:
            assert average.state_dict() == {}
    expected = plain_average(steps, decay)
    assert expected.keys() == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
    }
    found = average.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.float(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(steps[-1]["0.weight"], found["0.weight"], rtol=1e-3)


def test_the_weights_that_train_come_back_bit_for_bit() -> None:
    model = network()
    average = MovingAverage(model, EMASettings(decay=0.9))
    for _ in range(3):
        step(model)
        average.update(0)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    averaged = {name: value.clone() for name, value in average.state_dict().items()}
    with average.applied():
        inside = model.state_dict()
        assert all(torch.equal(inside[name], value) for name, value in averaged.items())
        assert not torch.equal(inside["0.weight"], own["0.weight"])
        # A count is no average; frozen weights are the same in both.
        assert torch.equal(inside["1.num_batches_tracked"], own["1.num_batches_tracked"])
        assert torch.equal(inside["2.weight"], own["2.weight"])
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, averaged[name]) for name, value in average.state_dict().items())


def test_what_does_not_move_stays_as_it_is_bit_for_bit() -> None:
    model = network()
    average = MovingAverage(model, EMASettings(decay=0.9))
    own = moved(model)
    for _ in range(5):
        average.update(0)
    assert all(torch.equal(value, own[name]) for name, value in average.state_dict().items())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights after every step of a training."""
    steps: list[dict[str, Tensor]] = []
    real, models = MovingAverage.update, {}
    begin = MovingAverage.__init__

    def beginning(self: MovingAverage, model: nn.Module, settings: EMASettings | None) -> None:
        begin(self, model, settings)
        models[id(self)] = model

    def update(self: MovingAverage, epoch: int) -> None:
        real(self, epoch)
        steps.append(moved(models[id(self)]))

    monkeypatch.setattr(MovingAverage, "__init__", beginning)
    monkeypatch.setattr(MovingAverage, "update", update)
    return steps


def test_a_run_validates_and_keeps_the_average(
    toy: Path, tmp_path: Path, recorded: list[dict[str, Tensor]]
) -> None:
    recipe = load_recipe(toy, [EMA, "training.epochs=2", "training.keep_epochs=1"])
    train(recipe, tmp_path / "run", progress=False)
    expected = plain_average(recorded, 0.8)
    saved = load_file(kept_place(tmp_path / "run", 2) / "model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(saved[name], value.float(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        saved["image_tower.context_head.guide.weight"], recorded[-1]["image_tower.context_head.guide.weight"]
    )
    # What trains is not touched by the average that is validated.
    train(load_recipe(toy, ["training.epochs=2"]), tmp_path / "plain", progress=False)
    ours, plain = (
        load_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt")["weights"] for run in ("run", "plain")
    )
    assert all(torch.equal(value, plain[name]) for name, value in ours.items())


@pytest.mark.parametrize("stop_at", [5, *(pytest.param(at, marks=pytest.mark.long) for at in (1, 3, 8))])
@pytest.mark.parametrize("start", [0, 1])
def test_a_resumed_average_is_the_uninterrupted_one_bit_for_bit(
    toy: Path, tmp_path: Path, stop_at: int, start: int
) -> None:
    changes = [f"training.ema={{decay: 0.8, start_epoch: {start}}}", "training.keep_epochs=2"]
    recipe = load_recipe(toy, [*changes, "training.checkpoint_every=1"])
    train(recipe, tmp_path / "whole", progress=False)
    with interrupted(stop_at):
        train(recipe, tmp_path / "parts", progress=False)
    torch.manual_seed(999)
    train(recipe, tmp_path / "parts", resume="auto", progress=False)
    whole, parts = (
        load_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("whole", "parts")
    )
    for part in ("weights", "average"):
        assert whole[part].keys() == parts[part].keys() != set()
        assert all(torch.equal(value, parts[part][name]) for name, value in whole[part].items())
    assert kept_epochs(tmp_path / "parts") == [2, 3]
    for place in ("model", "checkpoints/epoch-2", "checkpoints/epoch-3"):
        one, two = ((tmp_path / run / place / "model.safetensors").read_bytes() for run in ("whole", "parts"))
        assert one == two


def test_a_checkpoint_from_before_there_were_averages_goes_on(toy: Path, tmp_path: Path) -> None:
    recipe = load_recipe(toy)
    train(recipe, tmp_path / "run", progress=False)
    (tmp_path / "run" / "training.json").unlink()
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    state = load_checkpoint(path)
    assert state.pop("average") == {}
    torch.save(state, path)
    assert train(recipe, tmp_path / "run", resume="auto", progress=False).epochs == 3


@pytest.mark.long
def test_two_processes_average_what_one_does(toy: Path, tmp_path: Path) -> None:
    still = [argument for override in [*STILL, EMA] for argument in ("--set", override)]
    for count in (1, 2):
        out = str(tmp_path / f"run{count}")
        arguments = ["-m", "crossalign", "train", str(toy), "--out", out, "--set", "training.epochs=1"]
        finished(launch(count, [*arguments, *still]))
    # Adam makes much of the last digits, in which the runs differ.
    averages = []
    for count in (1, 2):
        state = load_checkpoint(tmp_path / f"run{count}" / "checkpoints" / "last.ckpt")
        saved = RetrievalModel.from_pretrained(tmp_path / f"run{count}").state_dict()
        assert all(torch.equal(saved[name], value) for name, value in state["average"].items())
        averages.append(torch.cat([value.flatten() for value in state["average"].values()]))
        last = torch.cat([state["weights"][f"model.{name}"].flatten() for name in state["average"]])
    assert (averages[0] - averages[1]).norm() < 0.1 * (averages[1] - last).norm()


def test_an_average_that_never_begins_is_refused(toy: Path) -> None:
    with pytest.raises(CrossAlignError, match="would never begin; lower the former"):
        load_recipe(toy, ["training.ema={start_epoch: 3}"])
