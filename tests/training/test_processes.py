"""Several processes train what one process trains."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from one_step import one_step
from torch import Tensor

from crossalign.data.collection import Collection
from crossalign.data.features import FeatureWriter
from crossalign.processes import ALONE, Processes
from crossalign.training.metrics import read_metrics

# Without drawing: what is dropped differs between processes.
STILL = [
    "model.image.region_dropout=0",
    "model.image.encoder.dropout=0",
    "model.text.word_dropout=0",
    "model.text.word_masking=0",
]
# Uni-modal embeddings are made of the others.
WHOLE_GRAPH = {"gradient_usa_embedding"}
CAMERA = "{kind: camera, heads: 2, views: 3, channels: 4, positions: false}"
TEACHERS = "data.teachers={images: teacher-images, texts: teacher-texts}"
OBJECTIVES = {
    "soft labels": [
        *STILL,
        "objective.base={kind: contrastive}",
        TEACHERS,
        "objective.csa={}",
        "objective.usa={}",
        "model.uni_modal_head={}",
    ],
    "hinge, LCA, CRA": STILL,
    "hinge over all negatives, queue": [*STILL, "objective.base.summed_epochs=9", "objective.lca.queue=40"],
    "InfoNCE, caption pairs, Matryoshka": [
        *STILL,
        "objective.base={kind: contrastive, learnable_temperature: true}",
        "objective.lca.caption_pairs=0.5",
        "objective.matryoshka={}",
    ],
    "CAMERA": [*STILL[:1], *STILL[2:], f"model.image.encoder={CAMERA}", "objective.diversity={}"],
    "VSRN": [
        *STILL[:1],
        *STILL[2:],
        "model.image.encoder={kind: vsrn, layers: 2}",
        "objective.captioning={hidden: 8, word_dim: 6, dropout: 0}",
    ],
    "SGRAF": [
        *STILL,
        "model.context_head=false",
        "objective.cra=null",
        "model.scorer={kind: sgraf, similarity_dim: 8, steps: 2, regions: 5, dropout: 0}",
    ],
}


@pytest.fixture(autouse=True)
def teachers(toy: Path) -> None:
    """Vectors of made-up teachers beside the toy collection's features."""
    collection = Collection.load(toy.parent / "toy")
    random = np.random.default_rng(1)
    for kind, ids in (
        ("image", [image.id for image in collection.images]),
        ("text", list(collection.split("train").caption_ids)),
    ):
        with FeatureWriter(
            collection.folder / "features" / f"teacher-{kind}s",
            ids=ids,
            dim=7,
            units=1,
            dtype="float32",
            manifest={"kind": kind, "source": "teacher"},
            boxes=False,
        ) as writer:
            writer.append([random.normal(size=(1, 7)).astype(np.float32) for _ in ids])
            writer.finish()


