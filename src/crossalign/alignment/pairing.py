"""What a caption is compared with, where that is not its own image."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["caption_pairs", "other_images"]


def other_images(image_rows: Tensor, images: int) -> Tensor:
    """Give every text of a batch the image of another one, never its own: correspondences that mean nothing.

    The images stand in the order in which the batch first names them, and each hands its texts on to the next. A
    batch is drawn by lot, so this order is, too; no number is drawn here, and the same batch always gives the same.

    Args:
        image_rows: ``(B,)`` row of each text's image among all U.
        images: U; every one of them has a text.

    Returns:
        ``(B,)`` rows. Texts of one image share their new one, and every image is somebody's. Where there is one image
        only, it stays.
    """
    places = torch.arange(len(image_rows), device=image_rows.device)
    first = places.new_full((images,), len(image_rows)).scatter_reduce_(0, image_rows, places, "amin")
    order = first.argsort()
    following = torch.empty_like(order).index_copy_(0, order, order.roll(-1))
    return following[image_rows]


def caption_pairs(image_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Pair every text with the next one of the same image, the last one of an image with its first.

    So each of several texts learns from one other and is learnt from once; two texts learn from each other. A text
    that is alone with its image has no pair.

    Args:
        image_rows: ``(B,)`` row of each text's image.

    Returns:
        ``(P,)`` the texts and ``(P,)`` those they are paired with, P at most B.
    """
    order = image_rows.argsort(stable=True)
    counts = image_rows.bincount()
    ends = counts.cumsum(0)[image_rows[order]]
    following = torch.arange(1, len(order) + 1, device=order.device)
    following = torch.where(following < ends, following, ends - counts[image_rows[order]])
    several = counts[image_rows[order]] > 1
    return order[several], order[following][several]
