"""Token states of sentences that several models share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossalign.data.features import FeatureStore
from crossalign.encoders.hf import TextBackbone
from crossalign.errors import CrossAlignError
from crossalign.lock import FileLock
from crossalign.model import ModelConfig, RetrievalModel
from crossalign.suite.further import FurtherData
from crossalign.suite.run import evaluate_suite
from crossalign.suite.sentence_states import SentenceStates
from crossalign.suite.subject import Subject, open_subject

pytest.importorskip("transformers")
from tiny_bert import write_bert

TEXTS = ["a dog", "two men at the sea", "a red car on the grass at the sea", "cat", "men", "the red dog"]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_bert(tmp_path / "bert", TEXTS)


def model_of(bert: Path, seed: int = 0, text: dict[str, Any] | None = None, **model: Any) -> RetrievalModel:
    torch.manual_seed(seed)
    values = {
        "dim": 6,
        "image": {"feature_dim": 4, "encoder": {"kind": "pooled"}},
        "text": {"backbone": {"name": str(bert)}, "encoder": {"kind": "pooled"}, **(text or {})},
        **model,
    }
    return RetrievalModel(ModelConfig.model_validate(values)).eval()


def count_sentences(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sentences go through a text encoder from now on, a batch at a time."""
    seen: list[int] = []
    forward = TextBackbone.forward

    def counted(self: TextBackbone, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append(len(tokens))
        return forward(self, tokens, mask)

    monkeypatch.setattr(TextBackbone, "forward", counted)
    return seen


@pytest.mark.parametrize("head", [None, {"size": 5}])
def test_the_embeddings_are_those_without_it_and_later_models_encode_nothing(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: dict[str, int] | None
) -> None:
    first, second = (model_of(bert, seed, uni_modal_head=head) for seed in (0, 1))
    space = "cross" if head is None else "uni"
    expected = [model.encode_texts(TEXTS, space=space) for model in (first, second)]
    # Elsewhere, the same encoder is known by its weights.
    shutil.copytree(bert, tmp_path / "moved")
    moved = model_of(tmp_path / "moved", 1, uni_modal_head=head)
    states = SentenceStates(tmp_path / "states")
    seen = count_sentences(monkeypatch)
    torch.testing.assert_close(states.embed(first, TEXTS), expected[0], atol=1e-6, rtol=1e-5)
    assert sum(seen) == len(TEXTS)
    torch.testing.assert_close(states.embed(second, TEXTS), expected[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(states.embed(moved, TEXTS), expected[1], atol=1e-6, rtol=1e-5)
    assert sum(seen) == len(TEXTS)
    assert not torch.equal(expected[0], expected[1])


def test_a_saved_model_finds_the_states_of_the_one_it_was(bert: Path, tmp_path: Path) -> None:
    states, model = SentenceStates(tmp_path / "states"), model_of(bert)
    before = states.embed(model, TEXTS)
    assert before is not None
    model.save_pretrained(tmp_path / "saved")
    after = states.embed(RetrievalModel.from_pretrained(tmp_path / "saved"), TEXTS)
    assert after is not None
    assert torch.equal(after, before)
    assert len(list((tmp_path / "states").glob("*/manifest.json"))) == 1


def test_other_sentences_have_states_of_their_own(bert: Path, tmp_path: Path) -> None:
    states = SentenceStates(tmp_path / "states")
    model = model_of(bert)
    states.embed(model, TEXTS)
    states.embed(model, TEXTS[:3])
    stores = [FeatureStore.open(path.parent) for path in (tmp_path / "states").glob("*/manifest.json")]
    assert sorted(len(store) for store in stores) == [3, 6]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model.safetensors", {}),
        ("config.json", {"hidden_act": "relu"}),
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("tokenizer_config.json", {"padding_side": "left"}),
    ],
    ids=["weights", "network", "truncation", "padding"],
)
def test_states_of_another_encoder_are_never_read(
    bert: Path, tmp_path: Path, file: str, change: dict[str, Any]
) -> None:
    states, text = SentenceStates(tmp_path / "states"), {"backbone": {"name": str(bert), "max_length": 5}}
    before = states.embed(model_of(bert, text=text), TEXTS)
    assert before is not None
    place = bert / file
    if change:
        place.write_text(json.dumps(json.loads(place.read_text()) | change))
    else:
        save_file({name: value + 0.5 for name, value in load_file(place).items()}, place, {"format": "pt"})
    after = states.embed(model_of(bert, text=text), TEXTS)
    assert after is not None
    assert len(list((tmp_path / "states").glob("*/manifest.json"))) == 2
    assert not torch.equal(after, before)


@pytest.mark.parametrize(
    "text",
    [{"train_backbone": True}, {"encoder": {"kind": "camera", "count_padding": True, "heads": 2}}],
    ids=["fine-tuned", "padding counts"],
)
def test_models_whose_states_are_their_own_leave_nothing(
    bert: Path, tmp_path: Path, text: dict[str, Any]
) -> None:
    if text.get("encoder"):
        text = {**text, "backbone": {"name": str(bert), "max_length": 12}}
    assert SentenceStates(tmp_path / "states").embed(model_of(bert, text=text), TEXTS) is None
    assert not (tmp_path / "states").exists()


def test_states_in_the_making_elsewhere_are_not_waited_for(bert: Path, tmp_path: Path) -> None:
    states, model = SentenceStates(tmp_path / "states"), model_of(bert)
    states.embed(model, TEXTS)
    (locked,) = (tmp_path / "states").glob("*.lock")
    with FileLock(locked, "another evaluation") as lock:
        assert lock.acquire()
        assert states.embed(model, TEXTS) is None
        subject = Subject("model", model, None, None, None, None)
        assert torch.equal(subject.embed_texts(TEXTS, states=states), model.encode_texts(TEXTS))
    assert states.embed(model, TEXTS) is not None


def test_a_folder_that_cannot_be_written_is_told_in_one_line(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "states"):
        with pytest.raises(
            CrossAlignError, match=r"token states cannot be kept there \(.*\); choose another"
        ):
            SentenceStates(place).embed(model_of(bert), TEXTS)


def test_an_evaluation_leaves_states_and_the_next_one_reads_them(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy")
    place = tmp_path / "pairs" / "STS12-en-test"
    place.mkdir(parents=True)
    pairs = zip(TEXTS[:3], TEXTS[3:], strict=True)
    (place / "STS.input.toy.txt").write_text("".join(f"{first}\t{second}\n" for first, second in pairs))
    (place / "STS.gs.toy.txt").write_text("5\n0\n3\n")
    model_of(bert).save_pretrained(tmp_path / "model")
    seen = count_sentences(monkeypatch)

    def measured(states: SentenceStates | None = None) -> dict[str, float]:
        del seen[:]
        subject = open_subject(tmp_path / "model")
        return evaluate_suite(
            subject, FurtherData.read(sts=tmp_path / "pairs"), sentence_states=states
        ).metrics

    def encoded() -> int:
        # Opening an encoder has it read two texts and one of full length.
        return sum(seen) - 3

    plain = measured()
    assert encoded() == len(TEXTS)
    for count in (len(TEXTS), 0):
        assert measured(SentenceStates(tmp_path / "states")) == pytest.approx(plain)
        assert encoded() == count


def test_what_a_kill_left_is_gone_on_with(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, model = SentenceStates(tmp_path / "states"), model_of(bert)
    whole = states.embed(model, TEXTS)
    (store,) = (path.parent for path in (tmp_path / "states").glob("*/manifest.json"))
    shutil.rmtree(store)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TextBackbone, "forward", killed)
        with pytest.raises(KeyboardInterrupt):
            states.embed(model, TEXTS)
    again = states.embed(model, TEXTS)
    assert again is not None
    assert whole is not None
    assert torch.equal(whole, again)
