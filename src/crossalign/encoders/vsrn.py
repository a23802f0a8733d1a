"""The image encoder of VSRN: relations between regions by graph convolution, then a GRU that reads them all."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.encoders.recurrence import last_state, read_units
from crossalign.encoding import Encoding
from crossalign.errors import CrossAlignError
from crossalign.masking import RealUnits
from crossalign.normalization import batch_norm, normalize_units, unit_norm

__all__ = ["RegionRelation", "VSRNEncoder"]


class RegionRelation(nn.Module):
    """One layer of region relations: every region adds what the regions of its image tell it.

    The affinity of two regions is ``query(x_i) . key(x_j) / n`` with n the image's real regions, without
    softmax; the layer returns ``x + norm(output(affinity value(x)))``. VSRN (Li et al., ICCV 2019),
    section 3.2. Batch normalisation starts at zero, so that a new layer changes nothing.

    Args:
        dim: D, width of the regions.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def forward(self, units: Tensor, mask: Tensor | None = None) -> Tensor:
        """Relate units ``(B, N, D)`` with mask ``(B, N)``; zero at padded units."""
        real = RealUnits.of(units, mask)
        return real.unpack(self.relate(real.pack(units), real))

    def relate(self, rows: Tensor, real: RealUnits) -> Tensor:
        """The layer on packed units ``(M, D)`` that stand at ``real`` places."""
        counts = real.counts(rows.device).clamp(min=1).view(-1, 1, 1)
        # Affinity and values are products of two linear maps. Where there are more rows than features, multiplying
        # the two weights first halves the work.
        if rows.shape[0] > rows.shape[1]:
            affinity, values = self._composed(rows, real)
        else:
            affinity = real.unpack(self.query(rows)) @ real.unpack(self.key(rows)).transpose(1, 2)
            values = F.linear(self.value(rows), self.output.weight)
        mixed = real.pack((affinity / counts) @ real.unpack(values)) + self.output.bias
        return rows + batch_norm(self.norm, mixed)

    def _composed(self, rows: Tensor, real: RealUnits) -> tuple[Tensor, Tensor]:
        """Affinity ``(B, N, N)``, meaningless towards padded units, and values ``(M, D)`` after the output map.

        With query ``Q x + q`` and key ``K x + k`` the affinity is ``(K'Q x_i + K'q) . x_j + Q'k . x_i + q . k``.
        """
        query, key, output = self.query, self.key, self.output
        towards = F.linear(rows, key.weight.T @ query.weight, key.weight.T @ query.bias)
        alone = F.linear(rows, (query.weight.T @ key.bias).unsqueeze(0), (query.bias @ key.bias).unsqueeze(0))
        affinity = real.unpack(towards) @ real.unpack(rows).transpose(1, 2) + real.unpack(alone)
        values = F.linear(rows, output.weight @ self.value.weight, output.weight @ self.value.bias)
        return affinity, values


class VSRNEncoder(nn.Module):
    """Regions to one vector: projection, relations between regions, a GRU whose last state is the embedding.

    VSRN (Li et al., ICCV 2019), sections 3.2 and 3.3. The GRU reads the real regions in the order in which
    they come.

    Its text side is :class:`~crossalign.encoders.words.GRUEncoder` with ``pooling="last"`` and one direction.

    Args:
        input_dim: C, width of the regions as they come.
        dim: D, joint width.
        layers: number of relation layers.
        norm_axis: ``"features"`` gives projected and related regions unit norm; ``"regions"`` divides each
            feature by its norm over the image's regions, as the published code does.
        normalize_projection: normalise regions before the relation layers; the published Flickr30K model does
            not.
        embedding_norm: batch normalisation of the GRU's last state; only that model has it.

    Raises:
        CrossAlignError: no relation layer, or an unknown ``norm_axis``.
    """

    def __init__(
        self,
        input_dim: int,
        dim: int,
        *,
        layers: int = 4,
        norm_axis: Literal["features", "regions"] = "features",
        normalize_projection: bool = True,
        embedding_norm: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise CrossAlignError(f"VSRN: layers is {layers}; give at least 1, usually 4")
        if norm_axis not in ("features", "regions"):
            raise CrossAlignError(f"VSRN: norm_axis is '{norm_axis}'; choose 'features' or 'regions'")
        self.along: Literal["features", "units"] = "features" if norm_axis == "features" else "units"
        self.normalize_projection = normalize_projection
        self.projection = nn.Linear(input_dim, dim)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.relations = nn.ModuleList([RegionRelation(dim) for _ in range(layers)])
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.embedding_norm = nn.BatchNorm1d(dim) if embedding_norm else None

    def forward(self, units: Tensor, mask: Tensor) -> Encoding:
        """Encode regions ``(B, N, C)`` with mask ``(B, N)``; an image without real regions has embedding zero.

        The encoding's ``context`` are the related regions before their normalisation.
        """
        real = RealUnits.of(units, mask)
        projected = self.projection(real.pack(units))
        if self.normalize_projection:
            projected = normalize_units(projected, real, self.along)
        related = projected
        for layer in self.relations:
            assert isinstance(layer, RegionRelation)
            related = layer.relate(related, real)
        states = read_units(self.gru, normalize_units(related, real, self.along), real)
        embedding = last_state(states, real)
        if self.embedding_norm is not None:
            present = RealUnits.of(embedding.unsqueeze(0), mask.any(dim=1))
            normed = batch_norm(self.embedding_norm, present.pack(embedding.unsqueeze(0)))
            embedding = present.unpack(normed).squeeze(0)
        return Encoding(
            embedding=unit_norm(embedding),
            locals=real.unpack(unit_norm(projected)),
            context=real.unpack(related),
            mask=mask,
        )
