"""Words for what detectors find: the labels of COCO, and which words of a caption name a label."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["COCO_LABELS", "WORD", "forms", "words_of_label"]

COCO_LABELS: tuple[str, ...] = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *(
        "elephant",
        "bear",
        "zebra",
        "giraffe",
        "backpack",
        "umbrella",
        "handbag",
        "tie",
        "suitcase",
        "frisbee",
    ),
    *(
        "skis",
        "snowboard",
        "sports ball",
        "kite",
        "baseball bat",
        "baseball glove",
        "skateboard",
        "surfboard",
    ),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard"),
    *("cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase"),
    *("scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""The 80 classes of COCO in the order in which detectors number them."""

# Everyday words that captions of photos nearly always use in the label's sense.
_OTHER_WORDS: dict[str, tuple[str, ...]] = {
    "person": (
        *("man", "woman", "boy", "girl", "child", "kid", "baby", "toddler", "lady", "guy", "gentleman"),
        *(
            "player",
            "rider",
            "skier",
            "surfer",
            "skateboarder",
            "snowboarder",
            "cyclist",
            "bicyclist",
            "biker",
        ),
        *("runner", "climber", "swimmer", "hiker", "dancer", "boxer", "teenager", "adult", "couple", "crowd"),
    ),
    "bicycle": ("bike",),
    "car": ("automobile", "suv", "taxi", "cab"),
    "motorcycle": ("motorbike", "dirt bike"),
    "airplane": ("plane", "aeroplane", "jet", "aircraft"),
    "train": ("locomotive",),
    "truck": ("lorry", "pickup"),
    "boat": ("canoe", "kayak", "sailboat", "rowboat", "raft", "ship"),
    "bird": ("duck", "seagull", "pigeon", "goose", "swan", "parrot", "owl"),
    "cat": ("kitten",),
    "dog": ("puppy", "poodle", "greyhound", "dachshund", "labrador", "collie"),
    "horse": ("pony",),
    "sheep": ("lamb",),
    "cow": ("bull", "calf", "cattle"),
    "backpack": ("rucksack",),
    "handbag": ("purse",),
    "tie": ("necktie",),
    "suitcase": ("luggage",),
    "skis": ("ski",),
    "sports ball": ("ball", "football", "basketball", "baseball", "tennis ball", "soccer ball", "volleyball"),
    "tennis racket": ("racket", "racquet"),
    "cup": ("mug",),
    "donut": ("doughnut",),
    "couch": ("sofa",),
    "potted plant": ("houseplant",),
    "dining table": ("table",),
    "tv": ("television",),
    "cell phone": ("cellphone", "phone", "mobile phone", "smartphone"),
    "refrigerator": ("fridge",),
    "hair drier": ("hair dryer",),
}
_PLURALS = {
    **{"person": "people", "man": "men", "woman": "women", "child": "children", "gentleman": "gentlemen"},
    **{"mouse": "mice", "knife": "knives", "goose": "geese", "calf": "calves", "sheep": "sheep"},
    **{"skis": "skis", "scissors": "scissors", "aircraft": "aircraft", "cattle": "cattle"},
}


WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
"""Where a text is divided into words."""


def words_of_label(label: str) -> frozenset[tuple[str, ...]]:
    """The phrases that name a label, in lower case: itself and words of the same meaning, singular and plural.

    A label is divided wherever captions are, so also ``dining_table`` and ``tv/monitor``. None for one without a word.
    """
    known = " ".join(WORD.findall(label.lower()))
    names = (label.lower(), *_OTHER_WORDS.get(known, ()))
    phrases = (WORD.findall(name) for name in names)
    return frozenset(form for words in phrases if words for form in forms(words))


def forms(words: Iterable[str]) -> set[tuple[str, ...]]:
    """The singular and the plural of an English phrase, whose last word changes."""
    *before, last = words
    if last in _PLURALS:
        plural = _PLURALS[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        plural = f"{last}es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        plural = f"{last[:-1]}ies"
    else:
        plural = f"{last}s"
    return {(*before, last), (*before, plural)}
