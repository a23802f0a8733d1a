"""Numbers beside the losses: gradients against autograd, counts over an epoch, logged alike after a resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crossalign.alignment.statistics import concept_counts, perplexity
from crossalign.encoding import Encoding
from crossalign.model import ModelConfig
from crossalign.objective import Objective, ObjectiveSettings
from crossalign.recipe import load_recipe
from crossalign.training.diagnostics import Diagnostics, gradient_norms
from crossalign.training.metrics import read_metrics
from crossalign.training.trainer import train

D, ROWS = 6, torch.tensor([0, 1, 1, 2])


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


def encodings() -> tuple[Encoding, Encoding]:
    """Leaves as locals and context; an embedding that depends on the context."""
    torch.manual_seed(0)
    made = []
    for count, length in ((3, 4), (4, 5)):
        context = leaf(count, length, D)
        mask = torch.ones(count, length, dtype=torch.bool)
        aux = {"guide": context.mean(dim=1), "keys": context.relu()}
        made.append(Encoding(context.sum(dim=1) * 0.5, leaf(count, length, D), context, mask, aux=aux))
    return made[0], made[1]


def objective() -> Objective:
    torch.manual_seed(1)
    settings = {"base": {"kind": "contrastive"}, "lca": {"concepts": 9, "symmetric": True}, "cra": {}}
    return Objective(ObjectiveSettings.model_validate(settings), ModelConfig(dim=D, context_head=True))


def terms_of(found: Objective, image: Encoding, text: Encoding) -> dict[str, torch.Tensor]:
    return found(image.embedding @ text.embedding.T, image, text, ROWS)


def test_gradient_norms_are_those_of_a_backward_pass_and_leave_none_behind() -> None:
    found = objective()
    image, text = encodings()
    terms = terms_of(found, image, text)
    numbers = gradient_norms(terms, image, text)
    assert set(numbers) == {
        "gradient_contrastive_embedding",
        "gradient_contrastive_context",
        "gradient_lca_locals",
        "gradient_cra_context",
    }
    assert image.context.grad is None
    assert all(parameter.grad is None for parameter in found.parameters())
    for name, place in (("contrastive", "context"), ("lca", "locals"), ("cra", "context")):
        image, text = encodings()
        terms_of(found, image, text)[name].backward()
        gradients = [getattr(encoding, place).grad.flatten() for encoding in (image, text)]
        expected = torch.cat(gradients).norm()
        torch.testing.assert_close(numbers[f"gradient_{name}_{place}"], expected)
    image, text = encodings()
    image.embedding.retain_grad()
    text.embedding.retain_grad()
    terms_of(found, image, text)["contrastive"].backward()
    expected = torch.cat([encoding.embedding.grad.flatten() for encoding in (image, text)]).norm()  # type: ignore[union-attr]
    torch.testing.assert_close(numbers["gradient_contrastive_embedding"], expected)


def test_the_backward_pass_afterwards_is_as_without() -> None:
    gradients = []
    for inspected in (False, True):
        found, (image, text) = objective(), encodings()
        terms = terms_of(found, image, text)
        if inspected:
            Diagnostics(found)(found, terms, image, text, ROWS)
        found.total(terms).backward()
        assert found.lca is not None
        gradients.append((image.context.grad, text.locals.grad, found.lca.codebook.grad))
    for one, two in zip(*gradients, strict=True):
        assert torch.equal(one, two)


def test_concepts_are_counted_over_an_epoch_and_anew_in_the_next() -> None:
    found, (image, text) = objective(), encodings()
    assert found.lca is not None
    diagnostics = Diagnostics(found)
    diagnostics.begin_epoch(0)
    terms = terms_of(found, image, text)
    codebook = found.lca.codebook.detach()
    regions, words = concept_counts(image.locals, codebook), concept_counts(text.locals, codebook)
    once = diagnostics(found, terms, image, text, ROWS)
    assert once["lca_region_perplexity"] == perplexity(regions)
    assert once["lca_word_perplexity"] == perplexity(words)
    assert once["lca_dead_concepts"] == sum(int(r + w == 0) for r, w in zip(regions, words, strict=True))
    diagnostics(found, terms, image, text, ROWS)
    diagnostics.begin_epoch(0)  # as after a checkpoint within the epoch
    assert torch.equal(diagnostics.regions, 2 * regions)
    diagnostics.begin_epoch(1)
    assert diagnostics.regions.sum() == diagnostics.words.sum() == 0


def test_without_alignments_there_are_gradients_only() -> None:
    settings = ObjectiveSettings.model_validate({"base": {"kind": "hinge"}})
    found, (image, text) = Objective(settings, ModelConfig(dim=D)), encodings()
    numbers = Diagnostics(found)(found, terms_of(found, image, text), image, text, ROWS)
    assert set(numbers) == {"gradient_hinge_embedding", "gradient_hinge_context"}


def events(toy: Path, folder: Path, *changes: str) -> list[dict[str, Any]]:
    train(load_recipe(toy, list(changes)), folder, progress=False)
    return [event for event in read_metrics(folder / "metrics.jsonl") if event["kind"] == "train"]


def test_a_run_logs_them_and_stays_the_same_run(toy: Path, tmp_path: Path) -> None:
    often, seldom = (events(toy, tmp_path / every, f"training.log_every={every}") for every in ("1", "4"))
    named = {
        "lca_target_entropy",
        "lca_region_perplexity",
        "lca_word_perplexity",
        "lca_dead_concepts",
        "cra_top1",
    }
    for event in often:
        assert named <= event.keys()
        assert 0 <= event["cra_top1"] <= 100
        assert 0 < event["lca_target_entropy"] <= min(event["lca"], math.log(12)) + 1e-4
        assert 1 <= event["lca_region_perplexity"] <= 12
        assert event["gradient_lca_locals"] > 0
    # How often they are measured changes neither terms nor gradients.
    by_step = {event["step"]: event for event in often}
    for event in seldom:
        for name in ("loss", "hinge", "lca", "cra", "gradient_norm", "gradient_cra_context", "cra_top1"):
            assert event[name] == by_step[event["step"]][name]


@pytest.mark.parametrize(
    "levers", ["{}", "{queue: 50, warm_start: true, caption_pairs: 0.5, symmetric: true}"]
)
def test_under_autocast_they_are_finite(toy: Path, tmp_path: Path, levers: str) -> None:
    for event in events(toy, tmp_path / "run", "training.precision=bf16", f"objective.lca={levers}"):
        assert all(math.isfinite(value) for value in event.values() if isinstance(value, float))


def test_a_run_of_fewer_steps_than_log_every_logs_its_last(toy: Path, tmp_path: Path) -> None:
    steps = events(toy, tmp_path / "often", "training.log_every=1")[-1]["step"]
    assert [event["step"] for event in events(toy, tmp_path / "never", "training.log_every=1000")] == [steps]
