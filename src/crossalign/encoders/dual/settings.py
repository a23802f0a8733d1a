"""Settings of a pretrained dual encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crossalign.settings import Settings

__all__ = ["PRETRAINED", "DualEncoderSettings", "LoRASettings"]

PRETRAINED = "pretrained"


class LoRASettings(Settings):
    """Low-rank adaptation of linear maps, which themselves stay as they are (Hu et al., ICLR 2022; package `peft`)."""

    rank: int = Field(default=8, ge=1, description="of the learnt change of each matrix")
    alpha: float = Field(default=16.0, gt=0, description="the change is multiplied by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the input of the change")
    targets: tuple[str, ...] = Field(
        default=(),
        description="names of the layers that are adapted; none: attention and perceptrons of every block",
    )


class DualEncoderSettings(Settings):
    """CLIP, SigLIP or BLIP: both towers with their pre-processing, tokenizer and projections."""

    library: Literal["open_clip", "transformers"] = Field(
        default="open_clip", description="which library has the model (extras `clip` and `text`)"
    )
    name: str = Field(
        description="open_clip: one of its names such as `ViT-B-32`, `hf-hub:OWNER/NAME`, or a folder with "
        "open_clip_config.json; transformers: a folder or a hub name of CLIP, SigLIP or BLIP (image-text retrieval)"
    )
    weights: str | None = Field(
        default=PRETRAINED,
        description="`pretrained`: those that the folder or the hub name holds; for a name of open_clip one of its "
        "tags such as `openai`, or a file; null: random",
    )
    weights_sha256: str | None = Field(
        default=None, description="checksum of the weights; filled in when loaded"
    )
    quick_gelu: bool | None = Field(
        default=None,
        description="which GELU the weights were trained with; null: as the configuration says. With a name of "
        "open_clip, true switches to QuickGELU; anything else that contradicts is refused",
    )
    context_length: int | None = Field(
        default=None, gt=2, description="tokens of a text at most; null: as many as the model has places"
    )
    units: Literal["pretrained", "learnt"] = Field(
        default="pretrained",
        description="how patches and tokens become regions and words: `pretrained`: what the pretrained pooling and "
        "projection make of one alone; `learnt`: a new linear map a tower",
    )
    lora: LoRASettings | None = Field(
        default=None, description="adapt the weights by low-rank changes (extra `lora`); null: train them all"
    )
