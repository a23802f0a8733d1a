"""The gallery as HTML; every text that comes from outside is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files

from PIL import Image

from crossalign.evaluation.grounding import GroundingResult
from crossalign.evaluation.report import html_page
from crossalign.evaluation.report_sections import data_address, grounding_section, head, section
from crossalign.explain.concepts import Concept, ConceptUse

__all__ = ["GalleryPage", "ShownPair", "render_gallery"]


@dataclass(frozen=True)
class ShownPair:
    """An explained pair: the file of its picture relative to the page, and what the picture says in words."""

    file: str
    said: str


@dataclass(frozen=True)
class GalleryPage:
    """Everything that the page shows.

    Attributes:
        title, subtitle: of the page.
        pairs: the explained pairs.
        pairs_note: how to read them.
        concepts: how the codebook is used; None where there is no codebook.
        crops: by index of a shown concept, its typical regions as small pictures.
        concepts_note: how to read the concepts, or why there are none.
        grounding: by name, word-to-region accuracy; empty where no boxes are known.
    """

    title: str
    subtitle: str
    pairs: Sequence[ShownPair]
    pairs_note: str
    concepts: ConceptUse | None
    crops: Mapping[int, Sequence[Image.Image]]
    concepts_note: str
    grounding: Mapping[str, GroundingResult] = field(default_factory=dict)


def render_gallery(page: GalleryPage) -> str:
    """The page as one HTML document; the pictures of the pairs stand beside it as files."""
    body = [
        head(page.title, page.subtitle, _headline(page)),
        section("Words and the regions they chose", *map(_pair, page.pairs), note=page.pairs_note),
        section("Concepts of the codebook", *_concepts(page), note=page.concepts_note),
        grounding_section(page.grounding),
    ]
    style = (files("crossalign.explain") / "gallery.css").read_text(encoding="utf-8")
    return html_page(page.title, body, style)


def _headline(page: GalleryPage) -> list[tuple[str, str, str]]:
    figures = [
        (f"Word to region, {name}", f"{result.accuracy:.1f} %", f"chance {result.chance:.1f} %")
        for name, result in page.grounding.items()
    ]
    use = page.concepts
    if use is not None:
        figures += [
            (
                "Concepts in use",
                f"{use.used_by_regions} of {use.concepts}",
                f"by regions; by words {use.used_by_words}",
            ),
            (
                "Perplexity",
                f"{use.region_perplexity:.0f}",
                f"by regions; by words {use.word_perplexity:.0f}; {use.concepts} if all were used alike",
            ),
            (
                "Word and region agree",
                f"{use.agreement:.1f} %",
                f"share their concept; chance {use.chance:.1f} %",
            ),
        ]
    return figures


def _pair(pair: ShownPair) -> str:
    file = escape(pair.file)
    return f'<figure class="pair"><a href="{file}"><img src="{file}" alt="{escape(pair.said)}"></a></figure>'


def _concepts(page: GalleryPage) -> list[str]:
    if page.concepts is None:
        return []
    largest = max(
        max(concept.region_share for concept in page.concepts.shown),
        max(concept.word_share for concept in page.concepts.shown),
    )
    return [_concept(concept, page.crops[concept.index], largest) for concept in page.concepts.shown]


def _concept(concept: Concept, crops: Sequence[Image.Image], largest: float) -> str:
    words = "".join(f"<li>{escape(word)}<small>{count:,}</small></li>" for word, count in concept.words)
    told = f'<ul class="words">{words}</ul>' if words else '<p class="empty">no word is nearest to it</p>'
    use = "".join(
        f'<span>{name}</span><div class="track"><i style="width: {100 * share / largest:.2f}%"></i></div>'
        f"<span>{share:.1f} %</span>"
        for name, share in (("regions", concept.region_share), ("words", concept.word_share))
    )
    pictures = "".join(
        f'<li><img src="{data_address(crop)}" alt="typical region {number}">'
        f"<small>{region.similarity:.2f}</small></li>"
        for number, (crop, region) in enumerate(zip(crops, concept.regions, strict=True), start=1)
    )
    none = (
        ""
        if concept.owns_regions
        else '<p class="empty">no region is nearest to it; the most similar ones:</p>'
    )
    return (
        f'<article class="concept"><div><h3>Concept {concept.index}</h3>{told}<div class="use">{use}</div></div>'
        f'<div>{none}<ol class="crops">{pictures}</ol></div></article>'
    )
