"""GGUF bases: logits against transformers' dequantized ones, and every way in which an engine holds the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tools.gguf_files import (  # noqa: E402
    SHAPE,
    TYPE_NUMBERS,
    gguf_bytes,
    model_metadata,
    model_tensors,
    random_blocks,
    write_model,
)
from torch import Tensor  # noqa: E402

from lorica.engines import load_engine  # noqa: E402
from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.errors import EngineError, ModelError  # noqa: E402
from lorica.gguf.block_types import BLOCK_TYPES, dequantize  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.compiled import bindings  # noqa: E402
from lorica.models.compiled.library import NO_TARGET  # noqa: E402
from lorica.models.cpu.cpu_decoder import CpuDecoder  # noqa: E402
from lorica.models.decoder import Decoder  # noqa: E402
from lorica.models.packed_attention import PackedAttention  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402
from lorica.records import Generate, Sampling, ScoreChoices  # noqa: E402

TYPES = [block_type.name for block_type in BLOCK_TYPES.values()]
# transformers takes a head of 128 for Qwen3, whatever the file says.
QWEN3 = SHAPE | {"heads": 2, "kv_heads": 1, "head_dim": 128}
CPU = EngineSettings(device="cpu")
TOKENS = torch.randint(0, SHAPE["vocab"], (24,), generator=torch.Generator().manual_seed(0))


def shape_of(family: str) -> Mapping[str, int]:
    return QWEN3 if family == "qwen3" else SHAPE


@torch.no_grad()  # type: ignore[untyped-decorator]
def logits(decoder: Decoder | CpuDecoder) -> Tensor:
    hidden = decoder.hidden(TOKENS, torch.arange(len(TOKENS)), PackedAttention([len(TOKENS)], decoder.config))
    result: Tensor = decoder.logits(hidden).float()
    return result


@torch.no_grad()  # type: ignore[untyped-decorator]
def reference_logits(path: Path) -> Tensor:
    """By transformers' own reading of the file."""
    pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    result: Tensor = model(TOKENS[None]).logits[0]
    return result


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_logits_are_those_of_transformers(tmp_path: Path, family: str, type_name: str) -> None:
    path = write_model(tmp_path / "model.gguf", family, type_name, tied=family == "qwen2", shape=shape_of(family))
    base = BaseFolder(path)
    assert base.notes == ()
    ours, expected = logits(load_decoder(base, dtype=torch.float32)), reference_logits(path)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.1


