"""What a model makes of a split for every measure: both spaces, views, scorers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from judged_collection import write_judged

from crossalign.data.collection import Collection
from crossalign.encode import encode_split, image_source, text_source
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
from crossalign.sources import Sources
from crossalign.suite.spaces import EncodedPart, embed_photos, embed_texts, encode_part
from crossalign.towers.settings import UniModalHeadSettings


def with_head(tower: torch.nn.Module) -> Callable[..., Encoding]:
    """The tower's forward pass with a uni-modal head: the first three numbers of the embedding, the other way round."""
    forward = tower.forward

    def headed(*inputs: object) -> Encoding:
        encoding: Encoding = forward(*inputs)
        return replace(encoding, unimodal=encoding.embedding[:, :3].flip(1))

    return headed


@pytest.mark.parametrize("head", [False, True])
def test_both_spaces_of_a_split(head: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = write_judged(tmp_path)
    model = RetrievalModel.from_pretrained(judged.model)
    sources = Sources.open(judged.collection, ["toy"])
    split, images, texts = sources.split(model, "test")
    image, text = encode_split(model, images, texts)
    if head:
        headed = model.config.model_copy(update={"uni_modal_head": UniModalHeadSettings(size=3)})
        monkeypatch.setattr(model, "config", headed)
        for tower in (model.image_tower, model.text_tower):
            monkeypatch.setattr(tower, "forward", with_head(tower))
    part = encode_part(model, images, texts, batch_size=3)
    assert isinstance(part.image, torch.Tensor)
    assert isinstance(part.text, torch.Tensor)
    assert torch.allclose(part.image, image, atol=1e-6)
    assert torch.allclose(part.text, text, atol=1e-6)
    alone = [values[:, :3].flip(1) if head else values for values in (image, text)]
    assert part.image_alone is not None
    assert part.text_alone is not None
    assert torch.allclose(part.image_alone, alone[0], atol=1e-6)
    assert torch.allclose(part.text_alone, alone[1], atol=1e-6)
    assert torch.allclose(embed_texts(model, split.texts), alone[1], atol=1e-6)


def test_pairs_take_the_best_view() -> None:
    image, text = torch.randn(4, 3, 6), torch.randn(5, 6)
    part = EncodedPart(image, text, None, None)
    rows, columns = np.array([0, 3, 3, 1]), np.array([4, 0, 1, 1])
    expected = [max(float(view @ text[c]) for view in image[r]) for r, c in zip(rows, columns, strict=True)]
    assert part.pair_scores(rows, columns) == pytest.approx(expected, abs=1e-5)
    i2t, t2i = part.all_scores()
    assert i2t(slice(0, 4))[rows, columns].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(i2t(slice(1, 3)), t2i(slice(0, 5)).T[1:3])


def test_a_scorer_scores_pairs_as_it_scores_all(tmp_path: Path) -> None:
    judged = write_judged(tmp_path, scorer=True)
    model = RetrievalModel.from_pretrained(judged.model)
    collection = Collection.load(judged.collection)
    split = collection.split("test")
    stores = Sources.open(judged.collection, ["toy"]).image_stores
    part = encode_part(
        model, image_source(model, collection, split, stores), text_source(model, split, None), batch_size=5
    )
    assert (part.image_alone, part.text_alone) == (None, None)
    rows, columns = np.array([0, 7, 2]), np.array([15, 3, 3])
    i2t, t2i = part.all_scores()
    assert part.pair_scores(rows, columns) == pytest.approx(i2t(slice(0, 8)).numpy()[rows, columns], abs=1e-6)
    assert torch.equal(i2t(slice(2, 5)), t2i(slice(0, 16)).T[2:5])
    with pytest.raises(CrossAlignError, match="scores every pair"):
        embed_texts(model, ["red"])


def test_a_model_on_imported_features_says_that_it_takes_no_photos(tmp_path: Path) -> None:
    judged = write_judged(tmp_path)
    with pytest.raises(CrossAlignError):
        embed_photos(RetrievalModel.from_pretrained(judged.model), [tmp_path / "a.jpg"])
