"""The fast decoder against the plain one: every family, every precision, adapters mixed in a pass."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.models.adapter_weights import load_lora  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.compiled import products  # noqa: E402
from lorica.models.cpu import kernels, layer, linear, scratch  # noqa: E402
from lorica.models.cpu.cpu_decoder import CpuDecoder  # noqa: E402
from lorica.models.lora import LoraSpan  # noqa: E402
from lorica.models.packed_attention import PackedAttention  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402

KINDS = [
    "llama",
    "llama-biases-tied",
    "llama-llama3-rope",
    "llama-no-groups",
    "mistral-window",
    "qwen2",
    "qwen3",
    "qwen3-bias-tied",
]
LENGTHS = [18, 7, 5]


def make_fast(folder: Any, precision: str = "float32") -> CpuDecoder:
    return CpuDecoder(load_decoder(BaseFolder(folder)), precision)


@pytest.fixture
def spans_on(adapter_of: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Three adapters of different ranks and targets on a tiny model, over most of 30 tokens."""

    def make(made: Any, dtype: Any = torch.float32) -> list[Any]:
        settings = (
            {"r": 4, "target_modules": "all-linear"},
            {"r": 3, "target_modules": ["q_proj", "v_proj", "down_proj"], "lora_alpha": 7},
            {"r": 5, "target_modules": ["k_proj", "up_proj"], "rank_pattern": {"layers.1.self_attn.k_proj": 2}},
        )
        loaded = []
        for seed, each in enumerate(settings):
            _, folder = adapter_of(made.reference, seed, **each)
            loaded.append(load_lora(str(seed), open_adapter(folder), made.decoder.config, dtype=dtype))
        return [LoraSpan(lora, a, b) for lora, (a, b) in zip(loaded, ((1, 9), (9, 18), (20, 28)), strict=True)]

    return make


def logits(decoder: Any, tokens: Any, spans: Any, **options: Any) -> Any:
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    attention = PackedAttention(LENGTHS, decoder.config)
    with torch.no_grad():
        return decoder.logits(decoder.hidden(tokens, positions, attention, spans, **options)).float()


@pytest.mark.parametrize("kind", KINDS)
def test_float32_equals_the_plain_decoder(
    kind: str, tiny: Callable[[str], Any], spans_on: Callable[..., Any], tokens_of: Callable[..., Any]
) -> None:
    made, tokens = tiny(kind), tokens_of(30)
    spans, ours = spans_on(made), make_fast(made.folder)
    for used in (spans[:0], spans, spans[1:2]):
        expected = logits(made.decoder, tokens, used)
        torch.testing.assert_close(logits(ours, tokens, used), expected, atol=2e-5, rtol=1e-5)
    read = torch.tensor([2, 11, 17, 26])
    torch.testing.assert_close(logits(ours, tokens, spans, output_rows=read), expected_at(made, tokens, spans, read))


def expected_at(made: Any, tokens: Any, spans: Any, read: Any) -> Any:
    return logits(made.decoder, tokens, spans)[read]


def test_rows_in_several_blocks_are_those_of_one(
    tiny: Callable[[str], Any],
    spans_on: Callable[..., Any],
    tokens_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, tokens = tiny("qwen3-bias-tied"), tokens_of(30)
    spans, ours = spans_on(made), make_fast(made.folder)
    whole = logits(ours, tokens, spans)
    monkeypatch.setattr(layer, "_BLOCK_ROWS", 4)
    torch.testing.assert_close(logits(ours, tokens, spans), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("precision", "most"),
    [("bfloat16", 0.08), ("int16", 5e-3), ("int8", 0.08), ("int8-weights", 0.08), ("int4-weights", 0.5)],
)
@pytest.mark.parametrize("kind", ["llama-biases-tied", "qwen2-wide", "qwen3-wide"])
def test_other_precisions_stay_near(
    precision: str,
    most: float,
    kind: str,
    tiny: Callable[[str], Any],
    spans_on: Callable[..., Any],
    tokens_of: Callable[..., Any],
) -> None:
    made, tokens = tiny(kind), tokens_of(30)
    ours = make_fast(made.folder, precision)
    expected = logits(made.decoder, tokens, spans_on(made))
    found = logits(ours, tokens, spans_on(made, ours.dtype))
    assert found.isfinite().all()
    # A share of the spread of the logits; the plain decoder in bfloat16 is as far away.
    assert 0 < (found - expected).std() / expected.std() < most


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int16", "int8", "int8-weights", "int4-weights"])
def test_without_private_operators_the_results_are_the_same(
    precision: str, tiny: Callable[[str], Any], tokens_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision == "int8" and not kernels.has_int8_linear():  # as on AVX2
        pytest.skip("int8 weights are multiplied by int16 activations here: more exactly than without the kernels")
    made, tokens = tiny("qwen2-wide"), tokens_of(30)
    usual = logits(make_fast(made.folder, precision), tokens, [])
    monkeypatch.setattr(kernels, "has_int8_linear", lambda: False)
    monkeypatch.setattr(products, "target", lambda: "")
    monkeypatch.setattr(linear, "library", SimpleNamespace(target=lambda: ""))
    if precision == "float32":
        monkeypatch.setattr(kernels, "can_prepack", lambda dtype: False)
    bare = logits(make_fast(made.folder, precision), tokens, [])
    torch.testing.assert_close(bare, usual, atol=1e-4 if precision == "float32" else 0.1, rtol=1e-2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int16", "int8", "int8-weights"])
def test_layers_use_the_scratch_memory_of_the_one_before(
    precision: str, tiny: Callable[[str], Any], tokens_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, tokens = tiny("qwen2-wide"), tokens_of(30)
    ours, places = make_fast(made.folder, precision), []
    allocated = logits(ours, tokens, [])

    class Watched(PackedAttention):
        def attend(self, layer: int, query: Any, key: Any, value: Any) -> Any:
            places.append(query.data_ptr())
            return super().attend(layer, query, key, value)

    monkeypatch.setattr(scratch, "_MIN_ROWS", 1)
    torch.testing.assert_close(logits(ours, tokens, []), allocated)
    ours._layers = [*ours._layers[:1] * 3, ours._layers[-1]]
    ours.hidden(tokens, torch.arange(30), Watched([30], ours.config))
    assert len(places) == 4
    assert len(set(places[:3])) == 1


def test_the_plain_weights_are_let_go(tiny: Callable[[str], Any]) -> None:
    decoder = load_decoder(BaseFolder(tiny("qwen3").folder))
    CpuDecoder(decoder, "int8")
    assert not [name for name, _ in decoder.named_parameters() if ".layers." in name]


def test_nan_stays_nan_in_every_precision(tiny: Callable[[str], Any], tokens_of: Callable[..., Any]) -> None:
    made, tokens = tiny("qwen2-wide"), tokens_of(30)
    for precision in ("float32", "bfloat16", "int8", "int8-weights", "int4-weights"):
        ours = make_fast(made.folder, precision)
        assert isinstance(ours.embedding, torch.Tensor)
        ours.embedding = embedding = ours.embedding.clone()
        embedding[int(tokens[19])] = torch.nan
        found = logits(ours, tokens, [])
        assert found[19:25].isnan().all(), "the second sequence"
        assert not found[:18][tokens[:18] != tokens[19]].isnan().all()
