"""Settings of what training minimises: the base loss and the alignments beside it."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from crossalign.settings import Settings

__all__ = [
    "CRASettings",
    "CSASettings",
    "CaptioningSettings",
    "ContrastiveSettings",
    "DiversitySettings",
    "HingeSettings",
    "LCASettings",
    "MatryoshkaSettings",
    "ObjectiveSettings",
    "USASettings",
]

Words = Annotated[
    tuple[Literal["all", "nouns", "adjectives", "verbs", "numerals"], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
Weight = Annotated[float, Field(ge=0.0)]
# YAML reads the plain word as a switch.
Correspondence = Annotated[
    Literal["learnt", "shuffled", "random_codebook", "true"],
    BeforeValidator(lambda value: "true" if value is True else value),
]


class HingeSettings(Settings):
    """Hinge ranking loss, summed over the batch (VSE++)."""

    kind: Literal["hinge"] = Field(
        default="hinge", description="sum over the batch of what a match lacks to win by the margin"
    )
    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    margin: float = Field(
        default=0.2, gt=0, description="by how much a match has to win, in units of the score"
    )
    summed_epochs: int = Field(
        default=1, ge=0, description="warm-up epochs over all negatives before the hardest ones alone"
    )


class ContrastiveSettings(Settings):
    """Multi-positive InfoNCE, averaged over the batch."""

    kind: Literal["contrastive"] = Field(
        default="contrastive",
        description="InfoNCE in both directions; all captions of an image are positives",
    )
    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    temperature: float = Field(
        default=0.05, gt=0, description="what scores are divided by; the first value where it is learnt"
    )
    learnable_temperature: bool = Field(
        default=False, description="train the temperature, kept within 0.01 to 0.1"
    )
    reduction: Literal["standard", "paper"] = Field(
        default="standard", description="`paper` divides by the batch size once more, as CUSA's code does"
    )


class LCASettings(Settings):
    """Local Concept Alignment (SelfAlign)."""

    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    concepts: int = Field(default=1024, gt=1, description="size of the codebook")
    word_temperature: float = Field(default=0.1, gt=0, description="what a word's logits are divided by")
    epsilon: float = Field(
        default=0.05, gt=0, description="sharpness of the regions' assignment; smaller is sharper"
    )
    sinkhorn_iterations: int = Field(default=2, ge=1, description="rounds of balancing the assignment")
    symmetric: bool = Field(default=False, description="also train regions against the words' assignments")
    units: Literal["locals", "context"] = Field(
        default="locals",
        description="what is aligned: units before context, as in the paper, or those the embedding is made of",
    )
    centred: bool = Field(
        default=False,
        description="take from the regions their mean over the batch, and from the words theirs, before they are "
        "compared: where an encoder's units lie in a narrow cone, what they share says nothing about them",
    )
    words: Words = Field(
        default=("all",),
        min_length=1,
        description="classes of the words that are aligned, one or a list; all but `all` need English captions and the "
        "extra `tagger`",
    )
    frozen_codebook_epochs: int = Field(
        default=1, ge=0, description="epochs in which the codebook is not updated"
    )
    queue: int = Field(
        default=0,
        ge=0,
        description="regions of earlier batches that take part in balancing the assignment and have no loss; 0: none",
    )
    warm_start: bool = Field(
        default=False,
        description="set the codebook by k-means on regions of training images as it begins to be trained, after the "
        "frozen epochs",
    )
    caption_pairs: Weight = Field(
        default=0.0,
        description="factor in the total of the term `lca_captions`, the same alignment between the words of two "
        "captions of one image; 0: without",
    )
    correspondence: Correspondence = Field(
        default="learnt",
        description="`learnt`: a word takes the region of its image that is most like it; controls: `shuffled`: of "
        "another image of the batch; `random_codebook`: the codebook stays as it was drawn; `true`: only regions "
        "that show what the word means (synthetic scenes)",
    )

    @model_validator(mode="after")
    def _all_words_stand_alone(self) -> LCASettings:
        if len(set(self.words)) < len(self.words) or ("all" in self.words and len(self.words) > 1):
            raise ValueError(f"words: {', '.join(self.words)}: name a class once, and nothing beside all")
        return self

    @model_validator(mode="after")
    def _a_random_codebook_stays_random(self) -> LCASettings:
        if self.warm_start and self.correspondence == "random_codebook":
            raise ValueError("warm_start sets the codebook that correspondence: random_codebook leaves alone")
        return self


class CRASettings(Settings):
    """Contextual Relation Alignment (SelfAlign); needs model.context_head."""

    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    temperature: float = Field(default=0.7, gt=0, description="what inner products are divided by")
    hard_negatives: int | None = Field(
        default=512, gt=0, description="negatives a query meets, the most similar ones; null: all"
    )
    multi_positive: bool = Field(
        default=True,
        description="all captions of an image in a batch belong to it; false: every pair knows only itself, and the "
        "same image beside another caption is a negative, too",
    )


class DiversitySettings(Settings):
    """CAMERA's diversity loss: the views of an image should weigh its regions differently."""

    weight: Weight = Field(default=0.01, description="factor of this term in the total")
    reduction: Literal["sum", "mean"] = Field(
        default="sum", description="over the images of a batch; `mean` beside an averaged base loss"
    )


