"""Training: it learns, it resumes exactly, it survives kills, it stops clearly."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from safetensors.torch import load_file

from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
from crossalign.recipe import load_recipe
from crossalign.training import parts, trainer
from crossalign.training.checkpoint import load_checkpoint
from crossalign.training.guards import CollapseGuard
from crossalign.training.metrics import read_metrics
from crossalign.training.trainer import train
from interrupted_training import interrupted


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoints" / "last.ckpt")["weights"]


def assert_same_run(left: Path, right: Path) -> None:
    ours, theirs = final_weights(left), final_weights(right)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    one, two = (
        load_file(left / "model" / "model.safetensors"),
        load_file(right / "model" / "model.safetensors"),
    )
    assert all(torch.equal(one[name], two[name]) for name in one)

    def values(run: Path) -> list[dict[str, object]]:
        return read_metrics(run / "metrics.jsonl")

    assert values(left) == values(right)


@pytest.mark.parametrize("base", ["hinge", "contrastive"])
def test_training_learns_and_leaves_a_model(toy: Path, tmp_path: Path, base: str) -> None:
    recipe = load_recipe(toy, [f"objective.base={{kind: {base}}}", "training.epochs=25"])
    result = train(recipe, tmp_path / "run", progress=False)
    events = read_metrics(tmp_path / "run" / "metrics.jsonl")
    scores = [event["rsum"] for event in events if event["kind"] == "validation"]
    assert result.best_rsum == max(scores)
    # 10 images and about 20 captions: chance is near 10 + 50 + 100 percent each way.
    assert result.best_rsum > 400
    assert {"lca", "cra", base, "gradient_norm", "rate"} <= events[0].keys()
    model = RetrievalModel.from_pretrained(tmp_path / "run")
    assert model.encode_texts(["red round", "blue"]).shape == (2, 48)
    with pytest.raises(CrossAlignError, match="cannot encode raw photos"):
        model.encode_images(["x.jpg"])


def test_same_seed_same_weights_other_seed_other_weights(toy: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(load_recipe(toy, [f"seed={seed}"]), tmp_path / name, progress=False)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    a, c = final_weights(tmp_path / "a"), final_weights(tmp_path / "c")
    assert not torch.equal(a["objective.lca.codebook"], c["objective.lca.codebook"])


@pytest.mark.parametrize(
    "stop_at", [2, 8, *(pytest.param(at, marks=pytest.mark.long) for at in (1, 5, 7, 9, 11))]
)
def test_resumed_equals_uninterrupted_bit_for_bit(toy: Path, tmp_path: Path, stop_at: int) -> None:
    recipe = load_recipe(toy)
    train(recipe, tmp_path / "whole", progress=False)
    with interrupted(2 * stop_at, "check_finite"):
        train(recipe, tmp_path / "parts", progress=False)
    torch.manual_seed(999)  # whatever the process drew meanwhile
    train(recipe, tmp_path / "parts", resume="auto", progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


LEVERS = (
    "objective.lca.queue=70",
    "objective.lca.warm_start=true",
    "objective.lca={warm_start: true, frozen_codebook_epochs: 0}",
    "objective.lca={caption_pairs: 0.5, symmetric: true, queue: 30}",
    "objective.lca.correspondence=shuffled",
)


@pytest.mark.parametrize("lever", LEVERS)
@pytest.mark.parametrize(
    "steps", [3, *(pytest.param(steps, marks=pytest.mark.long) for steps in (1, 4, 5, 8))]
)
def test_levers_of_lca_resume_bit_for_bit_and_change_the_run(
    toy: Path, tmp_path: Path, lever: str, steps: int
) -> None:
    recipe = load_recipe(toy, [lever, "training.checkpoint_every=1"])
    train(recipe, tmp_path / "whole", progress=False)
    with interrupted(steps):
        train(recipe, tmp_path / "parts", progress=False)
    torch.manual_seed(999)
    train(recipe, tmp_path / "parts", resume="auto", progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    train(load_recipe(toy), tmp_path / "plain", progress=False)
    last, plain = (
        [
            event["lca"]
            for event in read_metrics(tmp_path / run / "metrics.jsonl")
            if event["kind"] == "train"
        ][-1]
        for run in ("whole", "plain")
    )
    assert last != plain


def test_a_finished_run_is_left_alone_and_never_overwritten(toy: Path, tmp_path: Path) -> None:
    recipe = load_recipe(toy)
    first = train(recipe, tmp_path / "run", progress=False)
    with pytest.raises(CrossAlignError, match="holds a run already"):
        train(recipe, tmp_path / "run", progress=False)
    assert train(recipe, tmp_path / "run", resume="auto", progress=False) == first
    other = load_recipe(toy, ["optimizer.learning_rate=0.1"])
    with pytest.raises(CrossAlignError, match=r"another recipe \(optimizer\.learning_rate\)"):
        train(other, tmp_path / "run", resume="auto", progress=False)


def test_kill_at_any_instant_leaves_a_loadable_checkpoint(toy: Path, tmp_path: Path) -> None:
    recipe = load_recipe(toy, ["training.epochs=20", "training.checkpoint_every=1"])
    train(recipe, tmp_path / "whole", progress=False)
    run = tmp_path / "killed"
    (tmp_path / "long.yaml").write_text(recipe.to_yaml())
    program = (
        "import sys; from crossalign.recipe import load_recipe; from crossalign.training.trainer import train;"
        "train(load_recipe(sys.argv[1]), sys.argv[2], resume='auto', progress=False)"
    )
    kills, seen = 0, False
    for delay in (0.0, 0.07, 0.19, 0.31):
        checkpoint = run / "checkpoints" / "last.ckpt"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "long.yaml"), str(run)],
            # As many threads as here: sums in another order are not equal to the bit.
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.005)
        time.sleep(delay)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        load_checkpoint(checkpoint)
        if seen or (run / "model").exists():
            RetrievalModel.from_pretrained(run)
            seen = True
    assert kills >= 2
    train(recipe, run, resume="auto", progress=False)
    assert_same_run(tmp_path / "whole", run)


class Killed(BaseException):
    """Stands for a kill: nothing in between catches it."""


@pytest.mark.parametrize("place", ["save_checkpoint", "promote_best"])
def test_a_kill_around_a_new_best_leaves_the_model_that_the_checkpoint_calls_best(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Epoch 2 is the best and the run dies as it is kept; run again, on a device not exact to the bit, it is not."""
    scores = iter([100.0, 200.0, 50.0, 60.0])
    monkeypatch.setattr(parts, "split_metrics", lambda *_: {"rsum": next(scores)})
    kept = getattr(trainer, place)
    calls = []

    def killed(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise Killed
        kept(*arguments)

    recipe = load_recipe(toy, ["training.checkpoint_every=1000"])
    with monkeypatch.context() as patch:
        patch.setattr(trainer, place, killed)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "run", progress=False)
    before = RetrievalModel.from_pretrained(tmp_path / "run").fingerprint
    result = train(recipe, tmp_path / "run", resume="auto", progress=False)
    after = RetrievalModel.from_pretrained(tmp_path / "run").fingerprint
    if place == "save_checkpoint":
        # The checkpoint knows of epoch 1 alone.
        assert (result.best_rsum, result.best_epoch) == (100.0, 1)
        assert after == before
    else:
        assert (result.best_rsum, result.best_epoch) == (200.0, 2)
        assert after != before
    assert not list((tmp_path / "run" / "checkpoints").glob("best-*"))


