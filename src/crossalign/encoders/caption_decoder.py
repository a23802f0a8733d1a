"""VSRN's auxiliary objective: from the related regions of an image, generate its caption."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.encoders.recurrence import last_state, read_units
from crossalign.errors import CrossAlignError
from crossalign.masking import RealUnits, at_least_float32
from crossalign.normalization import unit_norm

__all__ = ["CaptionGeneration"]


class CaptionGeneration(nn.Module):
    """Cross-entropy of an image's caption, word by word, under a recurrent decoder that looks at its regions.

    A GRU reads the regions; a second one, starting from its last state, is given the true previous word and
    the mean of the first one's states under additive attention, and predicts the next word, at last the end of
    the caption. VSRN (Li et al., ICCV 2019), section 3.4. Needed in training only.

    Args:
        dim: D, width of the regions.
        vocabulary: number of token ids; the decoder knows one more symbol, the border of a caption.
        hidden: H, width of the recurrent states.
        word_dim: width of the word embeddings.
        dropout: probability of dropping a feature of what either GRU reads.

    Raises:
        CrossAlignError: a size is not positive or the dropout is no probability below 1.
    """

    def __init__(
        self, dim: int, vocabulary: int, *, hidden: int = 512, word_dim: int = 300, dropout: float = 0.2
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "vocabulary": vocabulary, "hidden": hidden, "word_dim": word_dim}
        for name, size in sizes.items():
            if size < 1:
                raise CrossAlignError(f"caption generation: {name} is {size}; give a positive number")
        if not 0 <= dropout < 1:
            raise CrossAlignError(
                f"caption generation: dropout is {dropout}; give a number from 0 to below 1"
            )
        self.vocabulary = vocabulary
        self.projection = nn.Linear(dim, hidden)
        nn.init.xavier_normal_(self.projection.weight)
        self.reader = nn.GRU(hidden, hidden, batch_first=True)
        self.words = nn.Embedding(vocabulary + 1, word_dim)
        self.attention_units = nn.Linear(hidden, hidden)
        self.attention_state = nn.Linear(hidden, hidden, bias=False)
        self.attention = nn.Linear(hidden, 1, bias=False)
        self.cell = nn.GRUCell(word_dim + hidden, hidden)
        self.output = nn.Linear(hidden, vocabulary + 1)
        nn.init.xavier_normal_(self.output.weight)
        self.dropout = nn.Dropout(dropout)

    def forward(self, context: Tensor, mask: Tensor, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """The negative log-likelihood of a caption, summed over its words, averaged over the captions.

        Args:
            context: ``(B, N, D)`` regions after the relation layers; brought to unit norm here, as VSRN does.
            mask: ``(B, N)`` bool, true where a region is real.
            tokens: ``(B, W)`` int64 ids below ``vocabulary``; caption i describes image i.
            token_mask: ``(B, W)`` bool, true where a token is real.

        Returns:
            Scalar. A pair without a real region or a real token is left out; zero where no other is left.
        """
        real = RealUnits.of(context, mask)
        read = self.projection(unit_norm(real.pack(context)))
        states = read_units(self.reader, self.dropout(read), real)
        places = torch.arange(states.shape[1], device=states.device)
        seen = places < real.counts(states.device).unsqueeze(1)

        lengths = (token_mask.sum(dim=1) + 1) * (token_mask.any(dim=1) & mask.any(dim=1))
        # Long captions first: those that still go on are the first rows at every step.
        lengths, order = lengths.sort(descending=True)
        steps = torch.arange(tokens.shape[1] + 1, device=lengths.device)
        active = [count for count in (lengths.unsqueeze(1) > steps).sum(dim=0).tolist() if count]
        # Symbol 0 is the border of a caption; it stands before the first word and after the last.
        words = RealUnits.of(tokens, token_mask)
        symbols = words.in_front().unpack(words.pack(tokens.unsqueeze(2) + 1)).squeeze(2)[order]
        given, wanted = F.pad(symbols, (1, 0)), F.pad(symbols, (0, 1))
        decoded = self._decode(states[order], seen[order], last_state(states, real)[order], given, active)
        targets = torch.cat([wanted[:0, 0], *(wanted[:count, step] for step, count in enumerate(active))])
        logits = at_least_float32(self.output(decoded))
        return F.cross_entropy(logits, targets, reduction="sum") / max([1, *active])

    def _decode(
        self, states: Tensor, mask: Tensor, hidden: Tensor, words: Tensor, active: list[int]
    ) -> Tensor:
        """Hidden states ``(sum(active), H)`` of the decoder, step after step, for its ``active`` first rows."""
        embedded = self.words(words)
        keys = self.attention_units(states)
        outputs = [hidden[:0]]
        for step, count in enumerate(active):
            if count < len(keys):
                keys, states, mask, hidden = keys[:count], states[:count], mask[:count], hidden[:count]
            scores = self.attention((keys + self.attention_state(hidden).unsqueeze(1)).tanh()).squeeze(2)
            weights = at_least_float32(scores).masked_fill(~mask, -torch.inf).softmax(dim=1)
            attended = torch.bmm(weights.unsqueeze(1).to(states.dtype), states).squeeze(1)
            read = torch.cat([embedded[:count, step].to(attended.dtype), attended], dim=1)
            hidden = self.cell(self.dropout(read), hidden)
            outputs.append(hidden)
        return torch.cat(outputs)