class CaptioningSettings(Settings):
    """VSRN's caption generation: regions in context should be enough to write the caption."""

    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    hidden: int = Field(default=512, gt=0, description="width of the decoder")
    word_dim: int = Field(default=300, gt=0, description="width of a word's embedding")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="dropout of the decoder")


class CSASettings(Settings):
    """Cross-modal soft labels (CUSA): images and texts compare as their uni-modal teachers compare each of them."""

    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    mode: Literal["each", "add", "dot"] = Field(
        default="each",
        description="targets; `each`: of the image teacher from image to text, of the text teacher back; `add`: "
        "the mean of both; `dot`: the geometric mean of both",
    )
    temperature: float = Field(
        default=0.45, gt=0, description="what scores are divided by; the first value where it is learnt"
    )
    teacher_temperature: float = Field(
        default=1.0, gt=0, description="what the teachers' cosines are divided by; smaller is sharper"
    )
    learnable_temperature: bool = Field(
        default=True, description="train the temperature, kept within 0.10 to 0.99"
    )


class USASettings(Settings):
    """Uni-modal soft labels (CUSA): images compare with images, texts with texts, as for their teachers."""

    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    temperature: float = Field(
        default=0.45, gt=0, description="what cosines are divided by; the first value where it is learnt"
    )
    teacher_temperature: float = Field(
        default=1.0, gt=0, description="what the teachers' cosines are divided by; smaller is sharper"
    )
    learnable_temperature: bool = Field(
        default=True,
        description="train the temperatures, one for images and one for texts, kept within 0.10 to 1.00",
    )


class MatryoshkaSettings(Settings):
    """The base loss also on the first numbers of the embeddings alone, so that they may be cut after training."""

    weight: Weight = Field(default=1.0, description="factor of this term in the total")
    widths: tuple[float, ...] = Field(
        default=(0.5, 0.25, 0.125),
        min_length=1,
        description="how many numbers: whole ones, or below 1 the share of the width, which may be written `1/2`; the "
        "term is the mean over them",
    )

    @field_validator("widths", mode="before")
    @classmethod
    def _shares_may_be_written_as_fractions(cls, values: Any) -> Any:
        if not isinstance(values, list | tuple):
            return values
        return [_number(value) if isinstance(value, str) else value for value in values]

    @field_validator("widths")
    @classmethod
    def _shares_or_whole_numbers(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        for value in values:
            if value <= 0 or (value > 1 and value != int(value)):
                raise ValueError(f"{value:g} is neither a whole number nor a share between 0 and 1")
        return values


def _number(text: str) -> Any:
    """``1/2`` as a number; what is none is left for others to refuse."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        return text


class ObjectiveSettings(Settings):
    """The base loss and the alignments beside it."""

    base: HingeSettings | ContrastiveSettings = Field(
        default=HingeSettings(),
        discriminator="kind",
        description="the loss of whole images against whole captions; `kind` chooses it",
    )
    lca: LCASettings | None = Field(default=None, description="Local Concept Alignment; null: without")
    diversity: DiversitySettings | None = Field(
        default=None, description="CAMERA's diversity loss; null: without"
    )
    captioning: CaptioningSettings | None = Field(
        default=None, description="VSRN's caption generation; null: without"
    )
    cra: CRASettings | None = Field(default=None, description="Contextual Relation Alignment; null: without")
    csa: CSASettings | None = Field(
        default=None, description="cross-modal soft labels; need `data.teachers`; null: without"
    )
    usa: USASettings | None = Field(
        default=None,
        description="uni-modal soft labels; need `data.teachers` and `model.uni_modal_head`; null: without",
    )
    matryoshka: MatryoshkaSettings | None = Field(
        default=None, description="the base loss on cut embeddings, too; null: without"
    )

    @property
    def asks_teachers(self) -> bool:
        """Whether a term needs the teachers' vectors of a batch."""
        return self.csa is not None or self.usa is not None
