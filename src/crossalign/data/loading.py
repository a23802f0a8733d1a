"""From a split to batches: deterministic in the seed, resumable at any step, never loading a collection whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from crossalign.data.batch import Batch, ImageInputs, TeacherFeatures, TextInputs, WordNotes
from crossalign.data.collection import Collection, Split
from crossalign.data.features import FeatureStore
from crossalign.data.photos import open_photo
from crossalign.encoders.inputs import InputSettings
from crossalign.errors import CrossAlignError
from crossalign.processes import ALONE, Processes

__all__ = [
    "ImageSource",
    "NoteSource",
    "PairSampler",
    "TeacherReader",
    "TextSource",
    "TrainingLoader",
    "find_store",
]

# The notes on the captions at these positions of the split, as wide as their inputs.
NoteSource = Callable[[np.ndarray, int], WordNotes]
# Teachers' vectors of the images and captions at these positions of the split.
TeacherReader = Callable[[np.ndarray, np.ndarray], TeacherFeatures]


def find_store(collection: Collection, name: str, command: str | None = None) -> FeatureStore:
    """A FeatureStore by path, or by its name in the collection's ``features`` folder.

    An import of precomputed features leaves its store as that folder itself: its name is ``features``.

    Args:
        command: what makes such a store, for the message; None: ``extract``.

    Raises:
        CrossAlignError: there is none, or it is unfinished or damaged.
    """
    beside = collection.folder / "features" / name
    for place in (beside, collection.folder / name):
        if place.is_dir():
            return FeatureStore.open(place)
    if not Path(name).is_dir():
        raise CrossAlignError(
            f"no FeatureStore '{name}', neither as a path nor in {collection.folder / 'features'}; "
            f"run: {command or f'crossalign extract {collection.folder} {beside} --help'}"
        )
    return FeatureStore.open(name)


class ImageSource:
    """Image inputs of a split: rows of FeatureStores side by side, or pre-processed photos.

    Args:
        collection: where the photos are.
        split: the images asked for by position.
        stores: FeatureStores with the same units for each image; their features are concatenated.
        preprocess: how a photo becomes ``(3, H, W)``; used where there are no stores.
        photo_inputs: paths of photos to their inputs; used where there is neither.
        flip: probability of mirroring a photo in training.
        crop: smallest share of each side that a random training crop keeps.

    Raises:
        CrossAlignError: an image has no row in a store.
    """

    def __init__(
        self,
        collection: Collection,
        split: Split,
        stores: Sequence[FeatureStore] = (),
        preprocess: InputSettings | None = None,
        photo_inputs: Callable[[Sequence[Path]], ImageInputs] | None = None,
        *,
        flip: float = 0.0,
        crop: float = 1.0,
    ) -> None:
        self.stores = tuple(stores)
        self.positions = [store.index(split.image_ids) for store in self.stores]
        self.aspect = _aspects(collection, split)
        self.preprocess = preprocess
        self.photo_inputs = photo_inputs
        self.flip, self.crop = flip, crop
        self.paths = (
            () if self.stores else tuple(collection.image_path(image_id) for image_id in split.image_ids)
        )

    def __call__(self, images: np.ndarray, random: np.random.Generator | None = None) -> ImageInputs:
        """Inputs of the images at these positions of the split; ``random`` turns augmentation on."""
        if self.stores:
            parts = [
                store.batch(position[images])
                for store, position in zip(self.stores, self.positions, strict=True)
            ]
            features = parts[0].features
            if len(parts) > 1:
                if any(not np.array_equal(part.mask, parts[0].mask) for part in parts):
                    raise CrossAlignError(
                        "image_features: the stores hold different regions of the same image"
                    )
                features = np.concatenate([part.features for part in parts], axis=-1)
            boxes = parts[0].boxes
            return ImageInputs(
                features=torch.from_numpy(features),
                mask=torch.from_numpy(parts[0].mask),
                boxes=None if boxes is None else torch.from_numpy(boxes),
                aspect=None if self.aspect is None else self.aspect[images],
            )
        if self.preprocess is None:
            assert self.photo_inputs is not None
            return self.photo_inputs([self.paths[image] for image in images])
        photos = [self._augment(open_photo(self.paths[image]), random) for image in images]
        return ImageInputs(
            pixels=torch.stack([self.preprocess(photo) for photo in photos]),
            visible=torch.tensor([self.preprocess.visible(*photo.size) for photo in photos])
            if random is None
            else None,
            aspect=torch.tensor([photo.width / photo.height for photo in photos]),
        )

    def _augment(self, photo: Image.Image, random: np.random.Generator | None) -> Image.Image:
        if random is None:
            return photo
        if self.crop < 1.0:
            width, height = photo.size
            keep = random.uniform(self.crop, 1.0)
            left, top = random.uniform(0, width * (1 - keep)), random.uniform(0, height * (1 - keep))
            photo = photo.crop(
                (round(left), round(top), round(left + width * keep), round(top + height * keep))
            )
        if self.flip > 0 and random.random() < self.flip:
            photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return photo


def _aspects(collection: Collection, split: Split) -> Tensor | None:
    """Width over height ``(images,)``; None where the size of an image is not known."""
    images = [collection.image(image_id) for image_id in split.image_ids]
    if any(image.width <= 0 or image.height <= 0 for image in images):
        return None
    return torch.tensor([image.width / image.height for image in images])


class TextSource:
    """Text inputs of a split: stored token states, or token ids.

    Args:
        tokenize: texts to ids and mask; used where there is no store.
    """

    def __init__(
        self, split: Split, store: FeatureStore | None, tokenize: Callable[[list[str]], tuple[Tensor, Tensor]]
    ) -> None:
        self.texts = split.texts
        self.store = store
        self.positions = None if store is None else store.index(split.caption_ids)
        self.tokenize = tokenize

    def __call__(self, captions: np.ndarray) -> TextInputs:
        """Inputs of the captions at these positions of the split."""
        if self.store is not None and self.positions is not None:
            part = self.store.batch(self.positions[captions])
            return TextInputs(features=torch.from_numpy(part.features), mask=torch.from_numpy(part.mask))
        tokens, mask = self.tokenize([self.texts[caption] for caption in captions])
        return TextInputs(tokens=tokens, mask=mask)


class PairSampler(Sampler[list[tuple[int, int, int]]]):
    """Batches of ``(image, caption, draw)`` positions, a function of seed, epoch and step alone.

    So a resumed run sees the very batches that an uninterrupted one would. The last, smaller batch of an epoch is
    left out: batch statistics and in-batch negatives would differ there.

    Args:
        split: what is drawn from.
        batch_size: B, pairs a batch.
        seed: of all draws.
        images_first: an epoch shows every image once with ``captions_per_image`` random captions, instead of every
            caption once.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        *,
        images_first: bool = False,
        captions_per_image: int = 1,
    ) -> None:
        self.image_of_text = split.image_of_text
        self.batch_size = batch_size
        self.seed = seed
        self.images_first = images_first
        self.captions_per_image = captions_per_image
        self.first_caption = np.searchsorted(self.image_of_text, np.arange(len(split.image_ids)))
        self.caption_count = np.bincount(self.image_of_text, minlength=len(split.image_ids))
        self.epoch = 0
        self.start = 0
        if len(self) == 0:
            raise CrossAlignError(
                f"split '{split.name}': {self._pairs()} pairs do not fill one batch of {batch_size}; "
                "set training.batch_size lower"
            )

    def _pairs(self) -> int:
        if self.images_first:
            return int(np.minimum(self.caption_count, self.captions_per_image).sum())
        return len(self.image_of_text)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self._pairs() // self.batch_size

    def seek(self, epoch: int, step: int = 0) -> None:
        """Go on with this epoch, at this step of it."""
        self.epoch, self.start = epoch, step

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        random = np.random.default_rng([self.seed, self.epoch])
        if self.images_first:
            captions = np.concatenate(
                [
                    self.first_caption[image]
                    + random.permutation(self.caption_count[image])[: self.captions_per_image]
                    for image in random.permutation(len(self.caption_count))
                ]
            )
        else:
            captions = random.permutation(len(self.image_of_text))
        draws = random.integers(2**31, size=len(captions))
        for step in range(self.start, len(self)):
            chosen = slice(step * self.batch_size, (step + 1) * self.batch_size)
            images = self.image_of_text[captions[chosen]]
            yield list(zip(images.tolist(), captions[chosen].tolist(), draws[chosen].tolist(), strict=True))


