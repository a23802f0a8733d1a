"""Which item a caption is compared with, where that is not its own image."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["other_images"]


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
