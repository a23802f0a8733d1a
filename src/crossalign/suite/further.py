"""What a suite is given besides the collection: sentence pairs, judgements, and photos with classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossalign.errors import CrossAlignError
from crossalign.suite.class_layouts import LabelledPhotos, read_labelled_photos
from crossalign.suite.cxc import CxcPart, read_cxc
from crossalign.suite.judgements import Judgements, read_judgements
from crossalign.suite.sts_files import SentencePairs, read_sts

__all__ = ["FurtherData"]


@dataclass(frozen=True)
class FurtherData:
    """Further data of an evaluation, read.

    Attributes:
        split: that Crisscrossed Captions judge.
        sts: sentence pairs by task; None: none are named.
        cxc: the parts of Crisscrossed Captions that are there; None: they are not named.
        judgements: Flickr8k's judgements by people; None: they are not named.
        classes: photos with classes.
    """

    split: str = "test"
    sts: Mapping[str, Sequence[SentencePairs]] | None = None
    cxc: Sequence[CxcPart] | None = None
    judgements: Sequence[Judgements] | None = None
    classes: Sequence[LabelledPhotos] = ()

    @classmethod
    def read(
        cls,
        split: str = "test",
        *,
        sts: str | Path | None = None,
        cxc: str | Path | None = None,
        judgements: str | Path | None = None,
        classes: Sequence[str | Path] = (),
    ) -> FurtherData:
        """Read all that is named.

        Args:
            split: of Crisscrossed Captions: ``val`` or ``test``.
            sts: folder of sentence pairs, see :func:`~crossalign.suite.sts_files.read_sts`.
            cxc: folder of the CSVs of Crisscrossed Captions.
            judgements: folder of Flickr8k's judgements by experts and by the crowd.
            classes: photos with classes, see :func:`~crossalign.suite.class_layouts.read_labelled_photos`.

        Raises:
            CrossAlignError: what is named is not there or is damaged, or the split has no judgements.
        """
        if cxc is not None and split not in ("val", "test"):
            raise CrossAlignError(
                f"Crisscrossed Captions has judgements of the splits val and test, not of {split}; leave --cxc out"
            )
        return cls(
            split=split,
            sts=None if sts is None else read_sts(sts),
            cxc=None if cxc is None else read_cxc(cxc, split),
            judgements=None if judgements is None else read_judgements(judgements),
            classes=tuple(read_labelled_photos(place) for place in classes),
        )
