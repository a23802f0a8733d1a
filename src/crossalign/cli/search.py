"""``crossalign search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossalign.cli.run_options import Device, asked_top, device_name, listed, told_bytes
from crossalign.reranking import RERANK_TOP

if TYPE_CHECKING:
    from PIL import Image

    from crossalign.search import SearchEngine, TextSearchEngine

_NAMED = 5


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
    import json
    import time

    from crossalign.data.photos import open_photo
    from crossalign.drawing import check_picture_format
    from crossalign.errors import CrossAlignError

    if info:
        _tell(index, as_json)
        return
    if text is not None and image is not None:
        raise CrossAlignError("both words and --image are given; search with one of the two, not both")
    if text is None and image is None:
        raise CrossAlignError(
            'give words, or a picture with --image: crossalign search INDEX "a dog on the beach"'
        )
    if text is not None and not text.strip():
        raise CrossAlignError("the query is empty; give some words")
    if rerank is not None and image is not None:
        raise CrossAlignError(
            "--rerank: a scorer compares words with the regions of a photo, not two pictures; "
            "search with words, or without --rerank"
        )
    # All that can be told wrong without the model is looked at before it is loaded, which takes seconds.
    picture = None if image is None else open_photo(image)
    if sheet is not None:
        check_picture_format(sheet)

    from crossalign.cli.notes import tell_fallback, tell_unknown_words
    from crossalign.evaluation.run_sources import short_name
    from crossalign.search import PhotoReranker, SearchEngine, contact_sheet, reranked, save_contact_sheet
    from crossalign.search.folders import check_folder
    from crossalign.search.manifest import MANIFEST_FILE, read_manifest
    from crossalign.search.place import check_index

    check_index(index.resolve())
    holds = read_manifest(index / MANIFEST_FILE).holds
    if holds == "texts":
        refused = {"--rerank": rerank is not None, "--folder": bool(folder), "--hubness": hubness is True}
        for option in (option for option, given in refused.items() if given):
            raise CrossAlignError(f"{option}: is for photos, and {index} holds texts; leave it out")
        _find_texts(index, text, image, picture, k, exact, sheet, model, device, as_json)
        return
    if hubness and image is not None:
        raise CrossAlignError(
            "--hubness: the bank holds texts, it corrects how words find photos; leave it out"
        )
    looked_through = asked_top(rerank, rerank_top)
    device = device_name(device)
    check_folder(index, folder)
    top = k if rerank is None else max(k, looked_through)
    # Loaded, as later used, while others can open the index.
    reranker = None if rerank is None else PhotoReranker.open(rerank, device)
    with SearchEngine.open(index, model, device=device) as engine:
        count, complete = engine.count, engine.complete
        if not count:
            raise CrossAlignError(f"{index}: the index holds no photos; {_to_run(engine, model)}")
        begin = time.perf_counter()
        way = engine.compared("text" if text is not None else "image")
        if text is not None:
            query = engine.encode_text(text)
        else:
            assert picture is not None
            query = engine.encode_image(picture, way.space)
        bank = engine.manifest.bank if text is not None and hubness is not False else None
        encoded = time.perf_counter()
        hits = engine.search(
            query,
            top,
            exact=exact,
            folder=folder,
            cosine=way.cosine,
            space=way.space,
            hubness=bank is not None or bool(hubness),
        )
        searched = time.perf_counter()
        photos = engine.photos
        unknown = engine.unknown_words(text or "")
        unfinished = None if complete else _to_run(engine, model)
    ordered = searched
    if reranker is not None and text is not None:
        hits = reranked(hits, text, reranker, progress=not as_json)
        ordered = time.perf_counter()
    unknown_to_second = reranker.model.unknown_words(text or "") if reranker is not None else ()
    tell_unknown_words(unknown)
    tell_fallback(way, "photos")
    if rerank is not None:
        tell_unknown_words(unknown_to_second, f"{rerank} (--rerank)")
    left_out = [hit for hit in hits if hit.problem is not None]
    looked_at, hits = len(hits), hits[:k]
    if unfinished is not None:
        typer.echo(f"crossalign: photos may be missing: {unfinished}", err=True)
    if left_out:
        named = "; ".join(f"{hit.file} ({hit.problem})" for hit in left_out[:_NAMED])
        more = f"; and {len(left_out) - _NAMED} more (--json lists all)" if len(left_out) > _NAMED else ""
        typer.echo(f"crossalign: not re-ranked, {len(left_out)} could not be read: {named}{more}", err=True)
    if sheet is not None:
        note = f"{len(hits)} of {count:,} photos of the folder {photos.name or photos}"
        note += f" · only those in {folder}" if folder else ""
        note += f" · {image.name}" if image is not None else ""
        if rerank is not None:
            note += f" · best {looked_at - len(left_out)} re-ranked by {short_name(rerank)}"
        shown = picture if picture is not None else text or ""
        save_contact_sheet(contact_sheet(hits, shown, note=note), sheet)
    if as_json:
        document = {
            "index": str(index),
            "query": {"text": text} if text is not None else {"image": str(image)},
            "unknown_words": unknown,
            "k": k,
            "exact": exact,
            "holds": "photos",
            "space": way.space,
            "score": "cosine" if way.cosine or way.space == "uni" else "inner product",
            "hubness": None if bank is None else bank.model_dump(mode="json"),
            "rerank": None
            if rerank is None
            else {
                "model": rerank,
                "top": top,
                "unknown_words": unknown_to_second,
                "failures": [{"file": hit.file, "reason": hit.problem} for hit in left_out],
            },
            "folder": folder,
            "photos": count,
            "complete": complete,
            "seconds": {
                "encode": encoded - begin,
                "search": searched - encoded,
                "rerank": ordered - searched,
            },
            "hits": [hit.as_dict() for hit in hits],
            "sheet": str(sheet) if sheet is not None else None,
        }
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    for hit in hits:
        trouble = "  (missing)" if hit.missing else "  (cannot be read)" if hit.problem is not None else ""
        score = f"{hit.score:8.4f}" if hit.problem is None else f"{'–':>8}"
        typer.echo(f"{hit.rank:>4}  {score}  {hit.file}{trouble}")
    if sheet is not None:
        typer.echo(f"sheet: {sheet}")


def _find_texts(
    index: Path,
    text: str | None,
    image: Path | None,
    picture: Image.Image | None,
    k: int,
    exact: bool,
    sheet: Path | None,
    model: str | None,
    device: str,
    as_json: bool,
) -> None:
    """A search in an index of texts."""
    import json
    import time

    from crossalign.cli.notes import tell_fallback, tell_unknown_words
    from crossalign.errors import CrossAlignError
    from crossalign.search import TextSearchEngine, save_contact_sheet, text_sheet

    with TextSearchEngine.open(index, model, device=device_name(device)) as engine:
        count, complete = engine.count, engine.complete
        if not count:
            raise CrossAlignError(f"{index}: the index holds no texts; {_to_run(engine, model)}")
        begin = time.perf_counter()
        way = engine.compared("text" if text is not None else "image")
        if text is not None:
            query = engine.encode_text(text, way.space)
        else:
            assert picture is not None
            query = engine.encode_image(picture, way.space)
        encoded = time.perf_counter()
        hits = engine.search(query, k, exact=exact, cosine=way.cosine, space=way.space)
        searched = time.perf_counter()
        source, split = Path(engine.manifest.source), engine.manifest.split
        unknown = engine.unknown_words(text or "")
        unfinished = None if complete else _to_run(engine, model)
    tell_unknown_words(unknown)
    tell_fallback(way, "texts")
    if unfinished is not None:
        typer.echo(f"crossalign: texts may be missing: {unfinished}", err=True)
    if sheet is not None:
        shown = picture if picture is not None else text or ""
        note = f"{len(hits)} of {count:,} texts of the {'collection' if source.is_dir() else 'file'} {source.name}"
        note += f", split {split}" if split is not None else ""
        note += f" · {image.name}" if image is not None else ""
        save_contact_sheet(text_sheet(hits, shown, note=note), sheet)
    if as_json:
        document = {
            "index": str(index),
            "query": {"text": text} if text is not None else {"image": str(image)},
            "unknown_words": unknown,
            "k": k,
            "exact": exact,
            "holds": "texts",
            "space": way.space,
            "score": "cosine" if way.cosine or way.space == "uni" else "inner product",
            "texts": count,
            "complete": complete,
            "seconds": {"encode": encoded - begin, "search": searched - encoded},
            "hits": [hit.as_dict() for hit in hits],
            "sheet": str(sheet) if sheet is not None else None,
        }
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    for hit in hits:
        places = ", ".join(hit.ids[:_NAMED]) + (", ..." if len(hit.ids) > _NAMED else "")
        typer.echo(f"{hit.rank:>4}  {hit.score:8.4f}  {hit.text}  ({places})")
    if sheet is not None:
        typer.echo(f"sheet: {sheet}")


def _to_run(engine: SearchEngine | TextSearchEngine, model: str | None) -> str:
    """What brings an index up to date, as the end of a sentence."""
    from crossalign.search.commands import index_command

    command = index_command(engine.manifest, engine.place, model=model)
    return (
        f"run: {command}" if engine.complete else f"its last update did not finish; to go on, run: {command}"
    )


def _tell(index: Path, as_json: bool) -> None:
    """``--info``: the description in words; the model is not loaded."""
    import json

    from crossalign.files import used_bytes
    from crossalign.search.manifest import MANIFEST_FILE, read_manifest
    from crossalign.search.place import check_index

    check_index(index.resolve())
    manifest = read_manifest(index / MANIFEST_FILE)
    disk = used_bytes(index / manifest.store)
    if as_json:
        document = manifest.model_dump(mode="json") | {
            "holds": manifest.holds,
            "vector_bytes": manifest.vector_bytes,
            "disk_bytes": disk,
        }
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    views = "" if manifest.views == 1 else f"{manifest.views} of "
    told = {
        "holds": f"{manifest.count:,} {manifest.holds} of {manifest.source}"
        + ("" if manifest.split is None else f", split {manifest.split}")
        + ("" if manifest.complete else "; the last update did not finish"),
        "model": f"{manifest.model or 'given as an object'}, fingerprint {manifest.fingerprint[:12]}",
        "embeddings": f"{views}width {manifest.dim}" + ("" if manifest.width is None else ", cut to it"),
        "uni-modal": "none" if manifest.uni is None else f"width {manifest.uni}",
        "query bank": "none"
        if manifest.bank is None
        else f"{manifest.bank.texts:,} texts of {manifest.bank.source}, temperature {manifest.bank.temperature:g}",
        "vectors": f"{told_bytes(manifest.vector_bytes)} in memory while it is open",
        "on disk": told_bytes(disk),
    }
    typer.echo(listed(told))
