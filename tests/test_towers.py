"""Towers: every configuration against plain loops, padding without influence, dropout, and what trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.data.batch import ImageInputs, TextInputs
from crossalign.encoders.camera import CAMERAImageEncoder, CAMERATextEncoder
from crossalign.encoders.hf import TextBackbone, TextBackboneConfig
from crossalign.encoders.unit_dropout import drop_units, replace_tokens
from crossalign.encoders.vsrn import VSRNEncoder
from crossalign.encoders.words import WordTokenizer
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.objective import Objective, ObjectiveSettings
from crossalign.towers import (
    ImageTower,
    ImageTowerConfig,
    ModelConfig,
    PooledSettings,
    TextTower,
    TextTowerConfig,
)
from tiny_bert import SPECIAL, write_bert

T = TypeVar("T", bound=nn.Module)

DIM = 6
LENGTHS = [4, 1, 3, 2, 4]
MASK = torch.arange(4) < torch.tensor(LENGTHS)[:, None]
TEXTS = ["a red square", "blue", "a big green circle left", "two stars", "red"]
PROJECTIONS = ["linear", "mlp", "pooled_mlp"]
POOLINGS = ["mean", "max", "gpo"]
BACKBONE: dict[str, Any] = {
    "name": "test_byobnet",
    "layer": 1,
    "grid": 2,
    "input": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


def image_tower(context_head: bool = True, **changes: Any) -> ImageTower:
    torch.manual_seed(0)
    pooled = {name: changes.pop(name) for name in PooledSettings.model_fields if name in changes}
    values = {"feature_dim": None if "backbones" in changes else 5, "encoder": pooled, **changes}
    tower = ImageTower(ImageTowerConfig.model_validate(values), DIM, context_head)
    return disturb(tower)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"), TEXTS)


@pytest.fixture
def text_tower(bert: Path) -> Callable[..., TextTower]:
    """A factory: ``text_tower("gru" or "pooled", tower=..., **encoder settings)``."""

    def make(
        kind: str, context_head: bool = True, tower: dict[str, Any] | None = None, **encoder: Any
    ) -> TextTower:
        torch.manual_seed(0)
        config = TextTowerConfig.model_validate({"encoder": {"kind": kind, **encoder}, **(tower or {})})
        if kind == "gru":
            made = TextTower(config, DIM, context_head, tokenizer=WordTokenizer.build(TEXTS, min_count=1))
        else:
            backbone = TextBackbone(TextBackboneConfig(name=str(bert)))
            made = TextTower(config, DIM, context_head, backbone=backbone)
        return disturb(made)

    return make


def disturb(tower: T) -> T:
    """Biases and running statistics away from their start, so that nothing is zero by chance."""
    with torch.no_grad():
        for name, value in tower.named_parameters():
            if value.dim() == 1 and "backbone" not in name:
                value.uniform_(-0.5, 0.5)
        for name, value in tower.named_buffers():
            if "running" in name and "backbone" not in name:
                value.uniform_(0.2, 1.0)
    return tower


def features(seed: int = 3) -> Tensor:
    return torch.randn(len(LENGTHS), 4, 5, generator=torch.Generator().manual_seed(seed))


def padded_with(values: Tensor, mask: Tensor, garbage: float) -> Tensor:
    return values.masked_fill(~mask.unsqueeze(-1), garbage)


def assert_same_encoding(one: Encoding, two: Encoding) -> None:
    """Equal wherever a unit is real; ``two`` may be padded further."""
    mask = one.mask
    width = mask.shape[1]
    assert torch.equal(mask, two.mask[:, :width])
    assert not two.mask[:, width:].any()
    torch.testing.assert_close(one.embedding, two.embedding, atol=1e-5, rtol=1e-4)
    for name in ("locals", "context"):
        torch.testing.assert_close(
            getattr(one, name)[mask], getattr(two, name)[:, :width][mask], atol=1e-5, rtol=1e-4
        )
    assert one.aux.keys() == two.aux.keys()
    if one.aux:
        torch.testing.assert_close(one.aux["guide"], two.aux["guide"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.aux["keys"], two.aux["keys"][:, :width], atol=1e-5, rtol=1e-4)


# ---- the unit encoder, item by item


def pooled_by_hand(encoder: nn.Module, pooling: str, units: Tensor) -> Tensor:
    """One item's real units ``(n, D)`` to ``(D,)``."""
    if pooling == "mean":
        return torch.stack(list(units)).sum(0) / len(units)
    if pooling == "max":
        return torch.stack([column.max() for column in units.T])
    weights = encoder.pooling.weights(torch.tensor([len(units)]), len(units))[0]
    return sum(
        weight * row for weight, row in zip(weights, units.sort(dim=0, descending=True).values, strict=True)
    )


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_regions_become_vectors_as_told(
    projection: str, pooling: str, normalize: bool, activation: str
) -> None:
    settings = {"projection": projection, "pooling": pooling, "activation": activation}
    tower = image_tower(context_head=False, hidden=7, normalize_input=normalize, **settings).eval()
    activate = F.gelu if activation == "gelu" else F.relu
    encoding = tower(ImageInputs(features=padded_with(features(), MASK, 50.0), mask=MASK))
    encoder = tower.encoder
    assert encoding.embedding.shape == (len(LENGTHS), DIM)
    if projection != "linear":
        assert encoder.perceptron[0].out_features == 7
    for item, length in enumerate(LENGTHS):
        units = features()[item, :length]
        if normalize:
            units = torch.stack([(u - u.mean()) / (u.var(unbiased=False) + 1e-5).sqrt() for u in units])
        projected = torch.stack(
            [encoder.projection.weight @ unit + encoder.projection.bias for unit in units]
        )

        def perceptron(unit: Tensor) -> Tensor:
            first, last = encoder.perceptron[0], encoder.perceptron[3]
            return last.weight @ activate(first.weight @ unit + first.bias) + last.bias

        context = projected
        if projection == "mlp":
            context = projected + torch.stack([perceptron(unit) for unit in units])
        pooled = pooled_by_hand(encoder, pooling, context)
        if projection == "pooled_mlp":
            pooled = pooled + perceptron(units.mean(0))
        torch.testing.assert_close(encoding.embedding[item], pooled / pooled.norm(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(encoding.context[item, :length], context, atol=1e-5, rtol=1e-4)
        expected = projected / projected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(encoding.locals[item, :length], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("pooling", [*POOLINGS, "last"])
def test_words_become_vectors_one_text_at_a_time(
    text_tower: Callable[..., TextTower], pooling: str, bidirectional: bool
) -> None:
    tower = text_tower("gru", False, word_dim=4, pooling=pooling, bidirectional=bidirectional).eval()
    encoding = tower(TextInputs(*reversed(tower.tokenize(TEXTS))))
    encoder = tower.encoder
    for item, text in enumerate(TEXTS):
        ids, _ = tower.tokenize([text])
        words = encoder.projection(encoder.embedding(ids))
        states, last = encoder.gru(words)  # one text alone needs no packing
        if bidirectional:
            states = states.unflatten(-1, (2, DIM)).mean(-2)
        vector = last[:, 0].mean(0) if pooling == "last" else pooled_by_hand(encoder, pooling, states[0])
        length = ids.shape[1]
        torch.testing.assert_close(encoding.embedding[item], vector / vector.norm(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(encoding.context[item, :length], states[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(encoding.locals[item, :length], F.normalize(words[0], dim=1))


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_frozen_encoders_tokens_or_their_stored_states_give_the_same(
    text_tower: Callable[..., TextTower], projection: str
) -> None:
    tower = text_tower("pooled", projection=projection, hidden=5).eval()
    tokens, mask = tower.tokenize(TEXTS)
    with torch.no_grad():
        stored = tower.backbone(tokens, mask)
    from_tokens = tower(TextInputs(tokens=tokens, mask=mask))
    from_store = tower(TextInputs(features=padded_with(stored, mask, 0.0), mask=mask))
    assert_same_encoding(from_tokens, from_store)
    assert from_tokens.embedding.shape == (len(TEXTS), 3 * DIM)


# ---- padding


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_padded_regions_have_no_influence(projection: str, pooling: str, training: bool) -> None:
    """Neither on values nor on gradients nor on what the context head's batch statistics become."""

    def run(values: Tensor, mask: Tensor) -> tuple[Encoding, dict[str, Tensor]]:
        tower = image_tower(projection=projection, pooling=pooling, normalize_input=True).train(training)
        encoding = tower(ImageInputs(features=values, mask=mask))
        (encoding.embedding.sum() + encoding.locals[mask].sum() + encoding.aux["keys"].sum()).backward()
        left = {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}
        return encoding, left | dict(tower.named_buffers())

    expected, left = run(padded_with(features(), MASK, 0.0), MASK)
    assert left
    garbage = padded_with(features(), MASK, 1e3)
    wider = F.pad(garbage, (0, 0, 0, 3), value=-1e3)
    for values, mask in ((garbage, MASK), (wider, F.pad(MASK, (0, 3)))):
        encoding, others = run(values, mask)
        assert_same_encoding(expected, encoding)
        assert others.keys() == left.keys()
        for name, value in left.items():
            torch.testing.assert_close(others[name], value, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("kind", "pooling"), [("gru", p) for p in (*POOLINGS, "last")] + [("pooled", p) for p in POOLINGS]
)
def test_padded_words_have_no_influence(
    text_tower: Callable[..., TextTower], kind: str, pooling: str, training: bool
) -> None:
    expected: Encoding | None = None
    for extra, filler in ((0, 0), (0, 3), (2, 0), (3, 5)):
        tower = text_tower(kind, pooling=pooling).train(training)
        tokens, mask = tower.tokenize(TEXTS)
        mask = F.pad(mask, (0, extra))
        tokens = F.pad(tokens, (0, extra)).masked_fill(~mask, filler)
        encoding = tower(TextInputs(tokens=tokens, mask=mask))
        if expected is None:
            expected = encoding
            statistics = {name: value.clone() for name, value in tower.named_buffers()}
        else:
            assert_same_encoding(expected, encoding)
            for name, value in tower.named_buffers():
                torch.testing.assert_close(statistics[name], value, msg=name)


def test_in_evaluation_an_item_does_not_depend_on_its_batch(text_tower: Callable[..., TextTower]) -> None:
    tower = image_tower().eval()
    whole = tower(ImageInputs(features=features(), mask=MASK)).embedding
    texts = text_tower("gru").eval()
    told = texts(TextInputs(*reversed(texts.tokenize(TEXTS)))).embedding
    for item, length in enumerate(LENGTHS):
        part = ImageInputs(features=features()[item : item + 1, :length], mask=MASK[item : item + 1, :length])
        torch.testing.assert_close(tower(part).embedding[0], whole[item], atol=1e-5, rtol=1e-4)
        alone = texts(TextInputs(*reversed(texts.tokenize(TEXTS[item : item + 1])))).embedding
        torch.testing.assert_close(alone[0], told[item], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_image_without_regions_is_finite_alone_and_among_others(pooling: str, training: bool) -> None:
    tower = image_tower(pooling=pooling, region_dropout=0.3).train(training)
    mask = MASK.clone()
    mask[1] = False
    torch.manual_seed(0)
    among = tower(ImageInputs(features=features(), mask=mask))
    assert among.embedding.isfinite().all()
    among.embedding.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in tower.parameters())
    nothing = ImageInputs(features=torch.empty(2, 0, 5), mask=torch.empty(2, 0, dtype=torch.bool))
    alone = tower(nothing)
    assert alone.embedding.shape == (2, 3 * DIM)
    if not training:
        torch.testing.assert_close(alone.embedding[0], among.embedding[1])


# ---- the context head


def test_the_context_head_is_appended_in_the_order_of_its_modality(
    text_tower: Callable[..., TextTower],
) -> None:
    inputs = ImageInputs(features=features(), mask=MASK)
    tower = image_tower().eval()
    encoding, plain = tower(inputs), tower.encoder(features(), MASK)
    context = tower.context_head(plain.context, MASK)
    expected = torch.cat([plain.embedding, 0.5 * context.mean_key, 0.5 * context.fused], dim=1)
    torch.testing.assert_close(encoding.embedding, expected)
    torch.testing.assert_close(encoding.aux["guide"], context.guide)
    torch.testing.assert_close(encoding.aux["keys"], context.keys)

    texts = text_tower("gru").eval()
    tokens, mask = texts.tokenize(TEXTS)
    encoding, plain = texts(TextInputs(tokens=tokens, mask=mask)), texts.encoder(tokens, mask)
    context = texts.context_head(plain.context, mask)
    expected = torch.cat([plain.embedding, context.fused, context.mean_key], dim=1)
    torch.testing.assert_close(encoding.embedding, expected)
    bare = text_tower("gru", False).eval()(TextInputs(tokens=tokens, mask=mask))
    assert bare.embedding.shape == (len(TEXTS), DIM)
    assert not bare.aux


def test_every_view_gets_the_same_context_part() -> None:
    tower = image_tower().eval()
    plain = tower.encoder(features(), MASK)
    views = torch.randn(len(LENGTHS), 3, DIM)
    encoding = tower.enrich(
        Encoding(embedding=views, locals=plain.locals, context=plain.context, mask=MASK), 0.5, True
    )
    single = tower(ImageInputs(features=features(), mask=MASK))
    assert encoding.embedding.shape == (len(LENGTHS), 3, 3 * DIM)
    torch.testing.assert_close(encoding.embedding[..., :DIM], views)
    for view in range(3):
        torch.testing.assert_close(encoding.embedding[:, view, DIM:], single.embedding[:, DIM:])


# ---- dropout and masking


def test_dropped_regions_have_no_influence_and_only_in_training() -> None:
    tower = image_tower(region_dropout=0.5)
    inputs = ImageInputs(features=features(), mask=MASK)
    whole = tower.eval()(inputs)
    assert torch.equal(whole.mask, MASK)
    tower.train()
    torch.manual_seed(5)
    kept = drop_units(MASK, 0.5)
    assert kept.sum() < MASK.sum()
    torch.manual_seed(5)
    dropped = tower(inputs)
    assert torch.equal(dropped.mask, kept)
    torch.manual_seed(5)
    spoilt = tower(ImageInputs(features=padded_with(features(), kept, 1e3), mask=MASK))
    assert_same_encoding(dropped, spoilt)


@pytest.mark.parametrize("pooling", ["gpo", "last"])
def test_word_dropout_closes_the_gaps(text_tower: Callable[..., TextTower], pooling: str) -> None:
    """A text with dropped words is encoded as the text of its remaining words, in their order."""
    settings = {"word_dropout": 0.5}
    dropping = text_tower("gru", tower=settings, pooling=pooling).train()
    tokens, mask = dropping.tokenize(TEXTS)
    torch.manual_seed(2)
    kept = drop_units(mask, 0.5)
    holes = [row for row in kept.int().tolist() if "0, 1" in str(row)]
    assert holes, "no word was dropped before a kept one: choose another seed"
    rows = [[int(t) for t, k in zip(*pair, strict=True) if k] for pair in zip(tokens, kept, strict=True)]
    longest = max(map(len, rows))
    remaining = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    told = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    torch.manual_seed(2)
    encoding = dropping(TextInputs(tokens=tokens, mask=mask))
    expected = text_tower("gru", pooling=pooling).train()(TextInputs(tokens=remaining, mask=told))
    assert encoding.mask.shape == told.shape
    # Which token each word is: what is known about tokens finds its word there.
    places = encoding.aux["places"]
    assert torch.equal(tokens.gather(1, places)[told], remaining[told])
    aux = {name: value for name, value in encoding.aux.items() if name != "places"}
    assert_same_encoding(expected, replace(encoding, aux=aux))
    assert torch.equal(dropping.eval()(TextInputs(tokens=tokens, mask=mask)).mask, mask)


@pytest.mark.parametrize("stored", [False, True])
def test_dropped_tokens_of_a_frozen_encoder_have_no_influence(
    text_tower: Callable[..., TextTower], stored: bool
) -> None:
    tower = text_tower("pooled", tower={"word_dropout": 0.5}).train()
    tokens, mask = tower.tokenize(TEXTS)
    with torch.no_grad():
        states = tower.backbone(tokens, mask)
    inputs = TextInputs(features=states, mask=mask) if stored else TextInputs(tokens=tokens, mask=mask)
    torch.manual_seed(4)
    kept = drop_units(mask, 0.5)
    torch.manual_seed(4)
    encoding = tower(inputs)
    assert torch.equal(encoding.mask, kept)
    expected = text_tower("pooled").train()(TextInputs(features=padded_with(states, kept, 1e3), mask=kept))
    assert_same_encoding(expected, encoding)


@pytest.mark.parametrize("kind", ["gru", "pooled"])
def test_masked_words_become_the_unknown_or_mask_token_in_training(
    text_tower: Callable[..., TextTower], kind: str
) -> None:
    masking = text_tower(kind, tower={"word_masking": 0.4})
    replacement = 1 if kind == "gru" else SPECIAL.index("[MASK]")
    tokens, mask = masking.tokenize(TEXTS)
    assert not (tokens == replacement).any()
    torch.manual_seed(1)
    replaced = replace_tokens(tokens, mask, 0.4, replacement)
    assert 0 < (replaced != tokens).sum() < mask.sum()
    torch.manual_seed(1)
    encoding = masking.train()(TextInputs(tokens=tokens, mask=mask))
    expected = text_tower(kind).train()(TextInputs(tokens=replaced, mask=mask))
    assert_same_encoding(expected, encoding)
    torch.testing.assert_close(
        masking.eval()(TextInputs(tokens=tokens, mask=mask)).locals,
        text_tower(kind).eval()(TextInputs(tokens=tokens, mask=mask)).locals,
    )


def test_feature_dropout_takes_the_same_features_of_all_units_of_an_item() -> None:
    tower = image_tower(context_head=False, projection="linear", dropout=0.5).train()
    with torch.no_grad():
        tower.encoder.projection.weight.copy_(torch.eye(DIM)[:, :5])
        tower.encoder.projection.bias.zero_()
    torch.manual_seed(0)
    context = tower(ImageInputs(features=torch.ones(5, 4, 5), mask=MASK)).context[..., :5]
    assert torch.equal(context, context[:, :1].expand_as(context))
    assert set(context.unique().tolist()) == {0.0, 2.0}
    assert (context[0, 0] != context[1, 0]).any()
    assert torch.equal(
        tower.eval()(ImageInputs(features=torch.ones(5, 4, 5), mask=MASK)).context[..., :5],
        torch.ones(5, 4, 5),
    )


# ---- what trains


def reached(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())}


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("kind", ["gru", "pooled"])
def test_gradients_reach_what_trains_and_nothing_else(
    text_tower: Callable[..., TextTower], kind: str, trains: bool
) -> None:
    images = image_tower(
        backbones=[BACKBONE, {**BACKBONE, "name": "test_resnet"}], train_backbone=trains, pooling="gpo"
    ).train()
    texts = text_tower(kind, tower={"train_backbone": trains and kind != "gru"}).train()
    objective = Objective(
        ObjectiveSettings.model_validate(
            {"base": {"kind": "contrastive"}, "lca": {"concepts": 4, "symmetric": True}, "cra": {}}
        ),
        ModelConfig(dim=DIM, context_head=True),
    )
    image = images(ImageInputs(pixels=torch.randn(len(TEXTS), 3, 32, 32)))
    tokens, mask = texts.tokenize(TEXTS)
    text = texts(TextInputs(tokens=tokens, mask=mask))
    scores = image.embedding @ text.embedding.T
    objective.total(objective(scores, image, text, torch.arange(len(TEXTS)))).backward()

    own = {name for name, _ in images.named_parameters() if not name.startswith("backbones.")}
    assert own <= reached(images)
    behind = reached(images) - own
    assert bool(behind) == trains
    assert {name.split(".")[1] for name in behind} == ({"0", "1"} if trains else set())
    assert all(p.grad is None for p in images.backbones.parameters()) != trains

    own = {name for name, _ in texts.named_parameters() if not name.startswith("backbone.")}
    assert own <= reached(texts)
    assert bool(reached(texts) - own) == (trains and kind == "pooled")
    if kind == "pooled" and not trains:
        assert not any(p.requires_grad for p in texts.backbone.parameters())


@pytest.mark.parametrize("trains", [False, True])
def test_a_frozen_backbone_keeps_its_statistics(trains: bool) -> None:
    tower = image_tower(backbones=[BACKBONE], train_backbone=trains).train()
    before = {name: value.clone() for name, value in tower.backbones.named_buffers()}
    tower(ImageInputs(pixels=torch.randn(4, 3, 32, 32)))
    moved = [not torch.equal(before[name], value) for name, value in tower.backbones.named_buffers()]
    assert any(moved) == trains
    assert tower.backbones.training == trains
    assert tower.encoder.training
    tower.eval()
    assert not tower.backbones.training


def test_a_frozen_text_encoder_drops_nothing(text_tower: Callable[..., TextTower]) -> None:
    for trains in (False, True):
        tower = text_tower("pooled", tower={"train_backbone": trains}).train()
        tokens, mask = tower.tokenize(TEXTS)
        first, second = (tower(TextInputs(tokens=tokens, mask=mask)).embedding for _ in range(2))
        assert torch.equal(first, second) != trains


# ---- regions and their boxes


@pytest.mark.parametrize("global_cell", [True, False])
def test_every_region_has_its_box(global_cell: bool) -> None:
    tower = image_tower(backbones=[{**BACKBONE, "global_cell": global_cell}]).eval()
    cells = [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    expected = torch.tensor(([[0, 0, 1, 1]] if global_cell else []) + cells).float().expand(2, -1, -1)
    pixels = ImageInputs(pixels=torch.randn(2, 3, 32, 32))
    assert torch.equal(tower.region_boxes(pixels), expected)
    units, mask = tower.units(pixels)
    assert torch.equal(tower.region_boxes(ImageInputs(features=units, mask=mask)), expected)
    own = torch.rand(2, units.shape[1], 4)
    assert torch.equal(tower.region_boxes(ImageInputs(features=units, mask=mask, boxes=own)), own)


def test_boxes_of_photos_stand_behind_the_whole_photo() -> None:
    tower = image_tower(backbones=[BACKBONE], regions="boxes").eval()
    boxes = torch.tensor([[[0.1, 0.2, 0.5, 0.6], [0.5, 0.5, 1, 1]], [[0, 0, 0.4, 0.3], [0, 0, 0, 0]]])
    given = torch.tensor([[True, True], [True, False]])
    inputs = ImageInputs(pixels=torch.randn(2, 3, 32, 32), boxes=boxes, mask=given)
    _, mask = tower.units(inputs)
    assert mask.tolist() == [[True, True, True], [True, True, False]]
    placed = tower.region_boxes(inputs)
    assert placed.shape == (2, 3, 4)
    assert torch.equal(placed[:, 0], torch.tensor([0.0, 0, 1, 1]).expand(2, 4))
    torch.testing.assert_close(placed[:, 1:][given], boxes[given])


def test_boxes_are_relative_to_the_photo_even_where_only_its_centre_is_seen() -> None:
    cropping = {**BACKBONE, "input": {**BACKBONE["input"], "resize": "crop"}}
    tower = image_tower(backbones=[cropping]).eval()
    visible = torch.tensor([[0.25, 0.0, 0.75, 1.0]])
    pixels = torch.randn(1, 3, 32, 32)
    _, _, expected = tower.backbones[0](pixels, None, visible)
    torch.testing.assert_close(tower.region_boxes(ImageInputs(pixels=pixels, visible=visible)), expected)
    assert expected[0, 1].tolist() == [0.25, 0.0, 0.5, 0.5]
    boxes = torch.tensor([[[0.3, 0.2, 0.5, 0.6]]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    _, _, expected = tower.backbones[0](pixels, [boxes[0]], visible)
    inputs = ImageInputs(pixels=pixels, boxes=boxes, mask=mask, visible=visible)
    torch.testing.assert_close(tower.region_boxes(inputs), expected)


def test_inputs_that_a_tower_cannot_take_are_refused() -> None:
    tower = image_tower()
    with pytest.raises(CrossAlignError, match="has no backbone: it cannot encode raw photos"):
        tower(ImageInputs(pixels=torch.zeros(1, 3, 32, 32)))
    with pytest.raises(CrossAlignError, match="have no boxes"):
        tower.region_boxes(ImageInputs(features=features(), mask=MASK))
    with pytest.raises(CrossAlignError, match="neither backbones nor feature_dim"):
        ImageTower(ImageTowerConfig(), DIM, False)
    with pytest.raises(ValueError, match="need their mask"):
        tower(ImageInputs(features=features()))


@pytest.mark.parametrize("training", [False, True])
def test_a_vsrn_tower_is_its_encoder_and_the_context_head(training: bool) -> None:
    settings = {"kind": "vsrn", "layers": 2, "norm_axis": "regions", "embedding_norm": True}
    tower = image_tower(encoder=settings).train(training)
    assert isinstance(tower.encoder, VSRNEncoder)
    assert (len(tower.encoder.relations), tower.encoder.along) == (2, "units")
    assert tower.encoder.embedding_norm is not None
    state = {name: value.clone() for name, value in tower.state_dict().items()}
    encoding = tower(ImageInputs(features=features(), mask=MASK))
    tower.load_state_dict(state)
    assert torch.equal(encoding.embedding[:, :DIM], tower.encoder(features(), MASK).embedding)
    assert encoding.embedding.shape == (len(LENGTHS), 3 * DIM)


@pytest.mark.parametrize("positions", [True, False])
def test_a_camera_tower_gives_views_that_share_their_context(positions: bool) -> None:
    settings = {"kind": "camera", "heads": 2, "views": 3, "channels": 4, "positions": positions}
    tower = image_tower(encoder=settings).eval()
    assert isinstance(tower.encoder, CAMERAImageEncoder)
    boxes = torch.rand(len(LENGTHS), 4, 4).sort(dim=-1).values
    encoding = tower(ImageInputs(features=features(), mask=MASK, boxes=boxes))
    assert encoding.embedding.shape == (len(LENGTHS), 3, 3 * DIM)
    expected = tower.encoder(features(), MASK, boxes if positions else None)
    torch.testing.assert_close(encoding.embedding[..., :DIM], expected.embedding)
    assert encoding.embedding[..., DIM:].std(dim=1).max() == 0
    assert encoding.aux.keys() == {"guide", "keys", "summary_logits"}
    if positions:
        elsewhere = tower(ImageInputs(features=features(), mask=MASK, boxes=boxes * 0.5))
        assert not torch.allclose(elsewhere.embedding, encoding.embedding)
        with pytest.raises(CrossAlignError, match="have no boxes"):
            tower(ImageInputs(features=features(), mask=MASK))


def test_a_camera_tower_knows_where_its_grid_cells_are() -> None:
    settings = {"kind": "camera", "heads": 1, "views": 2, "channels": 4}
    tower = image_tower(backbones=[BACKBONE], encoder=settings).eval()
    units = features(seed=5).new_zeros(2, 5, tower.feature_dim).normal_()
    mask = torch.ones(2, 5, dtype=torch.bool)
    boxes = tower.region_boxes(ImageInputs(features=units, mask=mask))
    expected = tower.encoder(units, mask, boxes).embedding
    torch.testing.assert_close(tower(ImageInputs(features=units, mask=mask)).embedding[..., :DIM], expected)


def test_a_camera_text_tower_is_its_encoder(text_tower: Callable[..., TextTower]) -> None:
    tower = text_tower("camera", heads=3, norm_axis="words").eval()
    assert isinstance(tower.encoder, CAMERATextEncoder)
    tokens, mask = tower.tokenize(TEXTS)
    assert tower.backbone is not None
    expected = tower.encoder(tower.backbone(tokens, mask), mask)
    torch.testing.assert_close(
        tower(TextInputs(tokens=tokens, mask=mask)).embedding[:, :DIM], expected.embedding
    )


def test_a_camera_text_tower_may_read_padding_as_words(text_tower: Callable[..., TextTower]) -> None:
    """As the published code does, whatever else is in the batch."""
    tower = text_tower("camera", heads=3, norm_axis="words", count_padding=True).eval()
    assert isinstance(tower.encoder, CAMERATextEncoder)
    assert tower.backbone is not None
    tokens, mask = tower.tokenize(TEXTS)
    encoding = tower(TextInputs(tokens=tokens, mask=mask))
    assert encoding.embedding.shape == (len(TEXTS), 3 * DIM)
    assert encoding.mask.sum(dim=1).tolist() == mask.sum(dim=1).tolist()
    for item in range(len(TEXTS)):
        length = int(mask[item].sum())
        padded = F.pad(tokens[item : item + 1, :length], (0, 64 - length), value=tower.backbone.padding_token)
        states = tower.backbone(padded, torch.arange(64).unsqueeze(0) < length)
        expected = tower.encoder(states, torch.ones(1, 64, dtype=torch.bool))
        torch.testing.assert_close(encoding.embedding[item, :DIM], expected.embedding[0])
        assert tower.context_head is not None
        context = tower.context_head(expected.context, expected.mask)
        torch.testing.assert_close(encoding.embedding[item, DIM : 2 * DIM], context.fused[0])
        torch.testing.assert_close(encoding.embedding[item, 2 * DIM :], context.mean_key[0])
    with pytest.raises(CrossAlignError, match="stored token states hold no padding"):
        tower(TextInputs(features=torch.zeros(1, 3, 8), mask=torch.ones(1, 3, dtype=torch.bool)))
    unpadded = text_tower("camera", heads=3, norm_axis="words").eval()
    unpadded.load_state_dict(tower.state_dict())
    other = unpadded(TextInputs(tokens=tokens, mask=mask)).embedding
    assert not torch.allclose(other, encoding.embedding)


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.5])
def test_the_context_vectors_weigh_as_asked(weight: float) -> None:
    plain, weighted = image_tower().eval(), image_tower().eval()
    weighted.context_weight = weight
    inputs = ImageInputs(features=features(), mask=MASK)
    one, two = plain(inputs), weighted(inputs)
    assert torch.equal(one.aux["keys"], two.aux["keys"])
    expected = one.embedding[:, :DIM]
    if weight:
        expected = torch.cat([expected, one.embedding[:, DIM:] * (weight / 0.5)], dim=1)
    torch.testing.assert_close(two.embedding, expected)


def test_the_context_head_reads_units_before_context_if_asked(text_tower: Callable[..., TextTower]) -> None:
    """Of self-attention these depend on the other units of the item, before it they do not."""
    settings = {"kind": "camera", "heads": 2, "views": 3, "channels": 4, "positions": False}
    image = image_tower(encoder=settings).eval()
    text = text_tower("camera", heads=3).eval()
    tokens, words = text.tokenize(TEXTS)
    for tower, inputs in (
        (image, ImageInputs(features=features(), mask=MASK)),
        (text, TextInputs(tokens=tokens, mask=words)),
    ):
        after = tower(inputs)
        tower.context_units = "locals"
        before = tower(inputs)
        assert tower.context_head is not None
        for encoding, units in ((after, after.context), (before, before.locals)):
            head = tower.context_head(units, encoding.mask)
            torch.testing.assert_close(encoding.aux["guide"], head.guide)
            torch.testing.assert_close(encoding.aux["keys"], head.keys)
        assert not torch.allclose(before.aux["keys"], after.aux["keys"])
        assert torch.equal(before.embedding[..., :DIM], after.embedding[..., :DIM])
        assert not torch.allclose(before.embedding[..., DIM:], after.embedding[..., DIM:])
