"""The encoders of published code once more: functions of a state dict in the published key layout, in evaluation.

Written from what the published code computes, its normalisation along axis 1 of ``(B, N, D)`` and its padded captions
included, one caption at a time where it does not depend on the others.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertModel

State = dict[str, Tensor]


# ---- layers


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = (x - state[f"{name}.running_mean"]) / (state[f"{name}.running_var"] + 1e-5).sqrt()
    return centred * state[f"{name}.weight"] + state[f"{name}.bias"]


def l2norm(x: Tensor, axis: int) -> Tensor:
    return x / x.pow(2).sum(dim=axis, keepdim=True).sqrt()


def gru(state: State, name: str, sequence: Tensor, suffix: str = "") -> Tensor:
    """States ``(T, H)`` of a sequence ``(T, C)``."""
    weights = [
        state[f"{name}.{kind}_l0{suffix}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    hidden = torch.zeros(weights[1].shape[1])
    states = []
    for row in sequence:
        given = weights[0] @ row + weights[2]
        kept = weights[1] @ hidden + weights[3]
        (reset_x, update_x, new_x), (reset_h, update_h, new_h) = given.chunk(3), kept.chunk(3)
        update = torch.sigmoid(update_x + update_h)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        hidden = (1 - update) * new + update * hidden
        states.append(hidden)
    return torch.stack(states)


def both_ways(state: State, name: str, sequence: Tensor) -> Tensor:
    """Mean of the states of both directions."""
    backwards = gru(state, name, sequence.flip(0), "_reverse").flip(0)
    return (gru(state, name, sequence) + backwards) / 2


def gpo(state: State, name: str, units: Tensor) -> Tensor:
    """Generalized pooling of the units ``(n, D)`` of one item."""
    positions = torch.zeros(len(units), 32)
    for place in range(len(units)):
        for pair in range(16):
            angle = place * math.exp(-2 * pair * math.log(10000.0) / 32)
            positions[place, 2 * pair], positions[place, 2 * pair + 1] = math.sin(angle), math.cos(angle)
    logits = both_ways(state, f"{name}.gru", positions) @ state[f"{name}.linear.weight"][0]
    weights = torch.softmax(logits / 0.1, dim=0)
    return weights @ units.sort(dim=0, descending=True).values


def context_vectors(state: State, context: Tensor) -> tuple[Tensor, Tensor]:
    """Fused global ``(B, D)`` and mean key ``(B, D)`` of units ``(B, N, D)`` of which none is padding."""
    mean = context.mean(dim=1)
    guide = batch_norm(state, "ctx_fc_bn1", linear(state, "ctx_fc", mean)).relu()
    keys = batch_norm(state, "ctx_fc_bn2", context).relu()
    hidden = linear(state, "fusion_fn.0", torch.cat([mean, guide], dim=-1)).relu()
    gate = torch.sigmoid(linear(state, "fusion_fn.2", hidden))
    fused = gate * mean + (1 - gate) * guide
    return F.normalize(fused, dim=-1), F.normalize(keys, dim=-1).mean(dim=1)


# ---- VSE-infinity


def vse_image(state: State, images: list[Tensor]) -> Tensor:
    pooled = []
    for regions in images:
        hidden = batch_norm(state, "mlp.bns.0", linear(state, "mlp.layers.0", regions)).relu()
        units = linear(state, "mlp.layers.1", hidden) + linear(state, "fc", regions)
        pooled.append(gpo(state, "gpool", units))
    return l2norm(torch.stack(pooled), -1)


def vse_words(state: State, captions: list[list[int]]) -> Tensor:
    pooled = [
        gpo(state, "gpool", both_ways(state, "rnn", state["embed.weight"][torch.tensor(ids)]))
        for ids in captions
    ]
    return l2norm(torch.stack(pooled), -1)


def vse_bert(state: State, config: BertConfig, captions: list[list[int]]) -> Tensor:
    bert = bert_of(state, config)
    pooled = []
    for ids in captions:
        tokens = torch.tensor([ids])
        states = bert(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]
        pooled.append(gpo(state, "gpool", linear(state, "linear", states)))
    return l2norm(torch.stack(pooled), -1)


# ---- VSRN


def relation(state: State, name: str, x: Tensor) -> Tensor:
    """One layer on ``(B, D, N)``."""

    def convolved(part: str, given: Tensor) -> Tensor:
        return F.conv1d(given, state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"])

    affinity = convolved("theta", x).transpose(1, 2) @ convolved("phi", x) / x.shape[2]
    told = (affinity @ convolved("g", x).transpose(1, 2)).transpose(1, 2)
    told = convolved("W.0", told)
    return batch_norm(state, f"{name}.W.1", told.transpose(1, 2)).transpose(1, 2) + x


def vsrn_image(state: State, images: Tensor, *, flickr: bool, selfalign: bool) -> Tensor:
    projected = linear(state, "fc", images)
    if not flickr:
        projected = l2norm(projected, 1)
    x = projected.transpose(1, 2)
    for layer in range(1, 5):
        x = relation(state, f"Rs_GCN_{layer}", x)
    context = x.transpose(1, 2)
    last = torch.stack([gru(state, "img_rnn", regions)[-1] for regions in l2norm(context, 1)])
    if flickr:
        last = batch_norm(state, "bn", last)
    embedding = l2norm(last, 1)
    if not selfalign:
        return embedding
    fused, mean_key = context_vectors(state, context)
    return torch.cat([embedding, 0.5 * fused, 0.5 * mean_key], dim=1)


def vsrn_words(state: State, captions: list[list[int]], *, selfalign: bool) -> Tensor:
    """Each caption as if the others of its batch were no longer."""
    rows = []
    for ids in captions:
        words = state["embed.weight"][torch.tensor(ids)]
        if selfalign:
            words = linear(state, "local_fc", words)
        states = gru(state, "rnn", words)
        embedding = l2norm(states[-1:], 1)
        if selfalign:
            fused, mean_key = context_vectors(state, states[None])
            embedding = torch.cat([embedding, mean_key, fused], dim=1)
        rows.append(embedding[0])
    return torch.stack(rows)


# ---- CAMERA


def gated_attention(state: State, units: Tensor, positions: Tensor | None) -> Tensor:
    """AGSA on ``(B, N, D)``, every unit visible to every other."""
    layer = "agsa.att_layers.0"
    seen = units if positions is None else units * positions
    width = len(state[f"{layer}.fc_q.weight"])
    heads = [linear(state, f"{layer}.linears.{part}", seen).split(width, dim=2) for part in range(3)]
    results = []
    for query, key, value in zip(*heads, strict=True):
        both = linear(state, f"{layer}.fc_q", query) * linear(state, f"{layer}.fc_k", key)
        gates = torch.sigmoid(linear(state, f"{layer}.fc_g", both))
        scores = (query * gates[..., :width]) @ (key * gates[..., width:]).transpose(1, 2) / math.sqrt(width)
        results.append(torch.softmax(scores, dim=-1) @ value)
    return units + batch_norm(state, "agsa.bns.0", torch.cat(results, dim=2))


def box_positions(state: State, boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes ``(B, N, 4)`` as corners in pixels, sizes ``(B, 2)`` as width and height."""
    left, top, right, bottom = boxes.unbind(dim=2)
    width, height = right - left, bottom - top
    relative = torch.stack([left, top, width, height], dim=2) / sizes.repeat(1, 2)[:, None]
    area = width * height / sizes.prod(dim=1, keepdim=True)
    features = torch.cat([relative, (width / height)[..., None], area[..., None]], dim=2)
    return torch.sigmoid(linear(state, "position_enc.proj", features))


