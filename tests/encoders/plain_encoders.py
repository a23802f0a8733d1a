"""The encoders of VSRN and CAMERA once more, item by item and unit by unit, straight from the formulas."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from crossalign.encoders.agsa import AdaptiveGatingSelfAttention
from crossalign.encoders.camera import CAMERAImageEncoder, CAMERATextEncoder
from crossalign.encoders.positions import BoxPositions
from crossalign.encoders.summarization import MultiViewSummarization
from crossalign.encoders.vsrn import RegionRelation, VSRNEncoder

Items = list[Tensor]

# B = 5 items of N = 6 units: all real, real ones in front, holes, one item without any.
MASKS = {
    "all": torch.ones(5, 6, dtype=torch.bool),
    "front": torch.arange(6) < torch.tensor([6, 3, 1, 4, 2]).unsqueeze(1),
    "scattered": torch.tensor(
        [[0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1]]
    ).bool(),
    "empty": torch.arange(6) < torch.tensor([6, 0, 1, 4, 2]).unsqueeze(1),
}


def real_items(units: Tensor, mask: Tensor) -> Items:
    return [units[i][mask[i]] for i in range(len(units))]


def linear(layer: nn.Linear, rows: Tensor) -> Tensor:
    return rows @ layer.weight.T + layer.bias


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def normalized(items: Items, axis: str) -> Items:
    if axis == "none":
        return items
    return [unit(rows) if axis == "features" else rows / rows.norm(dim=0, keepdim=True) for rows in items]


def batch_normed(layer: nn.BatchNorm1d, items: Items) -> Items:
    """Statistics over the rows of all items together."""
    rows = torch.cat(items)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean, variance = layer.running_mean, layer.running_var
    if layer.training:
        mean = rows.mean(dim=0)
        variance = (rows - mean).square().mean(dim=0)
    return [(row - mean) / (variance + layer.eps).sqrt() * layer.weight + layer.bias for row in items]


def gru_states(gru: nn.GRU, sequence: Tensor) -> Items:
    """State after each row of ``(n, C)``, starting from zero."""
    size = gru.hidden_size
    state = sequence.new_zeros(size)
    states = []
    for row in sequence:
        inputs = gru.weight_ih_l0 @ row + gru.bias_ih_l0
        hidden = gru.weight_hh_l0 @ state + gru.bias_hh_l0
        reset = torch.sigmoid(inputs[:size] + hidden[:size])
        keep = torch.sigmoid(inputs[size : 2 * size] + hidden[size : 2 * size])
        new = torch.tanh(inputs[2 * size :] + reset * hidden[2 * size :])
        state = (1 - keep) * new + keep * state
        states.append(state)
    return states


def related(layer: RegionRelation, items: Items) -> Items:
    added = []
    for rows in items:
        told = []
        for one in rows:
            total = torch.zeros_like(one)
            for other in rows:
                affinity = linear(layer.query, one) @ linear(layer.key, other) / len(rows)
                total = total + affinity * linear(layer.value, other)
            told.append(linear(layer.output, total))
        added.append(torch.stack(told) if told else rows)
    return [rows + more for rows, more in zip(items, batch_normed(layer.norm, added), strict=True)]


def vsrn(
    encoder: VSRNEncoder,
    units: Tensor,
    mask: Tensor,
    axis: str = "features",
    normalize_projection: bool = True,
) -> tuple[list[Tensor | None], Items, Items]:
    """Embedding (None for an item without units), locals and context of each item."""
    items = [linear(encoder.projection, rows) for rows in real_items(units, mask)]
    if normalize_projection:
        items = normalized(items, axis)
    context = items
    for layer in encoder.relations:
        assert isinstance(layer, RegionRelation)
        context = related(layer, context)
    last = [gru_states(encoder.gru, rows)[-1:] for rows in normalized(context, axis)]
    if encoder.embedding_norm is not None:
        found = iter(batch_normed(encoder.embedding_norm, [torch.stack(state) for state in last if state]))
        last = [[next(found)[0]] if state else [] for state in last]
    embeddings = [unit(state[0]) if state else None for state in last]
    return embeddings, [unit(rows) for rows in items], context


def box_gates(layer: BoxPositions, boxes: Tensor, aspect: float) -> Tensor:
    rows = []
    for x0, y0, x1, y1 in boxes.tolist():
        width, height = x1 - x0, y1 - y0
        features = [x0, y0, width, height, width / height * aspect, width * height]
        rows.append(torch.sigmoid(linear(layer.projection, boxes.new_tensor(features))))
    return torch.stack(rows) if rows else boxes.new_zeros(0, layer.projection.out_features)


def attended(layer: AdaptiveGatingSelfAttention, items: Items, gates: Items | None = None) -> Items:
    added = []
    for index, rows in enumerate(items):
        seen = rows if gates is None else rows * gates[index]
        width = rows.shape[1] // layer.heads
        heads = []
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            query, key = linear(layer.query, seen)[:, part], linear(layer.key, seen)[:, part]
            both = linear(layer.gate_query, query) * linear(layer.gate_key, key)
            gate = torch.sigmoid(linear(layer.gate, both))
            scores = (query * gate[:, :width]) @ (key * gate[:, width:]).T / math.sqrt(width)
            weights = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
            heads.append(weights @ linear(layer.value, seen)[:, part])
        added.append(torch.cat(heads, dim=1))
    return [rows + more for rows, more in zip(items, batch_normed(layer.norm, added), strict=True)]


def summary_logits(layer: MultiViewSummarization, rows: Tensor) -> Tensor:
    """Logits ``(n, V)``; outside the sequence there is nothing."""
    logits = []
    for place in range(len(rows)):
        outputs = []
        for convolution in layer.convolutions:
            assert isinstance(convolution, nn.Conv1d)
            assert convolution.bias is not None
            taps = convolution.kernel_size[0]
            total = convolution.bias
            for tap in range(taps):
                neighbour = place + (tap - taps // 2) * convolution.dilation[0]
                if 0 <= neighbour < len(rows):
                    total = total + convolution.weight[:, :, tap] @ rows[neighbour]
            outputs.append(total.clamp(min=0))
        logits.append(linear(layer.views, torch.cat(outputs)))
    return torch.stack(logits)


def camera_image(
    encoder: CAMERAImageEncoder, units: Tensor, mask: Tensor, boxes: Tensor, aspect: Tensor, axis: str
) -> tuple[list[Tensor | None], Items, Items, list[Tensor | None]]:
    """Views and (None for an item without units) locals, context and summary logits of each item."""
    items = normalized([linear(encoder.projection, rows) for rows in real_items(units, mask)], axis)
    gates = None
    if encoder.positions is not None:
        places = zip(real_items(boxes, mask), aspect.tolist(), strict=True)
        gates = [box_gates(encoder.positions, rows, ratio) for rows, ratio in places]
    context = attended(encoder.attention, items, gates)
    views: list[Tensor | None] = []
    logits: list[Tensor | None] = []
    for rows in normalized(context, axis):
        own = summary_logits(encoder.summarization, rows) if len(rows) else None
        logits.append(own)
        views.append(None if own is None else unit((own.exp() / own.exp().sum(dim=0)).T @ rows))
    return views, [unit(rows) for rows in items], context, logits


def camera_text(
    encoder: CAMERATextEncoder, states: Tensor, mask: Tensor, axis: str
) -> tuple[list[Tensor | None], Items, Items]:
    """Embedding (None for an item without words), locals and context of each item."""
    items = normalized([linear(encoder.projection, rows) for rows in real_items(states, mask)], axis)
    context = attended(encoder.attention, items)
    first, last = encoder.perceptron[0], encoder.perceptron[3]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    more = batch_normed(encoder.norm, [linear(last, linear(first, rows).clamp(min=0)) for rows in context])
    pairs = zip(context, more, strict=True)
    embeddings = [unit((rows + extra).sum(dim=0) / len(rows)) if len(rows) else None for rows, extra in pairs]
    return embeddings, [unit(rows) for rows in items], context


def random_norms(module: nn.Module) -> None:
    """Batch norms as after some training: nothing is zero or one."""
    generator = torch.Generator().manual_seed(11)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            for tensor, low in ((layer.weight, 0.3), (layer.bias, -0.5), (layer.running_mean, -0.5)):
                tensor.data.uniform_(low, low + 1.0, generator=generator)
            layer.running_var.data.uniform_(0.5, 1.5, generator=generator)


def assert_items_equal(
    result: Tensor, expected: list[Tensor | None] | Items, mask: Tensor | None = None
) -> None:
    """Item by item; ``mask`` picks an item's real units. What is not expected must be zero."""
    for i, item in enumerate(expected):
        if mask is not None:
            assert result[i][~mask[i]].abs().sum() == 0
            if item is not None and len(item):
                torch.testing.assert_close(result[i][mask[i]], item)
        elif item is None:
            assert result[i].abs().sum() == 0
        else:
            torch.testing.assert_close(result[i], item)
