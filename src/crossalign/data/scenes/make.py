"""Make a collection of synthetic scenes: pictures, captions, true boxes and the object behind every word."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from crossalign.data.collection import CaptionRecord, Collection, ImageRecord
from crossalign.data.scenes.captions import SceneCaption, write_captions
from crossalign.data.scenes.claims import SceneIndex
from crossalign.data.scenes.drawing import draw_scene
from crossalign.data.scenes.world import SHAPES, Scene, sample_scenes
from crossalign.errors import CrossAlignError
from crossalign.folders import atomic_folder
from crossalign.progress import progress_bar

__all__ = ["DETECTIONS", "SCENES", "TRUTH", "make_scenes"]

IMAGES = "images"
DETECTIONS, SCENES, TRUTH = "detections.jsonl", "scenes.jsonl", "truth.jsonl"
COLLECTION_FILES = ("collection.json", "images.parquet", "captions.parquet")
OWN_FILES = {IMAGES, DETECTIONS, SCENES, TRUTH, *COLLECTION_FILES}
SMALLEST = 32


def make_scenes(
    folder: str | Path,
    *,
    train: int = 2000,
    val: int = 200,
    test: int = 500,
    size: int = 96,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> Collection:
    """Draw scenes of coloured shapes, write five captions for each, and keep which object every word means.

    Scenes come in families that hold the same words and differ in what belongs to what and what stands where
    ("a red circle left of a small blue star", "a blue circle left of a small red star"). A family never
    crosses splits. Equal arguments make equal bytes.

    Beside the collection the folder holds ``images/*.png`` of ``size`` x ``size`` pixels,
    ``detections.jsonl`` (true boxes as a detector would report them), ``scenes.jsonl`` (what is in each
    picture) and
    ``truth.jsonl`` (the object behind each word); ``SceneTruth.load`` reads them back. The folder appears
    whole or not at all.

    Raises:
        CrossAlignError: a count is negative, all are zero, the size is below 32 pixels, or ``folder`` exists
            and ``overwrite`` is false or it holds anything that was not made here.
    """
    counts = {"train": train, "val": val, "test": test}
    _check(Path(folder), counts, size, overwrite)
    with atomic_folder(folder, overwrite=overwrite) as temporary, progress_bar(progress) as bar:
        # The collection insists on making its own folder; its files then move up beside the pictures.
        inner = temporary / "collection"
        pictures = temporary / IMAGES
        pictures.mkdir()
        images: list[ImageRecord] = []
        captions: list[CaptionRecord] = []
        detections: list[dict[str, Any]] = []
        scene_rows: list[dict[str, Any]] = []
        truths: list[dict[str, Any]] = []
        task = bar.add_task("Drawing scenes", total=sum(counts.values()), status="")
        for split, count in counts.items():
            index = SceneIndex(sample_scenes(count, f"{seed}/{split}"))
            for position in range(count):
                image_id = f"{split}-{position:05d}"
                scene = index[position]
                picture, boxes = draw_scene(scene, size)
                picture.save(pictures / f"{image_id}.png", compress_level=4)
                images.append(ImageRecord(image_id, f"{image_id}.png", size, size))
                detections.append(_detection(image_id, scene, boxes))
                scene_rows.append(_scene_row(image_id, scene, boxes))
                told = write_captions(position, index, random.Random(f"{seed}/{split}/captions/{position}"))
                for number, caption in enumerate(told):
                    caption_id = f"{image_id}#{number}"
                    captions.append(CaptionRecord(caption_id, image_id, caption.text, split))
                    truths.append(_truth(caption_id, image_id, caption))
                bar.advance(task)
        _write_lines(temporary / DETECTIONS, detections)
        _write_lines(temporary / SCENES, scene_rows)
        _write_lines(temporary / TRUTH, truths)
        Collection.write(
            inner,
            name="scenes",
            image_root=inner / IMAGES,
            images=images,
            captions=captions,
            provenance={"source": "synthetic scenes", "seed": seed, "size": size, **counts},
        )
        for name in COLLECTION_FILES:
            (inner / name).rename(temporary / name)
        inner.rmdir()
    return Collection.load(folder)


def _check(folder: Path, counts: Mapping[str, int], size: int, overwrite: bool) -> None:
    for split, count in counts.items():
        if count < 0:
            raise CrossAlignError(f"{split}: {count} scenes asked for; ask for 0 or more")
    if not any(counts.values()):
        raise CrossAlignError(f"{folder}: no scenes asked for; give train, val or test a count above 0")
    if size < SMALLEST:
        raise CrossAlignError(f"size: {size} pixels are too few to draw on; ask for {SMALLEST} or more")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CrossAlignError(f"{folder}: not a folder; choose another place")
    if not overwrite:
        raise CrossAlignError(f"{folder}: already exists; choose another place or overwrite it (--overwrite)")
    other = sorted({entry.name for entry in folder.iterdir()} - OWN_FILES)
    if other:
        raise CrossAlignError(
            f"{folder}: will not be overwritten, it holds more than scenes ({', '.join(other[:5])}); "
            "move that away or choose another place"
        )


def _detection(image_id: str, scene: Scene, boxes: list[tuple[int, int, int, int]]) -> dict[str, Any]:
    """The true boxes as a perfect detector would report them: pixels, scores, classes and their names."""
    shapes = [item.shape for item in scene.objects]
    return {
        "filename": f"{image_id}.png",
        "boxes": boxes,
        "scores": [1.0] * len(boxes),
        "classes": [SHAPES.index(shape) for shape in shapes],
        "labels": shapes,
    }


def _scene_row(image_id: str, scene: Scene, boxes: list[tuple[int, int, int, int]]) -> dict[str, Any]:
    return {
        "image_id": image_id,
        **vars(scene),
        "objects": [vars(item) for item in scene.objects],
        "boxes": boxes,
    }


def _truth(caption_id: str, image_id: str, caption: SceneCaption) -> dict[str, Any]:
    return {
        "caption_id": caption_id,
        "image_id": image_id,
        "spans": caption.spans,
        "kinds": caption.kinds,
        "claims": caption.claims.to_json(),
    }


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
