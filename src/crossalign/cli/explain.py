"""``crossalign explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crossalign.cli.run_options import Device, EvaluatedSplit, ImageFeatures, Raw, TextFeatures, device_name
from crossalign.errors import CrossAlignError

if TYPE_CHECKING:
    from crossalign.cli.explain_parts import Boxes


def command(
    model: Annotated[
        str, typer.Argument(help="A training run, a model folder, or a model of the Hugging Face Hub.")
    ],
    image: Annotated[Path | None, typer.Argument(help="Photo to explain.")] = None,
    caption: Annotated[str | None, typer.Argument(help="What is said about it.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Picture (default: PHOTO-explained.png here), or folder of the gallery."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Word-region pairs in colour, 1 to 7.")] = 5,
    units: Annotated[
        Literal["locals", "context"],
        typer.Option(help="Compare words and regions before (locals) or after context reasoning (context)."),
    ] = "locals",
    all_words: Annotated[
        bool, typer.Option("--all-words", help="English articles, prepositions and their like, too.")
    ] = False,
    collection: Annotated[
        Path | None, typer.Option(help="Folder of the collection; default: the run's own.")
    ] = None,
    split: EvaluatedSplit = "test",
    pairs: Annotated[int, typer.Option(min=1, help="Sampled pairs in the gallery.")] = 12,
    concepts: Annotated[int, typer.Option(min=1, help="Concepts in the gallery, the most used ones.")] = 24,
    images: Annotated[int, typer.Option(min=1, help="Images that concepts are judged by.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampled pairs.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier gallery.")] = False,
    score: Annotated[
        bool,
        typer.Option("--score", help="Count how often words find the right region, instead of drawing."),
    ] = False,
    against: Annotated[
        str | None, typer.Option(help="Base model to compare the scores with: a run or a model folder.")
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(help="Detections with labels (JSON lines): words that name a label mean its boxes."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Names of the detector's classes, one a line; default: COCO's.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Leave out boxes that the detector was less sure of.")
    ] = None,
    entities: Annotated[
        Path | None, typer.Option(help="Folder of Flickr30k Entities: Sentences and Annotations.")
    ] = None,
    image_features: ImageFeatures = None,
    text_features: TextFeatures = None,
    raw: Raw = False,
    device: Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was found as JSON on standard output.")
    ] = False,
) -> None:
    """Show which word chose which region.

    With a photo and a caption: a picture of the most similar pairs, and a heat map for every word.

    Without them: a gallery of a collection (--out), or scores (--score) where boxes say what the words mean.
    """
    import json

    from crossalign.cli.explain_parts import Boxes, explain_collection, explain_photo, score_collection
    from crossalign.cli.notes import tell_unknown_words
    from crossalign.explain.gallery import GallerySettings
    from crossalign.explain.overlay import LARGEST_TOP
    from crossalign.model import RetrievalModel

    if not 1 <= top <= LARGEST_TOP:
        raise CrossAlignError(
            f"--top is {top}; ask for 1 to {LARGEST_TOP} pairs, more colours are not told apart"
        )
    known = Boxes(boxes, labels, min_score, entities)
    _check_together(image, caption, score, against, out, known, collection)
    loaded = RetrievalModel.from_pretrained(model, device_name(device))
    if image is not None and caption is not None:
        target = out or (None if as_json else Path(f"{image.stem}-explained.png"))
        document = explain_photo(
            loaded, model, image, caption, target, top=top, units=units, all_words=all_words
        )
        tell_unknown_words(document["unknown_words"])
        _tell_photo(document, as_json)
        return
    stores = {"image_features": image_features or (), "text_features": text_features, "raw": raw}
    if score:
        document = score_collection(
            loaded, model, collection, split, known, against, stores, progress=not as_json
        )
        if as_json:
            typer.echo(json.dumps(document, ensure_ascii=False))
        return
    assert out is not None
    document = explain_collection(
        loaded,
        model,
        collection,
        split,
        out,
        GallerySettings(pairs, concepts, images, top, units, all_words, seed),
        known,
        against,
        stores,
        overwrite=overwrite,
        progress=not as_json,
    )
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False))
    else:
        if document["no_concepts"] is not None:
            typer.echo(f"no concepts: {document['no_concepts']}")
        typer.echo(f"gallery: {out / 'index.html'}")


def _check_together(
    image: Path | None,
    caption: str | None,
    score: bool,
    against: str | None,
    out: Path | None,
    known: Boxes,
    collection: Path | None,
) -> None:
    """Refuse options that do not go together, before anything is loaded."""
    if image is not None and caption is None:
        raise CrossAlignError('give a caption, too: crossalign explain MODEL PHOTO "a dog on the beach"')
    if caption is not None and not caption.strip():
        raise CrossAlignError("the caption is empty; say what the photo shows")
    if known.path is not None and known.entities is not None:
        raise CrossAlignError("give --boxes or --entities, not both")
    if known.path is None and (known.labels is not None or known.min_score is not None):
        raise CrossAlignError("--labels and --min-score are about detections; give --boxes, too")
    if image is not None:
        if score or against is not None or collection is not None or known.given:
            raise CrossAlignError(
                "scores and galleries are those of a collection; leave the photo and the caption out"
            )
        return
    if score and out is not None:
        raise CrossAlignError("--score draws nothing; leave --out away, or --score for a gallery")
    if not score and out is None:
        raise CrossAlignError(
            'give a photo and a caption: crossalign explain MODEL PHOTO "a dog on the beach"; '
            "or --out FOLDER for a gallery, or --score"
        )


def _tell_photo(document: dict[str, Any], as_json: bool) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    for pair in document["pairs"]:
        box = " ".join(f"{corner:.2f}" for corner in pair["box"])
        typer.echo(
            f"{pair['rank']:>4}  {pair['similarity'] + 0.0:8.4f}  {pair['word']}  (region {pair['region']}: {box})"
        )
    typer.echo(f"picture: {document['picture']}")
