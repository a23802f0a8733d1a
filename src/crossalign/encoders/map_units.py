"""Units of a feature map: grid cells with the whole map, or boxes pooled by RoIAlign."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.utils.rnn import pad_sequence

__all__ = ["box_units", "grid_boxes", "grid_units"]


def grid_units(feature_map: Tensor, grid: int | None, global_cell: bool) -> Tensor:
    """Cells of a map, row by row.

    Args:
        feature_map: ``(B, C, h, w)``.
        grid: cells a side, each the mean of the part of the map under it; None takes the map's own cells.
        global_cell: put the mean of the whole map first.

    Returns:
        ``(B, N, C)`` with N = grid² or h w, plus one with the global cell.
    """
    pooled = feature_map if grid is None else adaptive_avg_pool2d(feature_map, grid)
    cells = pooled.flatten(2).transpose(1, 2)
    if not global_cell:
        return cells
    return torch.cat([feature_map.mean(dim=(2, 3))[:, None], cells], dim=1)


def grid_boxes(height: int, width: int, grid: int | None, global_cell: bool) -> Tensor:
    """Boxes ``(N, 4)`` of the cells of an ``(h, w)`` map, relative to the network's input.

    A box is the part of the map that the cell is the mean of: where ``grid`` does not divide the map,
    neighbours share a row or column of it. The global cell is the whole input.
    """
    rows, columns = _edges(height, grid or height), _edges(width, grid or width)
    boxes = [(left, top, right, bottom) for top, bottom in rows for left, right in columns]
    return torch.tensor(([(0.0, 0.0, 1.0, 1.0)] if global_cell else []) + boxes, dtype=torch.float32)


def _edges(length: int, cells: int) -> list[tuple[float, float]]:
    return [
        (cell * length // cells / length, -(-(cell + 1) * length // cells) / length) for cell in range(cells)
    ]


def box_units(
    feature_map: Tensor, boxes: list[Tensor], first: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of a map under each box (RoIAlign; He et al., Mask R-CNN, ICCV 2017), behind units of the whole map.

    Args:
        feature_map: ``(B, C, h, w)``.
        boxes: for each image ``(n_i, 4)`` corners ``x0 y0 x1 y1`` relative to the network's input.
        first: what comes before the boxes: units ``(B, K, C)`` and where they are, ``(K, 4)``, as of
            :func:`grid_units` and :func:`grid_boxes`; None: the mean of the whole map.

    Returns:
        units ``(B, K + N, C)``, mask ``(B, K + N)`` and boxes ``(B, K + N, 4)``, zero padded.
    """
    from torchvision.ops import roi_align

    height, width = feature_map.shape[-2:]
    # Coordinates need more digits than half precision has.
    feature_map = feature_map.float()
    scale = feature_map.new_tensor([width, height, width, height])
    corners = [box.to(feature_map).reshape(-1, 4) for box in boxes]
    # As many samples as the box has cells, at least one: the mean is close to the integral for any size.
    pooled = roi_align(
        feature_map, [box * scale for box in corners], output_size=1, sampling_ratio=-1, aligned=True
    ).flatten(1)
    if first is None:
        first = feature_map.mean(dim=(2, 3)).unsqueeze(1), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    whole, places = (part.to(feature_map) for part in first)
    counts = [len(box) for box in corners]
    units = [torch.cat([shared, own]) for shared, own in zip(whole, pooled.split(counts), strict=True)]
    mask = torch.arange(len(places) + max(counts), device=feature_map.device) < len(places) + torch.tensor(
        counts, device=feature_map.device
    ).unsqueeze(1)
    framed = [torch.cat([places, box]) for box in corners]
    return pad_sequence(units, batch_first=True), mask, pad_sequence(framed, batch_first=True)
