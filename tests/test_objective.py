"""The objective: its terms are the losses on the towers' output, its schedule and its weights do what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.alignment import LocalConceptAlignment, global_to_local_nce, lca_loss
from crossalign.data.batch import ImageInputs, TextInputs
from crossalign.encoders.words import WordTokenizer
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.losses import ContrastiveLoss, HingeRankingLoss, diversity_loss
from crossalign.model import ModelConfig, RetrievalModel
from crossalign.objective import Objective, ObjectiveSettings

DIM = 8
TEXTS = ["a red square", "blue", "a big green circle on the left", "red circle", "two blue stars"]
# Texts 1 and 3 describe the same image.
ROWS = torch.tensor([2, 1, 0, 1, 3])


def encodings(views: int | None = None) -> tuple[Encoding, Encoding]:
    """Both towers' output on five texts and their four images; some regions and words are padding."""
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "dim": DIM,
            "context_head": True,
            "image": {"feature_dim": 6, "encoder": {"pooling": "mean"}},
            "text": {"encoder": {"kind": "gru", "word_dim": 5, "min_count": 1, "pooling": "mean"}},
        }
    )
    model = RetrievalModel(config, tokenizer=WordTokenizer.build(TEXTS, min_count=1))
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    image = model.image_tower(ImageInputs(features=torch.randn(4, 3, 6), mask=mask))
    if views is not None:
        image = Encoding(
            embedding=torch.randn(4, views, 3 * DIM),
            locals=image.locals,
            context=image.context,
            mask=image.mask,
            aux=image.aux,
        )
    return image, model.text_tower(model.text_inputs(TEXTS))


def build(**settings: Any) -> Objective:
    torch.manual_seed(1)
    return Objective(ObjectiveSettings.model_validate(settings), ModelConfig(dim=DIM, context_head=True))


def clone(encoding: Encoding, **changes: Any) -> Encoding:
    names = ("embedding", "locals", "context", "mask", "unimodal", "aux")
    return Encoding(**{name: changes.get(name, getattr(encoding, name)) for name in names})


def repeated(image: Encoding) -> Encoding:
    """The image of each text."""
    return clone(
        image,
        embedding=image.embedding[ROWS],
        locals=image.locals[ROWS],
        context=image.context[ROWS],
        mask=image.mask[ROWS],
        aux={name: value[ROWS] for name, value in image.aux.items()},
    )


def terms_of(
    objective: Objective, image: Encoding, text: Encoding, rows: Tensor, captions: TextInputs | None = None
) -> dict[str, Tensor]:
    """The terms with the scores of a model that compares embeddings."""
    return objective(RetrievalModel.similarity(image.embedding, text.embedding), image, text, rows, captions)


def test_terms_are_the_losses_on_the_enriched_embeddings() -> None:
    image, text = encodings()
    objective = build(
        base={"kind": "hinge", "margin": 0.3, "summed_epochs": 0},
        lca={"concepts": 7, "word_temperature": 0.2, "epsilon": 0.1, "sinkhorn_iterations": 3},
        cra={"temperature": 0.5, "hard_negatives": 4},
    )
    terms = terms_of(objective, image, text, ROWS)
    assert list(terms) == ["hinge", "lca", "cra"]
    once, image = image, repeated(image)

    # The enriched similarity, put together from its three parts.
    (base_v, key_v, fused_v), (base_t, fused_t, key_t) = (
        e.embedding.split(DIM, dim=1) for e in (image, text)
    )
    mean_v = (image.aux["keys"] * image.mask[..., None]).sum(1) / image.mask.sum(1, keepdim=True)
    torch.testing.assert_close(key_v, 0.5 * mean_v)
    scores = base_v @ base_t.T + key_v @ fused_t.T + fused_v @ key_t.T
    torch.testing.assert_close(terms["hinge"], HingeRankingLoss(0.3, "hardest")(scores, ROWS))
    assert not torch.isclose(terms["hinge"], HingeRankingLoss(0.3, "hardest")(base_v @ base_t.T, ROWS))

    assert objective.lca is not None
    codebook = F.normalize(objective.lca.codebook, dim=1)
    expected = lca_loss(
        once.locals,
        text.locals,
        codebook,
        once.mask,
        text.mask,
        word_temperature=0.2,
        epsilon=0.1,
        sinkhorn_iterations=3,
        image_rows=ROWS,
    )
    torch.testing.assert_close(terms["lca"], expected)

    rows = torch.arange(4)
    one = global_to_local_nce(text.aux["guide"], once.aux["keys"], once.mask, 0.5, 4, ROWS, rows)
    two = global_to_local_nce(once.aux["guide"], text.aux["keys"], text.mask, 0.5, 4, rows, ROWS)
    torch.testing.assert_close(terms["cra"], (one + two) / 2)