def launch(count: int, arguments: list[str]) -> list[subprocess.Popen[str]]:
    """Processes as ``torchrun`` would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finished(processes: list[subprocess.Popen[str]]) -> tuple[list[str], list[str]]:
    """What they printed and their messages; all of them have to end well."""
    outputs, messages = zip(*(process.communicate(timeout=120) for process in processes), strict=True)
    assert [process.returncode for process in processes] == [0] * len(processes), messages
    return list(outputs), list(messages)


def trained(processes: list[subprocess.Popen[str]]) -> list[str]:
    """The messages of a training, of which the first process alone tells what came out."""
    outputs, messages = finished(processes)
    assert [output.count("best validation R@sum") for output in outputs] == [1] + [0] * (len(processes) - 1)
    return messages


def assert_same_step(
    found: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]], name: str
) -> None:
    """Equal terms, parameters' gradients and buffers.

    Gradients that reach a place through another one are told only where both hang together.
    """
    for kind, values in expected.items():
        wanted = {
            key for key in values if key not in WHOLE_GRAPH and not re.fullmatch("gradient_.*_context", key)
        }
        assert wanted <= found[kind].keys() <= values.keys(), f"{name}: {kind}"
        for key in wanted:
            torch.testing.assert_close(
                found[kind][key],
                values[key],
                rtol=1e-7,
                atol=1e-7,
                msg=lambda text, key=key: f"{name}: {key}: {text}",
            )


def test_two_processes_have_the_loss_and_the_gradients_of_one(toy: Path, tmp_path: Path) -> None:
    # Seventeen pairs: the shares differ.
    cases: dict[str, tuple[list[str], int | None]] = {
        name: ([*overrides, "training.batch_size=17"], None) for name, overrides in OBJECTIVES.items()
    }
    # One of the processes may have more parts than the other.
    for name in ("InfoNCE, caption pairs, Matryoshka", "SGRAF", "soft labels"):
        overrides = [*cases[name][0], "objective.cra=null", "model.context_head=false"]
        cases[f"{name}, in parts"] = (overrides, 4)
    script = str(Path(__file__).with_name("one_step.py"))
    finished(launch(2, [script, str(toy), str(tmp_path), json.dumps(cases)]))
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, (overrides, _) in cases.items():
        alone = one_step(str(toy), overrides)
        for rank in range(2):
            assert_same_step(found[rank][name], alone, name)


@pytest.mark.parametrize(
    "name", ["hinge, LCA, CRA", "InfoNCE, caption pairs, Matryoshka", "SGRAF", "soft labels"]
)
@pytest.mark.parametrize("size", [1, 5, 16])
def test_cached_gradients_are_those_of_the_plain_step(toy: Path, name: str, size: int) -> None:
    # Batch normalisation in the context head sees a part only: without the head all is exact.
    overrides = [*OBJECTIVES[name], "objective.cra=null", "model.context_head=false"]
    plain, cached = one_step(str(toy), overrides), one_step(str(toy), overrides, mini_batch=size)
    assert_same_step(cached, plain, name)


def test_dropout_draws_the_same_in_both_passes_of_cached_gradients(toy: Path) -> None:
    overrides = ["objective.cra=null", "model.context_head=false"]
    # One part: the first pass draws what the plain step draws, and so has to be the second.
    plain, cached = one_step(str(toy), overrides), one_step(str(toy), overrides, mini_batch=15)
    again = one_step(str(toy), overrides, mini_batch=15)
    assert plain["terms"]["hinge"] != cached["terms"]["hinge"]
    for key, value in cached["gradients"].items():
        assert torch.equal(value, again["gradients"][key])


def test_shares_cover_everything_once() -> None:
    for items in range(9):
        for count in range(1, 5):
            taken = [
                index for rank in range(count) for index in range(items)[Processes(rank, count).share(items)]
            ]
            assert taken == list(range(items))


def test_alone_nothing_is_changed() -> None:
    tensor = torch.randn(3, 2, requires_grad=True)
    assert ALONE.gather(tensor) is tensor
    assert ALONE.collect("a") == ["a"]
    assert ALONE.agree(lambda: 7) == 7


def train(toy: Path, run: Path, *more: str) -> list[str]:
    return ["-m", "crossalign", "train", str(toy), "--out", str(run), "--set", "training.epochs=2", *more]


def test_training_in_two_processes_writes_one_run_and_resumes_bit_for_bit(toy: Path, tmp_path: Path) -> None:
    # In parts, with batch normalisation in the context head.
    parts = ("--set", "training.mini_batch_size=5")
    trained(launch(2, train(toy, tmp_path / "whole", *parts)))
    events = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    steps = [event["step"] for event in events if event["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))

    stopped = launch(2, train(toy, tmp_path / "cut", *parts))
    checkpoint = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 90
    while not checkpoint.exists():
        assert time.monotonic() < deadline
        assert stopped[0].poll() is None
        time.sleep(0.02)
    stopped[1].send_signal(signal.SIGKILL)
    message = stopped[0].communicate(timeout=120)[1]
    assert stopped[0].returncode == 1
    assert "another process of this training has ended" in message
    assert "--resume auto" in message
    assert "Traceback" not in message
    trained(launch(2, train(toy, tmp_path / "cut", *parts, "--resume", "auto")))
    same = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert same[0] == same[1]


@pytest.mark.long
def test_a_run_goes_on_in_another_number_of_processes(toy: Path, tmp_path: Path) -> None:
    still = [argument for override in STILL for argument in ("--set", override)]
    trained(launch(1, train(toy, tmp_path / "one", *still)))
    trained(launch(2, train(toy, tmp_path / "two", *still)))
    one, two = (
        [
            event["loss"]
            for event in read_metrics(tmp_path / run / "metrics.jsonl")
            if event["kind"] == "train"
        ]
        for run in ("one", "two")
    )
    assert two == pytest.approx(one, rel=2e-3)
    # A finished run is finished for every number of processes, and nobody waits for anybody.
    told = []
    for message in trained(launch(3, train(toy, tmp_path / "two", *still, "--resume", "auto"))):
        assert "Traceback" not in message
        told.append("was finished already" in message)
    assert told == [True, False, False]


def test_an_error_of_the_first_process_ends_all(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "photo.jpg").write_text("")
    processes = launch(2, train(toy, tmp_path / "run"))
    for process in processes:
        message = process.communicate(timeout=120)[1]
        assert process.returncode == 1
        assert "choose another folder" in message
        assert "Traceback" not in message


@pytest.mark.parametrize(
    ("count", "settings", "told"),
    [
        (3, ["training.batch_size=2"], "training.batch_size is 2 and 3 processes share a batch"),
        (
            2,
            ["training.batch_size=2", "data.epoch=images", "data.captions_per_image=2"],
            "a batch has fewer images than there are processes (2)",
        ),
    ],
)
def test_less_than_an_image_for_a_process_is_refused(
    toy: Path, tmp_path: Path, count: int, settings: list[str], told: str
) -> None:
    changes = [part for setting in settings for part in ("--set", setting)]
    processes = launch(count, train(toy, tmp_path / "run", *changes))
    messages = [process.communicate(timeout=120)[1] for process in processes]
    assert {process.returncode for process in processes} == {1}
    assert any(told in message for message in messages)
