"""Computing only what is read of the last layer changes nothing of what is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.models.adapter_weights import load_lora  # noqa: E402
from lorica.models.lora import LoraSpan, LoraWeights, spans_at  # noqa: E402
from lorica.models.packed_attention import PackedAttention  # noqa: E402


@pytest.mark.parametrize("kind", ["llama-biases-tied", "qwen2", "qwen3", "mistral-window"])
@pytest.mark.parametrize("read", [[0], [3, 4, 17, 29], list(range(30))])
def test_the_rows_that_are_read_are_those_of_the_whole_pass(
    kind: str,
    read: list[int],
    tiny: Callable[[str], Any],
    adapter_of: Callable[..., Any],
    tokens_of: Callable[..., Any],
) -> None:
    made, tokens = tiny(kind), tokens_of(30)
    decoder = made.decoder
    _, folder = adapter_of(made.reference, r=4, target_modules="all-linear")
    lora = load_lora("one", open_adapter(folder), decoder.config)
    spans = [LoraSpan(lora, 2, 9), LoraSpan(lora, 16, 30)]
    positions = torch.cat((torch.arange(18), torch.arange(12)))
    with torch.no_grad():
        whole = decoder.hidden(tokens, positions, PackedAttention([18, 12], decoder.config), spans)
        rows = torch.tensor(read)
        part = decoder.hidden(tokens, positions, PackedAttention([18, 12], decoder.config), spans, output_rows=rows)
    torch.testing.assert_close(part, whole[rows], atol=1e-5, rtol=1e-5)


def test_reading_nothing_leaves_keys_and_values(tiny: Callable[[str], Any], tokens_of: Callable[..., Any]) -> None:
    decoder, tokens = tiny("qwen3").decoder, tokens_of(12)
    kept: dict[int, list[Any]] = {}

    class Keeping:
        def __init__(self) -> None:
            self._attention = PackedAttention([12], decoder.config)

        def attend(self, layer: int, query: Any, key: Any, value: Any) -> Any:
            kept.setdefault(layer, []).append((len(query), key, value))
            return self._attention.attend(layer, query, key, value) if len(query) else query

    with torch.no_grad():
        for read in (None, tokens[:0]):
            found = decoder.hidden(tokens, torch.arange(12), Keeping(), output_rows=read)
    assert found.shape == (0, decoder.config.hidden_size)
    for layer, (whole, bare) in kept.items():
        assert torch.equal(whole[1], bare[1])
        assert torch.equal(whole[2], bare[2])
        assert bare[0] == (0 if layer == decoder.config.layers - 1 else 12)


def test_spans_fall_where_their_tokens_are_read() -> None:
    first, second, third = (LoraWeights(name, {}) for name in "abc")
    spans = [LoraSpan(first, 0, 5), LoraSpan(second, 5, 8), LoraSpan(third, 9, 12)]
    found = spans_at(spans, torch.tensor([1, 4, 8, 9, 11]), 12)
    assert [(span.adapter.name, span.start, span.stop) for span in found] == [("a", 0, 2), ("c", 3, 5)]
    assert spans_at(spans, torch.tensor([], dtype=torch.long), 12) == []
    assert spans_at([], torch.tensor([1]), 12) == []