@dataclass(frozen=True)
class _Collate:
    image_source: ImageSource
    text_source: TextSource
    caption_ids: tuple[str, ...]
    note_source: NoteSource | None
    teachers: TeacherReader | None
    processes: Processes

    def __call__(self, items: list[tuple[int, int, int]]) -> Batch | CrossAlignError:
        # Raised in a worker, the error would arrive with the worker's traceback in its message.
        try:
            return self.batch(items)
        except CrossAlignError as error:
            return error

    def batch(self, items: list[tuple[int, int, int]]) -> Batch:
        images, captions, draws = (np.array(column) for column in zip(*items, strict=True))
        # An image that stands in several pairs is loaded and encoded once.
        different, rows = np.unique(images, return_inverse=True)
        if self.processes.count > 1:
            # Whole images with all their captions of the batch, so that none is encoded twice.
            share = self.processes.share(len(different))
            own = (rows >= share.start) & (rows < share.stop)
            images, captions, draws, rows = images[own], captions[own], draws[own], rows[own] - share.start
            different = different[share]
            if len(different) == 0:
                raise CrossAlignError(
                    f"a batch has fewer images than there are processes ({self.processes.count}); start fewer, or "
                    "raise training.batch_size"
                )
        text = self.text_source(captions)
        return Batch(
            image=self.image_source(different, np.random.default_rng(draws)),
            image_rows=torch.from_numpy(rows),
            text=text,
            image_ids=torch.from_numpy(images),
            caption_ids=tuple(self.caption_ids[caption] for caption in captions),
            notes=None if self.note_source is None else self.note_source(captions, text.mask.shape[1]),
            teachers=None if self.teachers is None else self.teachers(different, captions),
        )


class _Positions(Dataset[tuple[int, int, int]]):
    def __getitem__(self, item: tuple[int, int, int]) -> tuple[int, int, int]:
        return item


class TrainingLoader:
    """Batches in the sampler's order, made ahead by ``workers`` processes; each iteration is one epoch.

    Args:
        note_source: what is known about the captions' tokens, where the objective asks for it.
        teachers: teachers' vectors of images and captions, where the objective asks for them.
        processes: of each batch this process gets its share of the images, with their captions.

    Raises:
        CrossAlignError: while iterating: a photo that cannot be read, stores that do not fit together, a batch with
            fewer images than there are processes.
    """

    def __init__(
        self,
        split: Split,
        image_source: ImageSource,
        text_source: TextSource,
        sampler: PairSampler,
        workers: int = 0,
        note_source: NoteSource | None = None,
        teachers: TeacherReader | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self._loader: DataLoader[Batch | CrossAlignError] = DataLoader(
            _Positions(),  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=_Collate(
                image_source, text_source, split.caption_ids, note_source, teachers, processes
            ),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            # The loader draws a number as it starts: from the global generator, that would shift all later draws of
            # a run that is resumed inside an epoch.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, CrossAlignError):
                raise batch
            yield batch
