"""The command ``crossalign teach``: a teacher's vectors of photos or captions into a feature store."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crossalign.cli.extract_parts import model_arguments, tell_input
from crossalign.cli.run_options import Device, ResultAsJson, device_name
from crossalign.cli.store_options import (
    BatchSize,
    Filter,
    ImageRoot,
    Mean,
    Precision,
    Resize,
    Side,
    SourceCollection,
    Std,
    StoredPrecision,
    Workers,
    input_changes,
    refuse_options,
    report,
    worker_count,
)
from crossalign.errors import CrossAlignError

if TYPE_CHECKING:
    from crossalign.data.collection import Collection
    from crossalign.data.extraction import Extraction
    from crossalign.teachers import Teaching

__all__ = ["command"]

NETWORKS_ONLY = (
    "weights",
    "model_args",
    "size",
    "mean",
    "std",
    "interpolation",
    "resize",
    "image_root",
    "workers",
)
ENCODERS_ONLY = ("max_length", "pooling")
MODELS_ONLY = ("batch_size", "device")
FILES_ONLY = ("ids",)


class Pooling(StrEnum):
    mean = "mean"
    cls = "cls"
    max = "max"
    mean_sqrt_length = "mean_sqrt_length"
    last = "last"


def command(
    context: typer.Context,
    collection: SourceCollection,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the feature store to write; run the same command again to finish a stopped one.",
            show_default=False,
        ),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            help="Photos: name of a timm model, open_clip:NAME, or a .npy file of published features."
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help="Captions: a sentence-transformers model or another Hugging Face encoder (folder, hub name or "
            "package:NAME/FOLDER), or a .npy file of published features."
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            help="Photos: a .safetensors or .pth file; 'pretrained': those that timm downloads; for open_clip a file "
            "or the tag of its weights."
        ),
    ] = "pretrained",
    model_args: Annotated[
        list[str] | None,
        typer.Option(help="Further argument of a timm model, as key=value; may be repeated."),
    ] = None,
    size: Side = None,
    mean: Mean = None,
    std: Std = None,
    interpolation: Filter = None,
    resize: Annotated[
        Resize | None,
        typer.Option(
            help="squash: the whole photo into a square; crop: its central square; default: squash, for open_clip the "
            "model's own."
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=3, help="Captions: tokens at most; default: the model's own, 64 where it says nothing."
        ),
    ] = None,
    pooling: Annotated[
        Pooling | None,
        typer.Option(
            help="Captions: how token states become one vector; default: the model's own, mean where it says nothing."
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="Ids of the rows of a .npy array: one a line, a .json list, or .npy."),
    ] = None,
    image_root: ImageRoot = None,
    dtype: StoredPrecision = Precision.float16,
    batch_size: BatchSize = 32,
    workers: Workers = None,
    device: Device = "auto",
    as_json: ResultAsJson = False,
) -> None:
    """Compute a teacher's vectors of photos (--images) or captions (--texts) once, for training with soft labels.

    A teacher is a frozen network of one modality. Its stores are what a recipe names in data.teachers.
    """
    if (images is None) == (texts is None):
        raise CrossAlignError("give either --images (photos) or --texts (captions)")
    kind: Literal["image", "text"] = "text" if images is None else "image"
    name = images or texts or ""
    from_file = name.endswith(".npy")
    if not from_file:
        _refuse_other_files(name, kind)
    if from_file:
        only = (*NETWORKS_ONLY, *ENCODERS_ONLY, *MODELS_ONLY)
        refuse_options(context, only, f"only a model has such options, not a file ({name})")
    else:
        refuse_options(context, FILES_ONLY, f"only a .npy file has its ids beside it, not a model ({name})")
    if kind == "text":
        refuse_options(
            context, NETWORKS_ONLY, "only photos (--images) have such options, not captions (--texts)"
        )
    else:
        refuse_options(
            context, ENCODERS_ONLY, "only captions (--texts) have such options, not photos (--images)"
        )
    from crossalign.data.collection import Collection
    from crossalign.data.extraction import Extraction

    source = Collection.load(collection, image_root=image_root)
    if from_file:
        from crossalign.teachers import read_published, teach_published

        taught = teach_published(source, out, kind, read_published(name, ids), dtype=dtype.value)
        _tell_lacks(taught, name)
        done = Extraction(taught.store, 0)
    else:
        shared = {"dtype": dtype.value, "batch_size": batch_size}
        if kind == "text":
            done = _texts(source, out, name, max_length, pooling, device, shared)
        else:
            changes = input_changes(size, mean, std, interpolation, resize)
            options = {
                "weights": weights,
                "model_args": model_arguments(model_args or []),
                "changes": changes,
            }
            shared["workers"] = worker_count(workers)
            done = _images(source, out, name, options, device, shared)
    report(done, as_json)


def _refuse_other_files(name: str, kind: Literal["image", "text"]) -> None:
    """Raise CrossAlignError for a file that is none of NumPy, unless a network has the same name."""
    if not Path(name).is_file():
        return
    if kind == "image":
        from crossalign.encoders.timm_models import is_network

        if is_network(name):
            return
    raise CrossAlignError(
        f"--{kind}s {name}: a file, and of files only .npy is read; save ids and vectors alone (an array with "
        "numpy.save, the ids in a text file for --ids), or give the name of a model"
    )


def _tell_lacks(taught: Teaching, name: str) -> None:
    """Say what of the collection a published file does not have, and what was found by its file name alone."""
    what = {"image": "photos", "text": "captions"}[taught.store.manifest["kind"]]
    if taught.by_file_name:
        typer.echo(f"{name}: {taught.by_file_name} {what} found by their file names", err=True)
    if taught.missing:
        parts = ", ".join(
            f"{split} {missing} of {count}"
            for split, (missing, count) in taught.missing_of.items()
            if missing
        )
        typer.echo(
            f"{name}: lacks {len(taught.missing)} of {len(taught.missing) + len(taught.store)} {what}, "
            f"'{taught.missing[0]}' among them"
            + (f" ({parts}); training needs all of its split" if parts else ""),
            err=True,
        )


def _images(
    source: Collection, out: Path, name: str, options: dict[str, Any], device: str, shared: dict[str, Any]
) -> Extraction:
    from crossalign.teachers import image_teacher, teach_images

    place = device_name(device)
    teacher = image_teacher(name, **options)
    config, changes = teacher.config, options["changes"]
    if changes["size"] is None:
        changes = changes | {"size": options["model_args"].get("img_size")}
    tell_input(config.input, changes, f"{config.library}'s for {config.name}")
    return teach_images(source, out, teacher.to(place), **shared)


def _texts(
    source: Collection,
    out: Path,
    name: str,
    max_length: int | None,
    pooling: Pooling | None,
    device: str,
    shared: dict[str, Any],
) -> Extraction:
    from crossalign.teachers import teach_texts, text_teacher

    place = device_name(device)
    teacher = text_teacher(name, max_length, None if pooling is None else pooling.value)
    return teach_texts(source, out, teacher.to(place), **shared)