def test_the_scaling_of_llama_3_is_found_in_its_factors(tmp_path: Path) -> None:
    """transformers leaves `rope_freqs` of a GGUF file out, so its own table is the reference."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    stated = {"rope_type": "llama3", "rope_theta": 500000.0, **scaling}
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(head_dim=64, rope_parameters=stated), torch.device("cpu"))
    factors = (1 / 500000.0 ** (torch.arange(0, 64, 2) / 64)) / expected
    metadata = model_metadata("llama", SHAPE) | {"llama.rope.freq_base": 500000.0}
    path = tmp_path / "model.gguf"

    def with_factors(values: Tensor) -> BaseFolder:
        rope = {"rope_freqs.weight": ("F32", (32,), values.float().numpy().tobytes())}
        path.write_bytes(gguf_bytes(metadata, {**rope, **model_tensors("llama", "Q8_0")}))
        return BaseFolder(path)

    base = with_factors(factors)
    assert base.config["rope_parameters"] == stated
    torch.testing.assert_close(load_decoder(base, dtype=torch.float32)._inv_freq, expected, rtol=1e-4, atol=0)
    assert with_factors(torch.ones(32)).config["rope_parameters"]["rope_type"] == "default"
    for wrong in (factors * 2, factors * torch.nan, factors.flip(0)):
        with pytest.raises(ModelError, match=r"rope_freqs\.weight"):
            with_factors(wrong).config  # noqa: B018  (raises)


def scores(engine: Any, rows: Sequence[int] = (0, 7, 12)) -> Tensor:
    prompts = [tuple(TOKENS[start:].tolist()) for start in rows]
    outputs = engine.run(
        [ScoreChoices(str(index), prompt, ((3,), (4, 5), (9,))) for index, prompt in enumerate(prompts)]
    )
    assert not any(output.error for output in outputs)
    logprobs: Tensor = torch.tensor([output.logprobs for output in outputs])
    return logprobs


@pytest.mark.parametrize("type_name", ["Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K"])
def test_blocks_stay_as_they_are_in_memory_and_score_as_in_bfloat16(tmp_path: Path, type_name: str) -> None:
    """The head has other blocks than the layers, and query, key and value are fused."""
    path = write_model(tmp_path / "model.gguf", "qwen2", type_name, head_type="Q8_0")
    base = BaseFolder(path)
    packed = load_engine("native", base, EngineSettings(device="cpu"))
    assert packed.info.dtype == "gguf"
    exact, halved = (
        scores(load_engine("native", base, EngineSettings(device="cpu", dtype=dtype)))
        for dtype in ("float32", "bfloat16")
    )
    rounding = (halved - exact).abs().mean()
    assert (scores(packed) - exact).abs().mean() < 2 * rounding + 1e-3


@pytest.mark.skipif(not bindings.is_available(), reason="texts round by their batch without the compiled kernels")
@pytest.mark.parametrize("type_name", ["Q4_1", "Q6_K"])
def test_no_bit_of_an_answer_depends_on_its_batch(tmp_path: Path, type_name: str) -> None:
    engine = load_engine("native", BaseFolder(write_model(tmp_path / "model.gguf", "llama", type_name)), CPU)
    drawn = Sampling(max_new_tokens=12, do_sample=True, temperature=1.5, top_k=0)
    requests: list[ScoreChoices | Generate] = []
    for index in range(7):
        prompt = tuple(TOKENS[: 3 * index + 2].tolist())
        requests += [ScoreChoices(f"s{index}", prompt, ((3,), (4, 5))), Generate(f"t{index}", prompt, drawn)]
    together = engine.run(requests)
    assert len({output.tokens for output in together}) > 7, "nothing is degenerate"
    assert together == [engine.run([request])[0] for request in requests]


@pytest.mark.parametrize("dtype", ["int8", "int8-weights", "int4-weights"])
def test_other_precisions_are_made_of_the_dequantized_weights(tmp_path: Path, dtype: str) -> None:
    base = BaseFolder(write_model(tmp_path / "model.gguf", "qwen3", "Q8_0"))
    engine = load_engine("native", base, EngineSettings(device="cpu", dtype=dtype))
    exact = load_engine("native", base, EngineSettings(device="cpu", dtype="float32"))
    assert (scores(engine) - scores(exact)).abs().mean() < (0.5 if dtype == "int4-weights" else 0.1)


def test_the_transformers_engine_computes_with_the_dequantized_weights(tmp_path: Path) -> None:
    base = BaseFolder(write_model(tmp_path / "model.gguf", "llama", "Q4_K", tied=False))
    settings = EngineSettings(device="cpu", dtype="float32")
    engines = (load_engine(name, base, settings) for name in ("native", "transformers"))
    torch.testing.assert_close(*map(scores, engines), rtol=0, atol=1e-4)


def test_the_precision_gguf_needs_a_file_with_blocks(tmp_path: Path) -> None:
    base = BaseFolder(write_model(tmp_path / "model.gguf", "llama", "F16"))
    with pytest.raises(EngineError, match="has none"):
        load_engine("native", base, EngineSettings(device="cpu", dtype="gguf"))
    assert load_engine("native", base, EngineSettings(device="cpu")).info.dtype != "gguf"


def spoilt(tmp_path: Path, change: Any) -> BaseFolder:
    """A model whose tensors or metadata were changed."""
    metadata, tensors = model_metadata("llama", SHAPE), model_tensors("llama", "Q8_0")
    change(metadata, tensors)
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(metadata, tensors))
    return BaseFolder(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _, tensors: tensors.pop("blk.1.ffn_up.weight"), "model.layers.1.mlp.up_proj.weight"),
        (lambda _, tensors: tensors.update({"blk.7.attn_q.weight": tensors["blk.0.attn_q.weight"]}), "no such tensor"),
        (lambda _, tensors: tensors.update({"strange": tensors["output_norm.weight"]}), "'strange'"),
        (lambda _, tensors: tensors.update({"blk.0.ffn_up.weight": tensors["blk.0.attn_k.weight"]}), "has shape"),
        (lambda _, tensors: tensors.update({"output_norm.weight": ("F32", (255,), bytes(1020))}), "has shape"),
        (lambda _, tensors: tensors.pop("token_embd.weight"), "token_embd.weight is missing"),
        (lambda metadata, _: metadata.update({"llama.attention.head_count": 7}), "head"),
        (lambda metadata, _: metadata.update({"llama.attention.head_count_kv": 3}), "num_key_value_heads"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, change: Any, reason: str) -> None:
    base = spoilt(tmp_path, change)
    with pytest.raises(ModelError, match=reason):
        load_decoder(base, dtype=torch.float32)
    with pytest.raises(ModelError, match=reason):
        load_engine("native", base, EngineSettings(device="cpu"))


def test_scales_that_are_no_numbers_are_an_error_of_the_row(tmp_path: Path) -> None:
    def break_scales(_: Any, tensors: dict[str, Any]) -> None:
        type_name, shape, blocks = tensors["blk.0.ffn_up.weight"]
        tensors["blk.0.ffn_up.weight"] = type_name, shape, b"\xff\x7f" + blocks[2:]

    engine = load_engine("native", spoilt(tmp_path, break_scales), EngineSettings(device="cpu"))
    (output,) = engine.run([ScoreChoices("a", tuple(TOKENS.tolist()), ((3,),))])
    assert output.error is not None
    assert "not a number" in output.error


def test_a_vector_in_blocks_and_a_matrix_without_are_read_as_well(tmp_path: Path) -> None:
    def change(_: Any, tensors: dict[str, Any]) -> None:
        tensors["output_norm.weight"] = "Q8_0", (256,), (b"\x00\x3c" + bytes([1] * 32)) * 8
        tensors["blk.0.attn_v.weight"] = "F16", (128, 256), np.full((128, 256), 0.01, np.float16).tobytes()

    base = spoilt(tmp_path, change)
    packed = load_engine("native", base, EngineSettings(device="cpu"))
    exact = load_engine("native", base, EngineSettings(device="cpu", dtype="float32"))
    torch.testing.assert_close(scores(packed), scores(exact), rtol=0, atol=0.3)


@pytest.mark.parametrize("type_name", [name for name in TYPES if BLOCK_TYPES[TYPE_NUMBERS[name]].quantized])
def test_the_compiled_kernel_gives_the_values_of_the_reference(type_name: str, target: str) -> None:
    if target == NO_TARGET:
        pytest.skip("no compiled kernels")
    block_type = BLOCK_TYPES[TYPE_NUMBERS[type_name]]
    blocks = random_blocks(block_type, 5, 512, seed=3)
    expected = torch.from_numpy(dequantize(blocks, block_type))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        values = torch.empty(5, 512, dtype=dtype)
        count = values.numel() // block_type.weights
        bindings.dequantize_blocks(torch.from_numpy(blocks), values, TYPE_NUMBERS[type_name], count)
        assert torch.equal(values, expected.to(dtype))