def half_precision(scale: float) -> Fabric:
    """What a GPU with float16 has, on the CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))


def test_steps_that_overflow_float16_are_left_out_and_resumed_exactly(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "build_fabric", lambda settings, processes: half_precision(2.0**13))
    recipe = load_recipe(toy, ["training.checkpoint_every=1"])
    train(recipe, tmp_path / "whole", progress=False)
    steps = [
        event for event in read_metrics(tmp_path / "whole" / "metrics.jsonl") if event["kind"] == "train"
    ]
    lost = [event for event in steps if event["gradient_norm"] is None]
    assert 0 < len(lost) < len(steps) / 2
    # The schedule waits for the steps that were left out.
    for step, following in itertools.pairwise(steps):
        assert (step["rate"] == following["rate"]) == (step in lost)

    class Stop(CollapseGuard):
        def check(self, collapsed: bool, step: int) -> None:
            if step == len(steps) - 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "CollapseGuard", Stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "parts", progress=False)
    train(recipe, tmp_path / "parts", resume="auto", progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_gradient_that_overflows_at_every_scale_stops(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "build_fabric", lambda settings, processes: half_precision(2.0**100))
    recipe = load_recipe(toy, ["training.epochs=20"])
    with pytest.raises(CrossAlignError, match=r"step 31: the gradient is not finite"):
        train(recipe, tmp_path / "run", progress=False)


def test_the_logged_rate_is_the_one_the_step_took(toy: Path, tmp_path: Path) -> None:
    train(load_recipe(toy, ["optimizer.warmup_steps=3"]), tmp_path / "run", progress=False)
    events = [event for event in read_metrics(tmp_path / "run" / "metrics.jsonl") if event["kind"] == "train"]
    rates = [event["rate"] for event in events[:4]]
    assert rates == sorted(rates)
    assert rates[0] < 0.005 / 2
    assert events[-1]["rate"] > 0


def test_a_loss_that_is_not_finite_stops_with_step_term_and_captions(toy: Path, tmp_path: Path) -> None:
    store = tmp_path / "toy" / "features" / "toy" / "features.bin"
    values = bytearray(store.read_bytes())
    values[:4] = b"\x00\x00\xc0\x7f"  # the first image's first number becomes NaN
    store.write_bytes(bytes(values))
    recipe = load_recipe(toy, ["model.image.region_dropout=0", "model.image.encoder.dropout=0"])
    with pytest.raises(
        CrossAlignError, match=r"step \d+: loss term '\w+' is not finite .*captions of the batch: c"
    ):
        train(recipe, tmp_path / "run", progress=False)


@pytest.mark.parametrize("there", [False, True])
def test_an_error_at_the_first_step_leaves_no_run(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    run = tmp_path / "run"
    if there:
        run.mkdir()

    def fails_at(step: int) -> None:
        def check(terms: object, norm: object, at: int, batch: object) -> None:
            if at == step:
                raise CrossAlignError(f"step {step} is bad")

        monkeypatch.setattr(trainer, "check_finite", check)

    fails_at(1)
    with pytest.raises(CrossAlignError, match="step 1 is bad"):
        train(load_recipe(toy, ["model.dim=24"]), run, progress=False)
    assert not run.exists() or not list(run.iterdir())
    # So another recipe may be trained there. What comes later is kept, for a look at the log.
    fails_at(3)
    recipe = load_recipe(toy, ["training.log_every=1"])
    with pytest.raises(CrossAlignError, match="step 3 is bad"):
        train(recipe, run, progress=False)
    assert len(read_metrics(run / "metrics.jsonl")) == 2
    with pytest.raises(CrossAlignError, match="holds a run already"):
        train(recipe, run, progress=False)


def test_a_collapsed_hinge_stops_with_the_remedy(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["objective={base: {summed_epochs: 0}, lca: null, cra: null}", "model.context_head=false"]
    recipe = load_recipe(toy, [*settings, "training.epochs=60", "optimizer.learning_rate=1e-12"])

    def constant(self, tokens, mask):  # type: ignore[no-untyped-def]
        encoding = real(self, tokens, mask)
        return type(encoding)(encoding.embedding * 0, encoding.locals, encoding.context, encoding.mask)

    from crossalign.encoders.words import GRUEncoder

    real = GRUEncoder.forward
    monkeypatch.setattr(GRUEncoder, "forward", constant)
    with pytest.raises(CrossAlignError, match="all embeddings have become one point"):
        train(recipe, tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train=training", "training"),
        ("data.image_features=[nothing]", "no FeatureStore 'nothing'"),
        ("training.batch_size=5000", "do not fill one batch"),
        ("model.context_head=false", "needs model.context_head"),
        ("data.image_features=[]", "give the recipe data.image_features"),
        ("training.precision=fp16", "fp16 needs a GPU"),
        ("model.image.train_backbone=true", "exclude each other"),
    ],
)
def test_bad_settings_stop_before_training_with_one_line(
    toy: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(CrossAlignError, match=message) as caught:
        train(load_recipe(toy, [override]), tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_bf16_autocast_trains(toy: Path, tmp_path: Path) -> None:
    recipe = load_recipe(toy, ["training.precision=bf16", "training.epochs=10"])
    assert train(recipe, tmp_path / "run", progress=False).best_rsum > 300


@pytest.mark.parametrize("kind", ["vsrn", "camera"])
def test_other_encoders_train_with_their_own_losses_and_selfalign(
    toy: Path, tmp_path: Path, kind: str
) -> None:
    settings = {
        "vsrn": [
            "model.image.encoder={kind: vsrn, layers: 2}",
            "objective.captioning={hidden: 8, word_dim: 4}",
        ],
        "camera": [
            "model.image.encoder={kind: camera, heads: 2, views: 3, channels: 4, positions: false}",
            "objective.diversity={}",
        ],
    }
    recipe = load_recipe(toy, [*settings[kind], "training.epochs=25"])
    result = train(recipe, tmp_path / "run", progress=False)
    assert result.best_rsum > 300
    steps = [event for event in read_metrics(tmp_path / "run" / "metrics.jsonl") if event["kind"] == "train"]
    own = {"vsrn": "captioning", "camera": "diversity"}[kind]
    assert steps[-1][own] < steps[0][own]
    model = RetrievalModel.from_pretrained(tmp_path / "run")
    assert model.config.image.encoder.kind == kind


def test_a_cut_metrics_line_is_dropped_on_reading(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"kind": "train", "step": 1}) + '\n{"kind": "tr')
    assert read_metrics(path) == [{"kind": "train", "step": 1}]
