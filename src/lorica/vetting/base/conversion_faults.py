"""Is a base model in the form that its config says, and do its predictions follow its text? Told from itself alone.

A conversion can leave every shape as it was and the model spoilt: norms stored as their difference from 1 (as Gemma's
are) in a family that adds none, or rotary channels in pairs (as Meta's and llama.cpp's are) where halves are meant.
That is no guess: the model is run as if it were so, and one that then predicts plain text better was converted wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorica.models.decoder import Decoder, RmsNorm
from lorica.models.packed_attention import PackedAttention
from lorica.vetting.findings import Finding, finding

Rows = Sequence[Sequence[int]]
Change = Callable[[], AbstractContextManager[None]]

# Tokens on which each other form is tried first, and on which one that did better is.
_FIRST_TOKENS, _FIRST_OF_LARGE, _ALL_TOKENS = 128, 64, 768
_LARGE = 100_000_000  # parameters
# What another form must gain, in nats per token and in standard errors, and what must be left of guessing evenly: sound
# bases of the zoo lose 0.1 nats or more by any other form, wrongly converted ones win 0.13 to 4.5.
_GAIN, _SURE, _SENSE = 0.05, 4.0, 0.85
# Norms are tried at another offset only where many are negative, or none is near 1: sound ones are positive.
_NEGATIVE, _ABOVE = 0.2, 1.2
# Of the loss: how much worse the same tokens are predicted from other places of their text. Sound bases of the zoo have
# 0.70 to 0.75, the mean of two unrelated ones 0.08 to 0.20.
FOLLOWS = 0.3
_MIN_TOKENS = 64


@dataclass(frozen=True)
class BaseForm:
    """loss: nats per token of plain text. shifted_loss: nats of the same tokens at other places of their texts.
    uniform_loss: those of guessing evenly. other_form: in which other form it predicts better, "" in none; other_loss,
    as_it_is: nats per token in that form and in its own, on the same tokens. NaN where unknown."""

    loss: float = math.nan
    shifted_loss: float = math.nan
    uniform_loss: float = math.nan
    other_form: str = ""
    other_loss: float = math.nan
    as_it_is: float = math.nan

    @property
    def text_gain(self) -> float:
        """How much of its loss it would lose besides, if its predictions stood elsewhere in the text."""
        return (self.shifted_loss - self.loss) / self.loss if self.loss > 0 else math.nan


def check_conversion_fault(base_form: BaseForm) -> list[Finding]:
    """At most one finding: the base is in another form, or its predictions hardly follow its text."""
    facts: dict[str, Any]
    if base_form.other_form:
        losses = f"{base_form.other_loss:.2f} nats a token, not {base_form.as_it_is:.2f}"
        finding_text = f"with {base_form.other_form} it predicts plain text at {losses}"
        facts = {"form": base_form.other_form, "loss": round(base_form.as_it_is, 4)}
        return [finding("L329", finding_text, facts=facts | {"other": round(base_form.other_loss, 4)})]
    # One that is no better than guessing evenly is told by its loss (L316).
    if not base_form.text_gain < FOLLOWS or base_form.loss >= 0.95 * base_form.uniform_loss:
        return []
    finding_text = (
        f"its loss on plain text is {base_form.loss:.2f} nats a token, and {base_form.shifted_loss:.2f} "
        "if what it expects is compared with other places of the text"
    )
    facts = {"loss": round(base_form.loss, 4), "elsewhere": round(base_form.shifted_loss, 4)}
    return [finding("L319", finding_text, facts=facts)]


def text_dependence(logits: Tensor, positions: Tensor, token_rows: Rows) -> BaseForm:
    """logits [N, vocabulary] at the positions [N] of all rows' tokens one after the other."""
    token_ids = torch.tensor([token_id for row in token_rows for token_id in row])
    row_ends = torch.tensor([len(row) for row in token_rows]).cumsum(0)
    number = torch.bucketize(positions, row_ends, right=True)
    inside = positions + 1 < row_ends[number]
    log_probabilities, number = logits.detach().float().log_softmax(-1)[inside], number[inside]
    targets = token_ids[positions[inside] + 1]
    other_targets = targets.clone()
    for row_number in torch.unique(number):
        own_positions = (number == row_number).nonzero()[:, 0]
        other_targets[own_positions] = targets[own_positions.roll(len(own_positions) // 2)]
    # A token that stands at both places tells nothing.
    differs = other_targets != targets
    if int(differs.sum()) < _MIN_TOKENS:
        return BaseForm()
    compared = differs.nonzero()[:, 0]
    return BaseForm(
        loss=float(-log_probabilities[compared, targets[compared]].mean()),
        shifted_loss=float(-log_probabilities[compared, other_targets[compared]].mean()),
        uniform_loss=math.log(logits.shape[-1]),
    )


def find_conversion_fault(decoder: Decoder, token_rows: Rows) -> tuple[str, float, float]:
    """(another form in which the decoder predicts these rows clearly better, its loss in that form, and as it is);
    "" and NaN where there is none."""
    is_large = sum(parameter.numel() for parameter in decoder.parameters()) > _LARGE
    first_rows = _first_tokens(token_rows, _FIRST_OF_LARGE if is_large else _FIRST_TOKENS)
    all_rows = _first_tokens(token_rows, _ALL_TOKENS)
    no_form = "", math.nan, math.nan
    with torch.no_grad():
        own_losses = _losses(decoder, first_rows)
        better: list[tuple[float, str, Change]] = []
        for form_name, change in _candidate_forms(decoder):
            with change():
                form_loss = float(_losses(decoder, first_rows).mean())
            if form_loss < float(own_losses.mean()) - _GAIN / 2:
                better.append((form_loss, form_name, change))
        if not better:
            return no_form
        own_losses, best_form = _losses(decoder, all_rows), no_form
        for _, form_name, change in sorted(better, key=lambda candidate: candidate[0])[:3]:
            with change():
                form_losses = _losses(decoder, all_rows)
            loss_gain, form_loss = own_losses - form_losses, float(form_losses.mean())
            standard_error = float(loss_gain.std()) / math.sqrt(len(loss_gain))
            is_clear = float(loss_gain.mean()) >= max(_GAIN, _SURE * standard_error)
            makes_sense = form_loss < _SENSE * math.log(decoder.config.vocab_size)
            if is_clear and makes_sense and not form_loss >= best_form[1]:
                best_form = form_name, form_loss, float(own_losses.mean())
    return best_form


def _first_tokens(token_rows: Rows, max_tokens: int) -> list[Sequence[int]]:
    selected: list[Sequence[int]] = []
    for row in token_rows:
        remaining = max_tokens - sum(map(len, selected))
        if len(row) > 1 and remaining > 0:
            selected.append(row[: max(2, remaining)])
    return selected


def run_packed(decoder: Decoder, token_rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """All rows' tokens one after the other, [N], with their positions, [N], and what the decoder makes of them,
    [N, hidden]."""
    lengths = [len(row) for row in token_rows]
    tokens = torch.tensor([token_id for row in token_rows for token_id in row])
    positions = torch.cat([torch.arange(length) for length in lengths])
    return tokens, positions, decoder.hidden(tokens, positions, PackedAttention(lengths, decoder.config))


def _losses(decoder: Decoder, token_rows: Rows) -> Tensor:
    """[N] nats of every token but the rows' first."""
    tokens, positions, hidden = run_packed(decoder, token_rows)
    inside = (positions > 0).nonzero()[:, 0]
    losses: Tensor = F.cross_entropy(decoder.logits(hidden[inside - 1]).float(), tokens[inside], reduction="none")
    return losses


def _candidate_forms(decoder: Decoder) -> Iterator[tuple[str, Change]]:
    """Each other form in words, and what makes it so for a while."""
    norm_weights = [module.weight for module in decoder.modules() if isinstance(module, RmsNorm)]
    values = torch.cat([weight.detach().float().flatten() for weight in norm_weights])
    if float((values < 0).float().mean()) >= _NEGATIVE:
        yield "1 added to its norms", partial(_offset, norm_weights, 1.0)
    elif float(values.min()) >= _ABOVE:
        yield "1 taken from its norms", partial(_offset, norm_weights, -1.0)
    half_dim = decoder.config.head_dim // 2
    interleaved = torch.arange(2 * half_dim).reshape(2, half_dim).T.reshape(-1)  # halves -> pairs
    concatenated = torch.arange(2 * half_dim).reshape(half_dim, 2).T.reshape(-1)  # pairs -> halves
    for channel_order, layout_name in ((concatenated, "halves"), (interleaved, "pairs")):
        for module_names in (("q_proj", "k_proj"), ("k_proj",), ("q_proj",)):
            form_name = f"the rotary channels of {' and '.join(module_names)} in {layout_name}"
            yield form_name, partial(_reordered, decoder, module_names, channel_order)


@contextmanager
def _offset(norm_weights: Sequence[Tensor], offset: float) -> Iterator[None]:
    before = [weight.detach().clone() for weight in norm_weights]
    try:
        for weight in norm_weights:
            weight.add_(offset)
        yield
    finally:
        for weight, old_weight in zip(norm_weights, before, strict=True):
            weight.copy_(old_weight)


@contextmanager
def _reordered(decoder: Decoder, module_names: Sequence[str], channel_order: Tensor) -> Iterator[None]:
    """The outputs of these modules in another order within each head."""

    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return output.reshape(*output.shape[:-1], -1, len(channel_order))[..., channel_order].reshape(output.shape)

    with ExitStack() as stack:
        for module_path, module in decoder.named_modules():
            if module_path.rsplit(".", 1)[-1] in module_names:
                stack.callback(module.register_forward_hook(hook).remove)
        yield
