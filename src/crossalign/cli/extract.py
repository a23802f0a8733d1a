"""The command ``crossalign extract``: photos or captions of a collection into a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crossalign.cli.extract_parts import image_backbone, regions, text_backbone
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

__all__ = ["command"]

PHOTOS_ONLY = (
    "weights", "model_args", "size", "mean", "std", "interpolation", "resize", "layer", "grid", "global_cell",
    "boxes", "detector", "cells", "min_score", "max_boxes", "image_root", "workers",
)  # fmt: skip
CAPTIONS_ONLY = ("max_length", "text_layer")


def command(
    context: typer.Context,
    collection: SourceCollection,
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder of the feature store to write; run the same command again to finish a stopped one.",
            show_default=False,
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Photos: name of a timm model.")] = None,
    weights: Annotated[
        str, typer.Option(help="A .safetensors or .pth file, or 'pretrained': what timm downloads.")
    ] = "pretrained",
    model_args: Annotated[
        list[str] | None, typer.Option(help="Further argument of the model, as key=value; may be repeated.")
    ] = None,
    size: Side = None,
    mean: Mean = None,
    std: Std = None,
    interpolation: Filter = None,
    resize: Annotated[
        Resize, typer.Option(help="squash: the whole photo into a square; crop: its central square.")
    ] = Resize.squash,
    layer: Annotated[
        int | None,
        typer.Option(help="Inner layer to read (timm's index, -1 the last); default: the final map."),
    ] = None,
    grid: Annotated[int, typer.Option(min=0, help="Cells a side; 0: the map as it comes.")] = 4,
    global_cell: Annotated[bool, typer.Option(help="Put the mean of the whole map first.")] = True,
    boxes: Annotated[
        Path | None, typer.Option(help="Boxes instead of cells: a file of detections (JSON lines).")
    ] = None,
    detector: Annotated[
        Path | None, typer.Option(help="Boxes instead of cells: an ONNX detector of the YOLOX layout.")
    ] = None,
    cells: Annotated[
        bool,
        typer.Option("--cells", help="With --boxes or --detector: the grid's cells, too, before the boxes."),
    ] = False,
    min_score: Annotated[
        float | None, typer.Option(help="Leave out less sure boxes; default: 0.1 (detector), none (file).")
    ] = None,
    max_boxes: Annotated[
        int | None,
        typer.Option(min=1, help="Keep the surest boxes of a photo; default: 20 (detector), all (file)."),
    ] = None,
    text_model: Annotated[
        str | None,
        typer.Option(help="Captions: a Hugging Face encoder: folder, hub name or package:NAME/FOLDER."),
    ] = None,
    max_length: Annotated[
        int, typer.Option(min=3, help="Tokens of a caption at most, special ones included.")
    ] = 64,
    text_layer: Annotated[int | None, typer.Option(help="Hidden layer to read; default: the last.")] = None,
    image_root: ImageRoot = None,
    dtype: StoredPrecision = Precision.float16,
    batch_size: BatchSize = 32,
    workers: Workers = None,
    device: Device = "auto",
    as_json: ResultAsJson = False,
) -> None:
    """Compute features of photos (--model) or captions (--text-model) once, and store them for training.

    Photos give a grid of cells from any network of timm, or regions from boxes with the whole photo first, or both;
    captions give the token states of a Hugging Face encoder.
    """
    if (model is None) == (text_model is None):
        raise CrossAlignError("give either --model (photos) or --text-model (captions)")
    if text_model is not None:
        refuse_options(
            context, PHOTOS_ONLY, "only photos (--model) have such options, not captions (--text-model)"
        )
    else:
        refuse_options(
            context, CAPTIONS_ONLY, "only captions (--text-model) have such options, not photos (--model)"
        )
    if boxes is not None and detector is not None:
        raise CrossAlignError("give either --boxes or --detector, not both")
    if cells and boxes is None and detector is None:
        raise CrossAlignError(
            "--cells keeps cells beside boxes; give --boxes or --detector too, or leave it out"
        )
    from crossalign.data.collection import Collection
    from crossalign.data.extract import extract_images, extract_texts

    place = device_name(device)
    source = Collection.load(collection, image_root=image_root)
    shared: dict[str, Any] = {"dtype": dtype.value, "batch_size": batch_size}
    if text_model is not None:
        encoder = text_backbone(text_model, max_length, text_layer).to(place)
        done = extract_texts(source, out, encoder, **shared)
    else:
        assert model is not None
        changes = input_changes(size, mean, std, interpolation, resize)
        network = image_backbone(model, weights, model_args or [], changes, layer, grid or None, global_cell)
        done = extract_images(
            source,
            out,
            network.to(place),
            boxes=regions(boxes, detector, min_score, max_boxes),
            cells=cells,
            workers=worker_count(workers),
            **shared,
        )
    report(done, as_json)
