"""Tiny dual encoders with random weights, written as their libraries write them: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WORDS = ["red", "green", "blue", "yellow", "square", "dark", "ground", "view", "sentence", "a", "on", "."]
SIDE, WIDTH = 32, 24


def open_clip_config(**changes: Any) -> dict[str, Any]:
    """A vision transformer of 2 layers and a text transformer with open_clip's own vocabulary."""
    config: dict[str, Any] = {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) and key in config else value
    return config


def write_open_clip(folder: Path, **changes: Any) -> Path:
    """A folder as open_clip pushes one to the hub."""
    from open_clip import CLIP, CoCa, CustomTextCLIP

    config = open_clip_config(**changes)
    folder.mkdir(parents=True)
    side = config["vision_cfg"]["image_size"]
    content = {
        "model_cfg": config,
        "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "size": [side, side]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(1)
    built = json.loads(json.dumps(config))
    custom = built.pop("custom_text", False) or "hf_model_name" in built["text_cfg"]
    kind: Any = CoCa if "multimodal_cfg" in built else CustomTextCLIP if custom else CLIP
    model = kind(**built)
    enliven(model)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


def enliven(model: torch.nn.Module, factor: float = 4) -> None:
    """Weights so large that every part of a text or a photo shows in its embedding."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)


def clip_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer of transformers with a vocabulary of single characters and a few words."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    merges: list[str] = []
    vocabulary = {}
    for piece in [*letters, *(f"{letter}</w>" for letter in letters)]:
        vocabulary[piece] = len(vocabulary)
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merge = f"{pieces[0]} {pieces[1]}"
            if merge not in merges:
                merges.append(merge)
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            vocabulary.setdefault(pieces[0], len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def word_tokenizer(kind: str) -> Any:
    """A tokenizer of whole words, with BERT's special tokens or SigLIP's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<unk>", "<cls>"]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate([*special, *WORDS])}, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "$A <eos>" if kind == "siglip" else "<cls> $A <eos>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<cls>", 3), ("<eos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        cls_token="<cls>" if kind != "siglip" else None,
    )


def write_transformers(folder: Path, kind: str, **vision: Any) -> Path:
    """A folder of CLIP, SigLIP or BLIP as transformers saves it."""
    import transformers

    torch.manual_seed(1)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": WIDTH, "intermediate_size": 48}
    seen = {**layers, "image_size": SIDE, "patch_size": 8, **vision}
    told = {**layers, "max_position_embeddings": 16}
    processor: Any
    if kind == "clip":
        tokenizer = clip_tokenizer(folder)
        ids = {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        model: Any = transformers.CLIPModel(
            transformers.CLIPConfig(text_config={**told, **ids}, vision_config=seen, projection_dim=WIDTH)
        )
        processor = transformers.CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        )
    elif kind == "siglip":
        tokenizer = word_tokenizer(kind)
        model = transformers.SiglipModel(
            transformers.SiglipConfig(
                text_config={**told, "vocab_size": len(tokenizer), "projection_size": WIDTH},
                vision_config=seen,
            )
        )
        processor = transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    else:
        tokenizer = word_tokenizer(kind)
        model = transformers.BlipForImageTextRetrieval(
            transformers.BlipConfig(
                text_config={
                    **told,
                    "vocab_size": len(tokenizer),
                    "encoder_hidden_size": WIDTH,
                    "bos_token_id": 3,
                    "eos_token_id": 1,
                    "pad_token_id": 0,
                    "sep_token_id": 1,
                },
                vision_config=seen,
                image_text_hidden_size=16,
            )
        )
        processor = transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    enliven(model, 20 if kind == "blip" else 4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