@pytest.mark.parametrize("reduction", ["standard", "paper"])
def test_the_contrastive_base_takes_the_scores_as_they_are(reduction: str) -> None:
    image, text = encodings()
    objective = build(base={"kind": "contrastive", "temperature": 0.08, "reduction": reduction})
    terms = terms_of(objective, image, text, ROWS)
    assert list(terms) == ["contrastive"]
    image = repeated(image)
    scores = image.embedding @ text.embedding.T
    same = (ROWS[:, None] == ROWS).float()
    targets = same / same.sum(1, keepdim=True)
    expected = sum(F.cross_entropy(logits / 0.08, targets) for logits in (scores, scores.T)) / 2
    torch.testing.assert_close(terms["contrastive"], expected / (len(ROWS) if reduction == "paper" else 1))
    # Not by cosine: the enriched embeddings are not of unit norm.
    by_cosine = ContrastiveLoss(0.08, learnable=False)(image.embedding, text.embedding, ROWS)
    assert not torch.isclose(ContrastiveLoss(0.08, learnable=False).from_scores(scores, ROWS), by_cosine)


def test_only_the_terms_asked_for_are_there_and_weights_add_them_up() -> None:
    image, text = encodings()
    objective = build(
        base={"kind": "contrastive", "weight": 0.5}, lca={"concepts": 5, "weight": 0.25}, cra={"weight": 3}
    )
    assert objective.weights == {"contrastive": 0.5, "lca": 0.25, "cra": 3.0}
    terms = terms_of(objective, image, text, ROWS)
    expected = 0.5 * terms["contrastive"] + 0.25 * terms["lca"] + 3 * terms["cra"]
    torch.testing.assert_close(objective.total(terms), expected)
    assert not torch.isclose(objective.total(terms), sum(terms.values()))
    assert build().weights == {"hinge": 1.0}
    assert list(terms_of(build(cra={}), image, text, ROWS)) == ["hinge", "cra"]


def test_a_term_of_weight_zero_moves_nothing() -> None:
    image, text = encodings()
    objective = build(lca={"concepts": 5, "weight": 0.0, "frozen_codebook_epochs": 0})
    objective.total(terms_of(objective, image, text, ROWS)).backward()
    assert objective.lca is not None
    assert objective.lca.codebook.grad is not None
    assert not objective.lca.codebook.grad.any()


def test_the_total_of_half_precision_terms_is_float32() -> None:
    objective = build(lca={"concepts": 5})
    terms = {"hinge": torch.tensor(1.0, dtype=torch.bfloat16), "lca": torch.tensor(2**-9)}
    assert objective.total(terms).item() == 1.0 + 2**-9


def test_pairs_of_one_image_are_never_negatives() -> None:
    """What the two pairs of one image score against each other has no influence on any ranking term."""
    image, text = encodings()
    for base in ({"kind": "hinge", "summed_epochs": 1}, {"kind": "hinge", "summed_epochs": 0}):
        objective = build(base=base, cra={"hard_negatives": None})
        # The words of pair 1 become just those that pair 3's image (the same one) would find hardest.
        keys, embedding = text.aux["keys"].detach().clone(), text.embedding.detach().clone()
        keys[1] = image.aux["guide"][ROWS[3]].detach()
        embedding[1] = 10 * image.embedding[ROWS[3]].detach()
        spoilt = clone(text, embedding=embedding, aux={**text.aux, "keys": keys})
        with_ids = terms_of(objective, image, spoilt, ROWS)
        without = terms_of(objective, repeated(image), spoilt, torch.arange(len(ROWS)))
        assert with_ids["cra"] < without["cra"] - 1e-3
        assert with_ids["hinge"] < without["hinge"] - 1e-3
        scores = repeated(image).embedding @ embedding.T
        texts, images = torch.zeros(5), torch.zeros(5)
        for i in range(5):
            costs = [(0.2 + scores[i, j] - scores[i, i]).relu() for j in range(5) if ROWS[i] != ROWS[j]]
            texts[i] = sum(costs) if base["summed_epochs"] else max(costs)
            costs = [(0.2 + scores[j, i] - scores[i, i]).relu() for j in range(5) if ROWS[i] != ROWS[j]]
            images[i] = sum(costs) if base["summed_epochs"] else max(costs)
        expected = texts.sum() + images.sum()
        torch.testing.assert_close(with_ids["hinge"], expected)


def test_epochs_switch_the_negatives() -> None:
    image, text = encodings()
    scores = repeated(image).embedding @ text.embedding.T
    summed, hardest = (HingeRankingLoss(0.2, kind)(scores, ROWS) for kind in ("all", "hardest"))
    assert summed > hardest
    objective = build(base={"kind": "hinge", "summed_epochs": 2})
    for epoch, expected in ((0, summed), (1, summed), (2, hardest), (5, hardest), (1, summed)):
        objective.begin_epoch(epoch)
        torch.testing.assert_close(terms_of(objective, image, text, ROWS)["hinge"], expected)
    never = build(base={"kind": "hinge", "summed_epochs": 0})
    torch.testing.assert_close(terms_of(never, image, text, ROWS)["hinge"], hardest)


