"""The command ``crossalign import``: other formats into a collection."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossalign.cli.import_report import import_photos, run_and_report, show_progress
from crossalign.cli.store_options import Precision
from crossalign.errors import CrossAlignError

if TYPE_CHECKING:
    from crossalign.data.collection import Collection

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Turn images and captions of another format into a collection. Everything is checked first; "
    "nothing is written when something is wrong.",
)

Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the collection to write.", show_default=False)
]
Name = Annotated[str | None, typer.Option(help="Name of the collection; the name of the folder otherwise.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave bad images and captions out instead of failing.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the collection that is there already.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result, or the problems, as JSON.")]
Images = Annotated[Path | None, typer.Option(help="Folder of the photos; the folder of the file otherwise.")]
OneSplit = Annotated[str | None, typer.Option("--split", help="Put everything into this split.")]
SplitSizes = Annotated[
    str | None,
    typer.Option(
        help="Draw splits by image, in place of the source's own: 'val=0.1,test=0.1' (fractions) or "
        "'val=1000,test=1000' (images); train gets the rest."
    ),
]
Seed = Annotated[int, typer.Option(help="Another seed draws other splits (--split-sizes).")]


class ImageIds(StrEnum):
    auto = "auto"
    cocoid = "cocoid"
    filename = "filename"
    imgid = "imgid"


class BoxUnits(StrEnum):
    pixels = "pixels"
    relative = "relative"


@app.command()
def karpathy(
    source: Annotated[
        Path, typer.Argument(help="The JSON file, such as dataset_coco.json.", show_default=False)
    ],
    images: Annotated[Path, typer.Option(help="Folder of the photos.", show_default=False)],
    out: Out,
    name: Name = None,
    fold_restval: Annotated[
        bool,
        typer.Option(
            "--fold-restval/--keep-restval",
            help="Count COCO's split 'restval' as train, as published results do, or keep it as a split.",
        ),
    ] = True,
    image_ids: Annotated[
        ImageIds,
        typer.Option(help="What names an image; auto: its COCO id, or the file name where there is none."),
    ] = ImageIds.auto,
    split: OneSplit = None,
    split_sizes: SplitSizes = None,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Import Karpathy's JSON of COCO, Flickr8k or Flickr30k."""
    from crossalign.data.importers import read_karpathy

    import_photos(
        lambda: read_karpathy(source, images, fold_restval=fold_restval, image_ids=image_ids.value),
        source, out, name, split, split_sizes, seed, skip_bad, overwrite, as_json,
    )  # fmt: skip


@app.command()
def table(
    source: Annotated[
        Path,
        typer.Argument(help="A CSV or TSV file with a header and one caption a row.", show_default=False),
    ],
    out: Out,
    images: Images = None,
    image_column: Annotated[
        str, typer.Option(help="Column of the image file, relative to --images.")
    ] = "image",
    caption_column: Annotated[str, typer.Option(help="Column of the caption.")] = "caption",
    split_column: Annotated[str, typer.Option(help="Column of the split, if there is one.")] = "split",
    label_column: Annotated[str, typer.Option(help="Column of a class label, if there is one.")] = "label",
    image_id_column: Annotated[
        str, typer.Option(help="Column of the image's id, if there is one.")
    ] = "image_id",
    caption_id_column: Annotated[
        str, typer.Option(help="Column of the caption's id, if there is one.")
    ] = "caption_id",
    delimiter: Annotated[
        str | None, typer.Option(help="Character between columns; a tab for .tsv, otherwise a comma.")
    ] = None,
    quotes: Annotated[
        bool | None,
        typer.Option(
            "--quotes/--no-quotes", help='Whether "..." encloses a field; not in .tsv, otherwise yes.'
        ),
    ] = None,
    name: Name = None,
    split: OneSplit = None,
    split_sizes: SplitSizes = None,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Import a CSV or TSV table."""
    from crossalign.data.importers import Columns, read_table

    columns = Columns(
        image_column, caption_column, split_column, label_column, image_id_column, caption_id_column
    )
    import_photos(
        lambda: read_table(source, images, columns=columns, delimiter=delimiter, quotes=quotes),
        source, out, name, split, split_sizes, seed, skip_bad, overwrite, as_json,
    )  # fmt: skip


@app.command()
def folder(
    source: Annotated[
        Path, typer.Argument(help="Folder of photos; folders in it count.", show_default=False)
    ],
    out: Out,
    captions: Annotated[
        Path | None,
        typer.Option(
            help="Lines 'name.jpg<TAB>caption', 'name.jpg,caption' or 'name.jpg#0<TAB>caption'. Otherwise "
            "captions.txt, .tsv or .csv in the folder; otherwise the lines of name.txt beside every photo."
        ),
    ] = None,
    name: Name = None,
    split: OneSplit = None,
    split_sizes: SplitSizes = None,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Import a folder of photos with captions in text files (needs --split or --split-sizes)."""
    from crossalign.data.importers import read_folder

    import_photos(
        lambda: read_folder(source, captions),
        source, out, name, split, split_sizes, seed, skip_bad, overwrite, as_json,
    )  # fmt: skip


@app.command()
def cusa(
    sources: Annotated[
        list[Path], typer.Argument(help="JSON lists of {image_path, caption, image_id}.", show_default=False)
    ],
    out: Out,
    images: Images = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Split of the file, once for every file; otherwise from names such as new_train.json."
        ),
    ] = None,
    name: Name = None,
    split_sizes: SplitSizes = None,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Import JSON lists of image-caption pairs as CUSA reads them, one file for every split."""
    from crossalign.data.importers import read_cusa

    if split and split_sizes is not None:
        raise CrossAlignError("--split and --split-sizes exclude each other; give one of them")
    import_photos(
        lambda: read_cusa(sources, images, splits=split or ()),
        sources[0], out, name, None, split_sizes, seed, skip_bad, overwrite, as_json,
    )  # fmt: skip


@app.command()
def precomputed(
    source: Annotated[
        Path, typer.Argument(help="Folder with train_ims.npy, train_caps.txt and so on.", show_default=False)
    ],
    out: Out,
    splits: Annotated[
        str | None, typer.Option(help="Splits to import, 'train,dev,test'; otherwise all.")
    ] = None,
    captions_per_image: Annotated[int, typer.Option(min=1, help="Captions of an image.")] = 5,
    boxes: Annotated[
        bool, typer.Option("--boxes/--no-boxes", help="Import boxes where there are some.")
    ] = True,
    box_units: Annotated[
        BoxUnits | None, typer.Option(help="Units of the boxes' corners; otherwise their values tell.")
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="Type in which features are stored.")] = Precision.float32,
    name: Name = None,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Import SCAN-style precomputed region features and captions; features go to OUT/features."""
    from crossalign.data.importers import import_precomputed, read_precomputed
    from crossalign.data.tables import check_target

    def run() -> Collection:
        check_target(out, overwrite)
        wanted = [part.strip() for part in splits.split(",") if part.strip()] if splits else []
        data = read_precomputed(
            source,
            splits=wanted,
            captions_per_image=captions_per_image,
            boxes=boxes,
            box_units=None if box_units is None else box_units.value,
            progress=show_progress(),
        )
        return import_precomputed(
            data, out, called=str(source), name=name, dtype=dtype.value, skip_bad=skip_bad,
            overwrite=overwrite, progress=show_progress(),
        )  # fmt: skip

    run_and_report(run, as_json)