def camera_image(state: State, images: Tensor, boxes: Tensor, sizes: Tensor, *, selfalign: bool) -> Tensor:
    projected = l2norm(linear(state, "fc", images), 1)
    context = gated_attention(state, projected, box_positions(state, boxes, sizes))
    normed = l2norm(context, 1)
    shapes = [(1, 1), (3, 1), (3, 2), (3, 3), (5, 1), (5, 2), (5, 3)]
    seen = [
        F.conv1d(
            normed.transpose(1, 2), state[f"mvs.convs_dilate.{place}.weight"], state[f"mvs.convs_dilate.{place}.bias"],
            dilation=dilation, padding=dilation * (kernel // 2),
        ).relu()
        for place, (kernel, dilation) in enumerate(shapes)
    ]  # fmt: skip
    logits = linear(state, "mvs.convs_fc", torch.cat(seen, dim=1).transpose(1, 2))
    views = F.normalize(torch.softmax(logits, dim=1).transpose(1, 2) @ normed, dim=-1)
    if not selfalign:
        return views
    fused, mean_key = context_vectors(state, context)
    tail = 0.5 * torch.cat([mean_key, fused], dim=-1)
    return torch.cat([views, tail[:, None].expand(-1, views.shape[1], -1)], dim=-1)


def camera_words(
    state: State, config: BertConfig, captions: list[list[int]], length: int, *, selfalign: bool
) -> Tensor:
    """Captions padded to ``length`` tokens, all of which are read; BERT alone knows which are padding."""
    tokens = torch.zeros(len(captions), length, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, ids in enumerate(captions):
        tokens[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    states = bert_of(state, config)(input_ids=tokens, attention_mask=mask).last_hidden_state
    projected = linear(state, "mapping", states)
    if selfalign:
        projected = l2norm(projected, 1)
    context = gated_attention(state, projected, None)
    more = batch_norm(state, "bn", linear(state, "fc2", linear(state, "fc1", context).relu()))
    embedding = F.normalize((context + more).mean(dim=1), dim=-1)
    if not selfalign:
        return embedding
    fused, mean_key = context_vectors(state, context)
    return torch.cat([embedding, fused, mean_key], dim=-1)


def bert_of(state: State, config: BertConfig) -> BertModel:
    """The published code calls the very BERT of a library; so does this."""
    bert = BertModel(config).eval()
    own = {key.removeprefix("bert."): tensor for key, tensor in state.items() if key.startswith("bert.")}
    own = {key.replace("LayerNorm.gamma", "LayerNorm.weight"): tensor for key, tensor in own.items()}
    own = {key.replace("LayerNorm.beta", "LayerNorm.bias"): tensor for key, tensor in own.items()}
    own.pop("embeddings.position_ids", None)
    bert.load_state_dict(own)
    return bert


# ---- random state dicts in the published layout


class Draw:
    """Random tensors under published names."""

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.state: State = {}

    def tensor(self, name: str, *shape: int, scale: float = 0.4) -> None:
        self.state[name] = torch.randn(*shape, generator=self.random) * scale

    def linear(
        self, name: str, given: int, wanted: int, kernel: int | None = None, scale: float = 0.4
    ) -> None:
        self.tensor(f"{name}.weight", wanted, given, *([kernel] if kernel else []), scale=scale)
        self.tensor(f"{name}.bias", wanted)

    def norm(self, name: str, width: int, *, counted: bool = True) -> None:
        for part in ("weight", "bias", "running_mean"):
            self.tensor(f"{name}.{part}", width)
        self.state[f"{name}.running_var"] = torch.rand(width, generator=self.random) + 0.5
        if counted:
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(9)

    def gru(self, name: str, given: int, hidden: int, *, both: bool = False) -> None:
        for suffix in ("", "_reverse") if both else ("",):
            self.tensor(f"{name}.weight_ih_l0{suffix}", 3 * hidden, given)
            self.tensor(f"{name}.weight_hh_l0{suffix}", 3 * hidden, hidden)
            self.tensor(f"{name}.bias_ih_l0{suffix}", 3 * hidden)
            self.tensor(f"{name}.bias_hh_l0{suffix}", 3 * hidden)

    def gpo(self, name: str) -> None:
        self.gru(f"{name}.gru", 32, 32, both=True)
        self.tensor(f"{name}.linear.weight", 1, 32)

    def context_head(self, dim: int) -> None:
        self.linear("ctx_fc", dim, dim)
        self.norm("ctx_fc_bn1", dim)
        self.norm("ctx_fc_bn2", dim)
        self.linear("fusion_fn.0", 2 * dim, dim)
        self.linear("fusion_fn.2", dim, 1)

    def attention(self, dim: int, heads: int) -> None:
        for part in range(3):
            self.linear(f"agsa.att_layers.0.linears.{part}", dim, dim)
        width = dim // heads
        self.linear("agsa.att_layers.0.fc_q", width, width)
        self.linear("agsa.att_layers.0.fc_k", width, width)
        self.linear("agsa.att_layers.0.fc_g", width, 2 * width)
        self.norm("agsa.bns.0", dim)

    def bert(self, config: BertConfig, *, old_names: bool) -> None:
        torch.manual_seed(3)
        for key, tensor in BertModel(config).state_dict().items():
            if old_names:
                key = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                    "LayerNorm.bias", "LayerNorm.beta"
                )
            self.tensor(f"bert.{key}", *tensor.shape)
            if "LayerNorm" in key and key.endswith(("weight", "gamma")):
                # Around one, as in a trained network: words stay apart.
                self.state[f"bert.{key}"] += 1
        if not old_names:
            self.state["bert.embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]


def vse_image_state(feature_dim: int, dim: int) -> State:
    draw = Draw(1)
    draw.linear("fc", feature_dim, dim)
    draw.linear("mlp.layers.0", feature_dim, dim // 2)
    draw.linear("mlp.layers.1", dim // 2, dim)
    draw.norm("mlp.bns.0", dim // 2)
    draw.norm("mlp.bns.1", dim)
    draw.gpo("gpool")
    return draw.state


def vse_words_state(words: int, word_dim: int, dim: int) -> State:
    draw = Draw(2)
    draw.tensor("embed.weight", words, word_dim)
    draw.gpo("gpool")
    draw.gru("rnn", word_dim, dim, both=True)
    return draw.state


def vse_bert_state(config: BertConfig, dim: int) -> State:
    draw = Draw(3)
    draw.bert(config, old_names=False)
    draw.linear("linear", config.hidden_size, dim)
    draw.gpo("gpool")
    return draw.state


def vsrn_image_state(feature_dim: int, dim: int, *, flickr: bool, selfalign: bool) -> State:
    draw = Draw(4)
    draw.linear("fc", feature_dim, dim)
    draw.gru("img_rnn", dim, dim)
    for layer in range(1, 5):
        for part in ("g", "W.0", "theta", "phi"):
            # Small: what a layer adds is of third order in the regions.
            draw.linear(f"Rs_GCN_{layer}.{part}", dim, dim, kernel=1, scale=0.2)
        # Older than torch 0.4.1: batches were not counted.
        draw.norm(f"Rs_GCN_{layer}.W.1", dim, counted=selfalign)
    if flickr:
        draw.norm("bn", dim, counted=selfalign)
    if selfalign:
        draw.context_head(dim)
    return draw.state


def vsrn_words_state(words: int, word_dim: int, dim: int, *, selfalign: bool) -> State:
    draw = Draw(5)
    draw.tensor("embed.weight", words, word_dim)
    if selfalign:
        draw.linear("local_fc", word_dim, dim)
        draw.context_head(dim)
    draw.gru("rnn", dim if selfalign else word_dim, dim)
    return draw.state


def camera_image_state(feature_dim: int, dim: int, heads: int, views: int, *, selfalign: bool) -> State:
    draw = Draw(6)
    draw.linear("fc", feature_dim, dim)
    draw.linear("position_enc.proj", 6, dim)
    draw.attention(dim, heads)
    for place, (width, kernel) in enumerate([(8, 1), *[(4, kernel) for kernel in (3, 3, 3, 5, 5, 5)]]):
        draw.linear(f"mvs.convs_dilate.{place}", dim, width, kernel=kernel)
    draw.linear("mvs.convs_fc", 32, views)
    if selfalign:
        draw.context_head(dim)
    return draw.state


def camera_words_state(config: BertConfig, dim: int, heads: int, *, selfalign: bool) -> State:
    draw = Draw(7)
    draw.bert(config, old_names=not selfalign)
    draw.linear("mapping", config.hidden_size, dim)
    draw.attention(dim, heads)
    draw.linear("fc1", dim, dim)
    draw.linear("fc2", dim, dim)
    draw.norm("bn", dim)
    if selfalign:
        draw.context_head(dim)
    return draw.state
