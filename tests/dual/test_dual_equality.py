"""Dual encoders: embeddings, tokens and pre-processing are those of the libraries themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from crossalign.data.batch import ImageInputs, TextInputs
from crossalign.encoders.dual import DualEncoderSettings, build_dual_encoder
from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
from crossalign.towers import ModelConfig
from tiny_dual import SIDE, WIDTH, enliven, open_clip_config, write_open_clip, write_transformers

TEXTS = ["a red square on dark ground.", "blue", "Two DOGS, running — fast! &amp; more", "a " * 40]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": {},
    "quick": {"quick_gelu": True},
    "average": {"vision_cfg": {"pool_type": "avg", "final_ln_after_pool": True}},
    "attention pool": {
        "vision_cfg": {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
    },
    "resnet": {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 16, "image_size": 64}},
    "timm tokens": {
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 160,
        }
    },
    "timm map": {
        "vision_cfg": {
            "timm_model_name": "test_convnext",
            "timm_pool": "",
            "timm_proj": "mlp",
            "image_size": 64,
        }
    },
    "siglip text": {
        "custom_text": True,
        "text_cfg": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
    "coca": {
        "text_cfg": {"embed_cls": True, "output_tokens": True},
        "vision_cfg": {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        "custom_text": True,
    },
}


def photos() -> list[Image.Image]:
    """Of several shapes, so that the crop has odd and even rests."""
    return [
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40 + seed, 57, 3), dtype=np.uint8))
        for seed in range(4)
    ]


def model_of(folder: Path, library: str, dim: int = WIDTH, **settings: Any) -> RetrievalModel:
    config = ModelConfig(
        dim=dim,
        dual_encoder=DualEncoderSettings.model_validate(
            {"library": library, "name": str(folder), **settings}
        ),
    )
    return RetrievalModel(config).eval()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_open_clip_embeds_the_same(tmp_path: Path, kind: str) -> None:
    open_clip = pytest.importorskip("open_clip")
    folder = write_open_clip(tmp_path / "clip", **ARCHITECTURES[kind])
    theirs, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    theirs.eval()
    model = model_of(folder, "open_clip")
    pixels = torch.stack([prepare(photo) for photo in photos()])
    assert torch.equal(model.image_inputs(photos()).pixels, pixels)
    with torch.inference_mode():
        image = theirs.encode_image(pixels, normalize=True)
        text = theirs.encode_text(tokenizer(TEXTS), normalize=True)
    ours = model.encode_images(photos()), model.encode_texts(TEXTS)
    torch.testing.assert_close(ours[0], image, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[1], text, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.similarity(*ours), image @ text.T, atol=1e-5, rtol=0)
    # Embeddings that are all alike would agree, too.
    assert float((text @ text.T).fill_diagonal_(0).max()) < 0.999


def theirs_of(folder: Path, kind: str, pixels: torch.Tensor) -> torch.Tensor:
    """Cosines ``(images, texts)`` as transformers computes them."""
    import transformers

    names = {"clip": "CLIPModel", "siglip": "SiglipModel", "blip": "BlipForImageTextRetrieval"}
    model = getattr(transformers, names[kind]).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if kind == "siglip" else True
    batch = tokenizer(TEXTS, padding=padding, max_length=16, truncation=True, return_tensors="pt")
    mask = None if kind == "siglip" else batch["attention_mask"]
    with torch.inference_mode():
        if kind == "blip":
            return model(batch["input_ids"], pixels, use_itm_head=False, attention_mask=mask).itm_score
        output = model(input_ids=batch["input_ids"], pixel_values=pixels, attention_mask=mask)
    return output.image_embeds @ output.text_embeds.T


@pytest.mark.parametrize("kind", ["clip", "siglip", "blip"])
def test_transformers_embeds_the_same(tmp_path: Path, kind: str) -> None:
    import transformers

    folder = write_transformers(tmp_path / kind, kind)
    model = model_of(folder, "transformers", 16 if kind == "blip" else WIDTH)
    pixels = model.image_inputs(photos()).pixels
    prepared = transformers.AutoImageProcessor.from_pretrained(folder)(images=photos(), return_tensors="pt")
    # Theirs resizes tensors, ours pictures: the same pixels, at most one step of 256 apart.
    assert float((prepared["pixel_values"] - pixels).abs().max()) < 1.2 / 255 / 0.225
    expected = theirs_of(folder, kind, pixels)
    ours = model.similarity(model.encode_images(photos()), model.encode_texts(TEXTS))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert float(expected.std()) > 0.01


@pytest.mark.parametrize("kind", ["vit", "average", "attention pool", "resnet", "timm tokens", "timm map"])
def test_a_region_is_what_the_model_makes_of_it_alone(tmp_path: Path, kind: str) -> None:
    """Where every patch has the same state, pooling gives what one patch alone gives."""
    pytest.importorskip("open_clip")
    model = model_of(write_open_clip(tmp_path / "clip", **ARCHITECTURES[kind]), "open_clip")
    half: Any = model.image_tower.dual
    size = model.image_tower.input.size
    _, states = half(torch.randn(2, 3, size, size))
    rows, columns = half.grid
    assert states.shape == (2, rows * columns, half.states_dim)
    projected = half.project(states)
    assert projected.shape == (2, rows * columns, WIDTH)
    if kind == "resnet":
        # Positions in its attention pooling make no patch like another; the values alone are read.
        pool = half.visual.attnpool
        one = F.linear(F.linear(states[1, 3], pool.v_proj.weight, pool.v_proj.bias), pool.c_proj.weight)
        torch.testing.assert_close(projected[1, 3], one + pool.c_proj.bias, atol=1e-3, rtol=1e-4)
        return
    alone = states[1:2, 3:4]
    whole = alone.expand(1, rows * columns + 1, -1)
    if kind == "timm map":
        whole = alone[:, 0, :, None, None].expand(1, -1, rows, columns)
    torch.testing.assert_close(projected[1:2, 3], half._head(whole), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("library", ["open_clip", "clip", "siglip", "blip"])
def test_words_regions_and_padding(tmp_path: Path, library: str) -> None:
    if library == "open_clip":
        pytest.importorskip("open_clip")
        model = model_of(write_open_clip(tmp_path / "m"), "open_clip")
    else:
        folder = write_transformers(tmp_path / "m", library)
        model = model_of(folder, "transformers", 16 if library == "blip" else WIDTH)
    image = model.image_tower(model.image_inputs(photos()))
    assert image.locals.shape == (4, 16, model.config.dim)
    assert torch.allclose(image.locals.norm(dim=-1), torch.ones(4, 16), atol=1e-5)
    boxes = model.image_tower.region_boxes(model.image_inputs(photos()))
    seen = model.image_inputs(photos()).visible
    assert torch.allclose(boxes[:, 0, :2], seen[:, :2])
    assert torch.allclose(boxes[:, -1, 2:], seen[:, 2:])
    inputs = model.text_inputs(["a red square", "blue", ""])
    text = model.text_tower(inputs)
    # The word tokenizers of the tiny models know whole words; open_clip's knows these, too.
    assert text.mask.sum(dim=1).tolist()[:2] == [3, 1]
    assert bool(text.mask[2].any())
    # Longer texts beside them change nothing: padding has no influence on words and embedding.
    longer = model.text_tower(model.text_inputs(["a red square", "blue", "a dark ground on a yellow view ."]))
    torch.testing.assert_close(longer.embedding[:2], text.embedding[:2], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        longer.context[0][longer.mask[0]], text.context[0][text.mask[0]], atol=1e-5, rtol=0
    )
    if library != "siglip":
        tokens = inputs.tokens.clone()
        ends = inputs.mask.sum(dim=1)
        tokens[1, ends[1] :] = 5
        other = model.text_tower(TextInputs(tokens=tokens, mask=inputs.mask))
        torch.testing.assert_close(other.embedding[1], text.embedding[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("library", ["open_clip", "clip", "siglip"])
def test_offsets_are_places_in_the_text(tmp_path: Path, library: str) -> None:
    if library == "open_clip":
        pytest.importorskip("open_clip")
        model = model_of(write_open_clip(tmp_path / "m"), "open_clip")
    else:
        model = model_of(write_transformers(tmp_path / "m", library), "transformers")
    text = "A  RED square,   on dark ground." if library == "open_clip" else "a red square on dark ground ."
    spans = model.text_tower.offsets(text)
    words = [text[start:end].lower() for start, end in spans if end]
    assert words == (
        ["a", "red", "square", ",", "on", "dark", "ground", "."] if library == "open_clip" else text.split()
    )
    tokens, mask = model.text_tower.tokenize([text])
    assert len(spans) == int(mask.sum())
    marked = model.text_tower.dual_tokenizer.words(tokens, mask)[0]
    assert [bool(mark) for mark in marked[: len(spans)]] == [end > 0 for _, end in spans]


def test_learnt_units_are_a_new_map(tmp_path: Path) -> None:
    folder = write_transformers(tmp_path / "clip", "clip")
    plain, learnt = (model_of(folder, "transformers", units=units) for units in ("pretrained", "learnt"))
    assert torch.equal(plain.encode_images(photos()), learnt.encode_images(photos()))
    inputs = plain.image_inputs(photos())
    _, states = learnt.image_tower.dual(inputs.pixels)
    mapped = F.linear(states, learnt.image_tower.units.weight, learnt.image_tower.units.bias)
    assert torch.equal(learnt.image_tower(inputs).context, mapped)


@pytest.mark.parametrize("kind", ["open_clip", "clip", "siglip", "blip"])
def test_saved_and_loaded_without_the_source(tmp_path: Path, kind: str) -> None:
    """The model folder is enough: what it came from may be gone."""
    import shutil

    source = tmp_path / "source"
    if kind == "open_clip":
        pytest.importorskip("open_clip")
        write_open_clip(source)
    else:
        write_transformers(source, kind)
    library = kind if kind == "open_clip" else "transformers"
    model = model_of(source, library, 16 if kind == "blip" else WIDTH)
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(source)
    loaded = RetrievalModel.from_pretrained(tmp_path / "model")
    assert loaded.fingerprint == model.fingerprint
    assert torch.equal(loaded.encode_images(photos()), model.encode_images(photos()))
    assert torch.equal(loaded.encode_texts(TEXTS), model.encode_texts(TEXTS))
    loaded.save_pretrained(tmp_path / "again")
    assert RetrievalModel.from_pretrained(tmp_path / "again").fingerprint == model.fingerprint
    names = {path.suffix for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert not names & {".bin", ".pt", ".pth", ".pkl"}
    (tmp_path / "again" / "dual_encoder" / "input.json").unlink()
    with pytest.raises(CrossAlignError, match=r"input.json"):
        RetrievalModel.from_pretrained(tmp_path / "again")


def test_a_published_folder_is_a_model(tmp_path: Path) -> None:
    folder = write_transformers(tmp_path / "clip", "clip")
    found = RetrievalModel.from_pretrained(folder)
    assert torch.equal(found.encode_texts(TEXTS), model_of(folder, "transformers").encode_texts(TEXTS))
    pytest.importorskip("open_clip")
    folder = write_open_clip(tmp_path / "open")
    found = RetrievalModel.from_pretrained(folder)
    assert torch.equal(found.encode_texts(TEXTS), model_of(folder, "open_clip").encode_texts(TEXTS))
    with pytest.raises(CrossAlignError, match="give open_clip's name and tag"):
        RetrievalModel.from_pretrained("open_clip:ViT-B-32")


def test_open_clip_weights_from_a_file_with_a_built_in_name(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    (tmp_path / "tiny-clip.json").write_text(json.dumps(open_clip_config()))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    theirs = open_clip.create_model("tiny-clip").eval()
    state = theirs.state_dict()
    file = tmp_path / "tiny.pt"
    torch.save({"state_dict": {f"module.{key}": value.half() for key, value in state.items()}}, file)
    parts = build_dual_encoder(DualEncoderSettings(name="tiny-clip", weights=str(file)))
    pixels = torch.randn(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        ours, _ = parts.image.eval()(pixels)
        torch.testing.assert_close(ours, theirs.encode_image(pixels), atol=1e-2, rtol=1e-2)
    assert ours.dtype == torch.float32
    assert parts.settings.weights_sha256 is not None
    with pytest.raises(CrossAlignError, match="not the weights that were used before"):
        build_dual_encoder(DualEncoderSettings(name="tiny-clip", weights=str(file), weights_sha256="0" * 64))
    torch.save(state | {"text_projection": state["text_projection"] * torch.nan}, file)
    with pytest.raises(CrossAlignError, match=r"tiny\.pt: holds weights that are not finite"):
        build_dual_encoder(DualEncoderSettings(name="tiny-clip", weights=str(file)))
    # OpenAI's own files tell themselves by keys that no other file has; they were trained with QuickGELU.
    told = {key: torch.tensor(1) for key in ("input_resolution", "context_length", "vocab_size")}
    torch.save(state | told, file)
    with pytest.raises(
        CrossAlignError, match="trained with QuickGELU, tiny-clip computes GELU; set quick_gelu: true"
    ):
        build_dual_encoder(DualEncoderSettings(name="tiny-clip", weights=str(file)))
    quick = build_dual_encoder(DualEncoderSettings(name="tiny-clip", weights=str(file), quick_gelu=True))
    with torch.inference_mode():
        assert not torch.allclose(quick.image.eval()(pixels)[0], ours, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "ViT-B-33"}, "no folder and no model of open_clip; did you mean"),
        ({"name": "ViT-B-32"}, "'pretrained' is no file and no tag of ViT-B-32; its tags: openai"),
        (
            {"name": "ViT-B-32", "weights": "openai"},
            "trained with QuickGELU, ViT-B-32 computes GELU; take the name ViT-B-32-quickgelu",
        ),
        (
            {"name": "ViT-B-32-quickgelu", "weights": "laion2b_s34b_b79k"},
            "is no file and no tag of ViT-B-32-quickgelu",
        ),
        ({"name": "ViT-B-32-quickgelu", "weights": None, "quick_gelu": False}, "quick_gelu is false, but"),
        ({"name": "ViT-B-32", "weights": None, "context_length": 100}, "has 77 places; lower it"),
    ],
)
def test_contradictions_of_open_clip_are_refused(settings: dict[str, Any], message: str) -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(CrossAlignError, match=message):
        build_dual_encoder(DualEncoderSettings(**settings))


def test_contradictions_of_folders_are_refused(tmp_path: Path) -> None:
    folder = write_transformers(tmp_path / "clip", "clip")
    with pytest.raises(
        CrossAlignError, match=r"quick_gelu is false, but .* says true \(hidden_act: quick_gelu\)"
    ):
        model_of(folder, "transformers", quick_gelu=False)
    with pytest.raises(
        CrossAlignError, match=r"model.dim is 7, the embeddings of .* are 24 wide; set model.dim=24"
    ):
        model_of(folder, "transformers", 7)
    with pytest.raises(CrossAlignError, match="transformers takes those of the folder"):
        model_of(folder, "transformers", weights="x.pt")
    with pytest.raises(CrossAlignError, match="cannot be loaded"):
        model_of(tmp_path / "nowhere", "transformers")
    processor = next(folder.glob("*processor*.json"))
    changed = json.loads(processor.read_text())
    stated = changed.get("image_processor", changed)
    stated["size"], stated["crop_size"] = {"shortest_edge": 48}, {"height": 48, "width": 48}
    processor.write_text(json.dumps(changed))
    with pytest.raises(CrossAlignError, match=f"makes 48 pixels, its network takes {SIDE}"):
        model_of(folder, "transformers")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CrossAlignError, match=r"lack visual_projection.weight"):
        model_of(folder, "transformers")
    pytest.importorskip("open_clip")
    folder = write_open_clip(tmp_path / "open")
    with pytest.raises(CrossAlignError, match=r"quick_gelu is true, but .* says false"):
        model_of(folder, "open_clip", quick_gelu=True)
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.proj"] = weights["visual.proj"][:, :3].contiguous()
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(CrossAlignError, match=r"of another shape visual.proj"):
        model_of(folder, "open_clip")


def test_hugging_face_text_tower_in_open_clip(tmp_path: Path) -> None:
    """A text encoder of transformers inside open_clip, its configuration and tokenizer in the folder."""
    open_clip = pytest.importorskip("open_clip")
    import transformers

    from tiny_dual import word_tokenizer

    inner = tmp_path / "bert"
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": WIDTH, "intermediate_size": 48}
    transformers.BertConfig(
        vocab_size=16, max_position_embeddings=16, pad_token_id=0, **layers
    ).save_pretrained(inner)
    word_tokenizer("bert").save_pretrained(inner)
    folder = write_open_clip(
        tmp_path / "clip",
        text_cfg={
            "hf_model_name": str(inner),
            "hf_tokenizer_name": str(inner),
            "hf_proj_type": "mlp",
            "hf_pooler_type": "mean_pooler",
            "hf_model_pretrained": False,
        },
    )
    word_tokenizer("bert").save_pretrained(folder)
    model = model_of(folder, "open_clip")
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    texts = ["a red square", "blue"]
    with torch.inference_mode():
        expected = theirs.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts), normalize=True)
    torch.testing.assert_close(model.encode_texts(texts), expected, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / "model")
    import shutil

    shutil.rmtree(inner)
    shutil.rmtree(folder)
    assert torch.equal(
        RetrievalModel.from_pretrained(tmp_path / "model").encode_texts(texts), model.encode_texts(texts)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_unit_norm_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model = model_of(write_transformers(tmp_path / "clip", "clip"), "transformers")
    inputs, exact = model.image_inputs(photos()), model.encode_images(photos())
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        image = model.image_tower(inputs)
    assert image.embedding.dtype == torch.float32
    torch.testing.assert_close(image.embedding, exact, atol=0.1, rtol=0)
    assert next(model.parameters()).dtype == torch.float32


def test_stored_features_are_refused(tmp_path: Path) -> None:
    model = model_of(write_transformers(tmp_path / "clip", "clip"), "transformers")
    with pytest.raises(CrossAlignError, match="reads photos; leave the image features out"):
        model.image_tower(ImageInputs(features=torch.zeros(1, 2, 3)))
    with pytest.raises(CrossAlignError, match="reads texts; leave the text features out"):
        model.text_tower(TextInputs(mask=torch.ones(1, 2, dtype=torch.bool), features=torch.zeros(1, 2, 3)))


def test_the_tiny_models_are_lively() -> None:
    """Else equality of embeddings would say little."""
    assert open_clip_config()["embed_dim"] == WIDTH
    linear = torch.nn.Linear(2, 2)
    before = linear.weight.clone()
    enliven(linear)
    assert torch.equal(linear.weight, 4 * before)
