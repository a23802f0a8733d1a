"""``crossalign search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossalign.cli.run_options import Device, asked_top, device_name
from crossalign.reranking import RERANK_TOP


def command(
    index: Annotated[Path, typer.Argument(help="Folder of the index.")],
    text: Annotated[
        str | None, typer.Argument(help="What the photo should show, or the text be like, in words.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", "-i", help="Search with this picture instead.")
    ] = None,
    k: Annotated[int, typer.Option("--top", "-k", min=1, help="Photos or texts wanted.")] = 10,
    folder: Annotated[
        str,
        typer.Option(
            "--folder", help="Only photos in this folder of the photo folder; for an index of photos."
        ),
    ] = "",
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Compare with every photo or text instead of walking the index's graph."
        ),
    ] = False,
    rerank: Annotated[
        str | None,
        typer.Option(
            help="A run or model with a scorer, such as SCAN: it puts the best photos into its own order. For words."
        ),
    ] = None,
    rerank_top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"How many of the best photos --rerank looks at, at least --top of them; default: {RERANK_TOP}.",
        ),
    ] = None,
    hubness: Annotated[
        bool | None,
        typer.Option(
            "--hubness/--no-hubness",
            help="Correct scores by the index's query bank, for words; default: where there is one "
            "(crossalign index --bank).",
        ),
    ] = None,
    info: Annotated[
        bool,
        typer.Option("--info", help="Say what the index holds and what room it takes, and search nothing."),
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write the hits as a picture, such as hits.png.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Where the model is now, if it has moved since indexing.")
    ] = None,
    device: Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the hits as JSON on standard output.")
    ] = False,
) -> None:
    """Find photos, or texts, by words or by a picture.

    What the index holds, and what the query is, tell which embeddings are compared.
    """
    from crossalign.data.photos import open_photo
    from crossalign.drawing import check_picture_format
    from crossalign.errors import CrossAlignError

    # All that can be told wrong without the model is looked at before it is loaded, which takes seconds.
    if not info:
        _check_query(text, image, rerank)
    picture = None if image is None or info else open_photo(image)
    if sheet is not None and not info:
        check_picture_format(sheet)

    from crossalign.cli.search_parts import Question, Reranking, find_photos, find_texts, tell_index
    from crossalign.search import PhotoReranker
    from crossalign.search.folders import check_folder
    from crossalign.search.manifest import MANIFEST_FILE, read_manifest
    from crossalign.search.place import check_index

    check_index(index.resolve())
    manifest = read_manifest(index / MANIFEST_FILE)
    if info:
        tell_index(index, manifest, as_json)
        return
    if manifest.holds == "texts":
        refused = {
            "--rerank": rerank is not None,
            "--rerank-top": rerank_top is not None,
            "--folder": bool(folder),
            "--hubness": hubness is True,
        }
        for option in (option for option, given in refused.items() if given):
            raise CrossAlignError(f"{option}: is for photos, and {index} holds texts; leave it out")
    if hubness and image is not None:
        raise CrossAlignError(
            "--hubness: the bank holds texts, it corrects how words find photos; leave it out"
        )
    looked_through = asked_top(rerank, rerank_top)
    question = Question(
        index=index,
        text=text,
        image=image,
        picture=picture,
        k=k,
        exact=exact,
        sheet=sheet,
        model=model,
        device=device_name(device),
        as_json=as_json,
    )
    if manifest.holds == "texts":
        find_texts(question)
        return
    check_folder(index, folder)
    # Loaded, as later used, while others can open the index.
    reranking = (
        None
        if rerank is None
        else Reranking(rerank, PhotoReranker.open(rerank, question.device), max(k, looked_through))
    )
    find_photos(question, folder=folder, reranking=reranking, hubness=hubness)


# Unicode's categories of punctuation, separators and control signs.
_NO_WORD = frozenset({"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Zs", "Zl", "Zp", "Cc", "Cf"})


def _check_query(text: str | None, image: Path | None, rerank: str | None) -> None:
    """Refuse a query that is none, or two."""
    import unicodedata

    from crossalign.errors import CrossAlignError

    if text is not None and image is not None:
        raise CrossAlignError("both words and --image are given; search with one of the two, not both")
    if text is None and image is None:
        raise CrossAlignError(
            'give words, or a picture with --image: crossalign search INDEX "a dog on the beach"'
        )
    if text is not None and not text.strip():
        raise CrossAlignError("the query is empty; give some words")
    # Other signs may mean something: a dual encoder has read many an emoji.
    if text is not None and all(unicodedata.category(sign) in _NO_WORD for sign in text):
        raise CrossAlignError(
            f"the query '{' '.join(text.split())}' has no word; describe what is looked for"
        )
    if rerank is not None and image is not None:
        raise CrossAlignError(
            "--rerank: a scorer compares words with the regions of a photo, not two pictures; "
            "search with words, or without --rerank"
        )