def test_epochs_freeze_the_codebook_and_nothing_else() -> None:
    image, text = encodings()
    objective = build(
        base={"kind": "contrastive", "learnable_temperature": True},
        lca={"concepts": 5, "frozen_codebook_epochs": 2},
    )
    assert objective.lca is not None
    for epoch, frozen in ((0, True), (1, True), (2, False), (3, False)):
        objective.zero_grad(set_to_none=True)
        objective.begin_epoch(epoch)
        objective.total(terms_of(objective, image, text, ROWS)).backward(retain_graph=True)
        assert (objective.lca.codebook.grad is None) == frozen
        assert objective.base.temperature.grad is not None
    at_once = build(lca={"concepts": 5, "frozen_codebook_epochs": 0})
    at_once.begin_epoch(0)
    assert at_once.lca is not None
    assert at_once.lca.codebook.requires_grad


def test_the_temperature_trains_only_where_asked() -> None:
    fixed, learnt = (build(base={"kind": "contrastive", "learnable_temperature": on}) for on in (False, True))
    assert [p.requires_grad for p in fixed.parameters()] == [False]
    assert [p.requires_grad for p in learnt.parameters()] == [True]


def test_every_setting_of_lca_reaches_it() -> None:
    objective = build(
        lca={
            "concepts": 3,
            "word_temperature": 0.7,
            "epsilon": 0.9,
            "sinkhorn_iterations": 4,
            "symmetric": True,
        }
    )
    lca = objective.lca
    assert isinstance(lca, LocalConceptAlignment)
    assert lca.codebook.shape == (3, DIM)
    settings = (lca.word_temperature, lca.epsilon, lca.sinkhorn_iterations, lca.symmetric)
    assert settings == (0.7, 0.9, 4, True)


def test_lca_compares_the_units_asked_for() -> None:
    image, text = encodings()
    for units in ("locals", "context"):
        objective = build(lca={"concepts": 5, "units": units}).eval()
        assert objective.lca is not None
        sides = [getattr(encoding, units) for encoding in (image, text)]
        expected = lca_loss(
            *(F.normalize(side, dim=-1) for side in sides),
            objective.lca.codebook,
            image.mask,
            text.mask,
            image_rows=ROWS,
        )
        torch.testing.assert_close(terms_of(objective, image, text, ROWS)["lca"], expected)


def test_cra_without_context_heads_is_refused() -> None:
    settings = ObjectiveSettings.model_validate({"cra": {}})
    with pytest.raises(CrossAlignError, match=r"objective\.cra needs model\.context_head: true"):
        Objective(settings, ModelConfig(dim=DIM))
    Objective(ObjectiveSettings.model_validate({"lca": {}}), ModelConfig(dim=DIM))


def test_cameras_diversity_and_vsrns_captions_are_terms() -> None:
    image, text = encodings()
    logits = torch.randn(4, 3, 2)
    image = clone(image, aux={**image.aux, "summary_logits": logits})
    torch.manual_seed(1)
    objective = Objective(
        ObjectiveSettings.model_validate({"diversity": {"reduction": "mean"}, "captioning": {"hidden": 6}}),
        ModelConfig.model_validate({"dim": DIM, "image": {"encoder": {"kind": "camera"}}}),
        vocabulary=9,
    ).eval()
    captions = TextInputs(mask=torch.ones(5, 3, dtype=torch.bool), tokens=torch.arange(15).view(5, 3) % 9)
    terms = terms_of(objective, image, text, ROWS, captions)
    assert list(terms) == ["hinge", "diversity", "captioning"]
    assert objective.weights == {"hinge": 1.0, "diversity": 0.01, "captioning": 1.0}
    assert torch.equal(terms["diversity"], diversity_loss(logits, image.mask).mean())
    assert objective.captioning is not None
    assert captions.tokens is not None
    whole = repeated(image)
    expected = objective.captioning(whole.context, whole.mask, captions.tokens, captions.mask)
    torch.testing.assert_close(terms["captioning"], expected)


@pytest.mark.parametrize(("term", "needs"), [("diversity", "kind: camera"), ("captioning", "kind: gru")])
def test_terms_of_other_models_are_refused(term: str, needs: str) -> None:
    with pytest.raises(CrossAlignError, match=rf"objective\.{term} needs .*{needs}"):
        Objective(ObjectiveSettings.model_validate({term: {}}), ModelConfig(dim=DIM))
