"""An adapter against its base's files: PEFT's own adapters fit their bases, and each kind of misfit is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.vetting.specimens import codes, pairs, specimen, specimen_of

import lorica.models
from lorica.adapters.header import header_bytes
from lorica.errors import ModelError
from lorica.vetting.base.base_fit import check_fit
from lorica.vetting.findings import Finding, finding_codes

TINY = Path(lorica.models.__file__).parent / "lorica_tiny"
SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 88,
    "vocab_size": 136,
}
LLAMA = {**SMALL, "model_type": "llama", "num_key_value_heads": 2, "head_dim": 12}
# (inputs, outputs) of the linear layers of LLAMA.
LINEAR = {
    "self_attn.q_proj": (48, 48),
    "self_attn.k_proj": (48, 24),
    "self_attn.v_proj": (48, 24),
    "self_attn.o_proj": (48, 48),
    "mlp.gate_proj": (48, 88),
    "mlp.up_proj": (48, 88),
    "mlp.down_proj": (88, 48),
}
QV = {kind: LINEAR[kind] for kind in ("self_attn.q_proj", "self_attn.v_proj")}


def save_base(
    folder: Path,
    config: Mapping[str, Any] = LLAMA,
    *,
    linear: Mapping[str, tuple[int, int]] = LINEAR,
    prefix: str = "model.",
    rows: int = 136,
    dtype: str = "BF16",
    weights: bool = True,
) -> Path:
    """A base model's folder whose weights are zeros."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    if not weights:
        return folder
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {f"{prefix}embed_tokens.weight": ("BF16", (rows, 48))}
    tensors[f"{prefix}norm.weight"] = ("BF16", (48, 1))
    for layer in range(int(config["num_hidden_layers"])):
        for kind, (inputs, outputs) in linear.items():
            tensors[f"{prefix}layers.{layer}.{kind}.weight"] = (dtype, (outputs, inputs))
    head, order = header_bytes(tensors, {"format": "pt"})
    sizes = {"BF16": 2, "F8_E4M3": 1}
    body = sum(tensors[name][1][0] * tensors[name][1][1] * sizes[tensors[name][0]] for name in order)
    (folder / "model.safetensors").write_bytes(head + bytes(body))
    return folder


def judged(
    base: Path, kinds: Mapping[str, tuple[int, int]] = QV, layers: Sequence[int] = range(3), **more: Any
) -> list[Finding]:
    """What check_fit says of an adapter with these modules. more: container, config (a dict), extra (tensors)."""
    shapes = pairs(kinds, list(layers), container=more.get("container", "model.layers"))
    shapes |= more.get("extra", {})
    config = {"target_modules": sorted({kind.rsplit(".", 1)[-1] for kind in kinds}), **more.get("config", {})}
    return check_fit(*specimen(shapes, config), base)


def test_a_fitting_adapter_is_left_in_peace(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    assert judged(base) == []
    assert judged(base, LINEAR) == []
    assert judged(base, layers=[1], config={"layers_to_transform": [1]}) == []
    assert judged(base, extra={"base_model.model.model.embed_tokens.weight": (136, 48)}) == []
    assert judged(base, extra={"base_model.model.lm_head.weight": (136, 48)}) == []  # tied to the embedding
    assert judged(base, extra={"base_model.model.model.norm.weight": (48,)}) == []


def test_an_fp8_base_is_compared_by_its_shapes(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", {**LLAMA, "quantization_config": {"quant_method": "fp8"}}, dtype="F8_E4M3")
    assert codes(judged(base)) == ["L308"]
    assert codes(judged(base, {"self_attn.q_proj": (40, 48)}), "reject") == ["L301"]


def test_other_widths_are_named_by_what_they_are(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    (found,) = judged(base, {"self_attn.q_proj": (64, 64), "self_attn.v_proj": (64, 24)})
    assert found.code == "L301"
    assert found.severity == "reject"
    assert "hidden 64, not 48" in found.seen
    assert "query width 64, not 48" in found.seen
    assert "6 modules" in found.seen
    assert found.facts["widths"]["hidden"] == [64, 48]


def test_more_layers_than_the_base_has(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    (found,) = judged(base, layers=range(5))
    assert (found.code, found.severity) == ("L302", "reject")
    assert "it adapts 5 layers; the base has 3" in found.seen
    assert found.facts["modules"] == 4


@pytest.mark.parametrize(
    ("config", "severity"),
    [
        ({}, "reject"),
        ({"target_modules": r".*\.layers\.[01]\..*_proj"}, "note"),
        ({"exclude_modules": ["layers.2.self_attn.q_proj"]}, "note"),
    ],
)
def test_fewer_layers_than_the_base_has(tmp_path: Path, config: dict[str, Any], severity: str) -> None:
    base = save_base(tmp_path / "base")
    (found,) = judged(base, layers=range(2), config=config)
    assert (found.code, found.severity) == ("L303", severity)
    assert found.facts == {"adapter_layers": 2, "base_layers": 3, "certain": severity == "reject"}
    assert found.fix == finding_codes()["L303"].fix, "no base of the table has such shapes"


def test_layers_that_lack_the_module_are_not_missed(tmp_path: Path) -> None:
    """A base whose last layer is of another kind, as state-space hybrids have."""
    base = save_base(tmp_path / "base", {**LLAMA, "num_hidden_layers": 2})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert judged(base, layers=range(2)) == []


def test_fused_and_split_names_are_told_apart(tmp_path: Path) -> None:
    fused = {"self_attn.qkv_proj": (48, 96), "self_attn.o_proj": (48, 48)}
    base = save_base(tmp_path / "base", {**LLAMA, "model_type": "phi3"}, linear=fused)
    (found,) = judged(base)
    assert (found.code, found.severity) == ("L300", "reject")
    assert "the base has qkv_proj in their place" in found.seen
    assert found.facts["fused"] is True
    split = save_base(tmp_path / "split")
    (found,) = judged(split, {"self_attn.qkv_proj": (48, 96)})
    assert "k_proj, q_proj, v_proj in their place" in found.seen


@pytest.mark.parametrize(
    "container", ["language_model.model.layers", "model.model.layers", "model.language_model.layers"]
)
def test_a_wrappers_prefix_would_not_be_found(tmp_path: Path, container: str) -> None:
    (found,) = judged(save_base(tmp_path / "base"), container=container)
    assert (found.code, found.severity) == ("L304", "reject")
    assert "model.layers.0.self_attn.q_proj" in found.expected


def test_prefixes_that_loading_changes_are_no_fault(tmp_path: Path) -> None:
    seeing = {"model_type": "llava", "text_config": LLAMA, "num_hidden_layers": 3}
    base = save_base(tmp_path / "seeing", seeing, prefix="language_model.model.")
    assert judged(base, container="model.language_model.layers") == []
    (found,) = judged(base)  # an adapter of the language model alone: whoever loads by name drops it
    assert (found.code, found.severity) == ("L304", "reject")
    bare = save_base(tmp_path / "bare", prefix="")  # saved from the model without its head
    assert judged(bare) == []
    whole = save_base(tmp_path / "whole")
    assert judged(whole, container="layers") == []  # an adapter of the model without its head


@pytest.mark.parametrize(("rows", "severity"), [(136, ""), (140, "warn"), (4000, "reject")])
def test_rows_of_a_saved_embedding(tmp_path: Path, rows: int, severity: str) -> None:
    found = judged(save_base(tmp_path / "b"), extra={"base_model.model.model.embed_tokens.weight": (rows, 48)})
    assert [(each.code, each.severity) for each in found] == ([("L305", severity)] if severity else [])


def test_a_saved_embedding_of_another_width(tmp_path: Path) -> None:
    found = judged(save_base(tmp_path / "b"), extra={"base_model.model.model.embed_tokens.weight": (136, 64)})
    assert codes(found, "reject") == ["L301"]


def test_an_adapted_embedding(tmp_path: Path) -> None:
    base = save_base(tmp_path / "b")
    path = "base_model.model.model.embed_tokens.lora_embedding"
    assert judged(base, extra={f"{path}_A": (4, 136), f"{path}_B": (48, 4)}) == []
    assert codes(judged(base, extra={f"{path}_A": (4, 136), f"{path}_B": (64, 4)}), "reject") == ["L301"]


def test_a_new_head_is_only_mentioned(tmp_path: Path) -> None:
    found = judged(save_base(tmp_path / "b"), extra={"base_model.model.score.weight": (2, 48)})
    assert codes(found) == ["L315"]
    assert found[0].severity == "note"


def test_a_base_without_weights_is_compared_by_its_config(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", weights=False)
    assert codes(judged(base)) == ["L309"]
    assert codes(judged(base, {"self_attn.q_proj": (64, 48)}), "reject") == ["L301"]
    assert codes(judged(base, {"attn.c_attn": (48, 144)}), "reject") == ["L300"]
    assert codes(judged(base, layers=range(4)), "reject") == ["L302"]
    assert codes(judged(base, layers=range(2)), "reject") == ["L303"]


def test_a_packed_base_is_compared_by_its_config(tmp_path: Path) -> None:
    stated = {**LLAMA, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    base = save_base(tmp_path / "base", stated)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in range(3):
        for kind, (inputs, outputs) in LINEAR.items():
            tensors[f"model.layers.{layer}.{kind}.weight"] = ("U8", (inputs * outputs // 2, 1))
            tensors[f"model.layers.{layer}.{kind}.weight.absmax"] = ("F32", (4,))
    head, _ = header_bytes(tensors, {})
    body = sum(shape[0] * (4 if dtype == "F32" else 1) for dtype, shape in tensors.values())
    (base / "model.safetensors").write_bytes(head + bytes(body))
    assert codes(judged(base)) == ["L308"]
    found = judged(base, {"self_attn.q_proj": (64, 48)})
    assert codes(found) == ["L301", "L308"]
    assert "bitsandbytes 4 bit" in found[1].seen


def test_an_incomplete_base_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        judged(tmp_path)
    base = save_base(tmp_path / "base")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match="cut short") as caught:
        judged(base)
    assert "download the model again" in str(caught.value)
    weights.unlink()
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(ModelError, match="not found"):
        judged(base)


def test_a_sharded_base_is_read_whole(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"model.embed_tokens.weight": "model-00001-of-00001.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    assert judged(base) == []


@pytest.mark.parametrize(
    ("named", "stated", "kind", "expected"),
    [
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf", "llama", []),
        ("meta-llama/Llama-2-7b-hf", "TheBloke/Llama-2-7B-GPTQ", "llama", []),
        ("meta-llama/Llama-2-7b-hf", "lmsys/vicuna-7b-v1.5", "llama", ["L306"]),
        ("mistralai/Mistral-7B-v0.1", None, "llama", ["L307"]),
        ("mistralai/Mistral-7B-v0.1", "meta-llama/Meta-Llama-3-8B", "llama", ["L306", "L307"]),
        ("me/my-own-model", "meta-llama/Meta-Llama-3-8B", "llama", []),
        ("meta-llama/Llama-2-7b-hf", "/home/me/checkpoint-200", "llama", []),
    ],
)
def test_the_base_that_the_adapter_names(
    tmp_path: Path, named: str, stated: str | None, kind: str, expected: list[str]
) -> None:
    config = {**LLAMA, "model_type": kind} | ({"_name_or_path": stated} if stated else {})
    base = save_base(tmp_path / "base", config)
    found = judged(base, config={"base_model_name_or_path": named})
    assert codes(found) == expected
    assert not codes(found, "reject")


def test_another_revision_of_the_named_base(tmp_path: Path) -> None:
    old, new = "a" * 40, "b" * 40
    base = save_base(tmp_path / "models--meta-llama--Llama-2-7b-hf" / "snapshots" / new)
    named = {"base_model_name_or_path": "meta-llama/Llama-2-7b-hf"}
    assert codes(judged(base, config={**named, "revision": new})) == []
    assert codes(judged(base, config={**named, "revision": "main"})) == []
    (found,) = judged(base, config={**named, "revision": old})
    assert (found.code, found.severity) == ("L306", "warn")


def test_a_quantised_copy_is_mentioned(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    (found,) = judged(base, config={"base_model_name_or_path": "TheBloke/Llama-2-7B-GPTQ"})
    assert (found.code, found.severity) == ("L308", "note")
    assert "not quantised" in found.seen


def test_an_adapted_head_of_a_task_is_no_missing_module(tmp_path: Path) -> None:
    head = {"base_model.model.score.lora_A.weight": (4, 48), "base_model.model.score.lora_B.weight": (2, 4)}
    assert codes(judged(save_base(tmp_path / "base"), extra=head)) == ["L315"]


def tokenizer(folder: Path, vocabulary: dict[str, int], added: dict[str, int], template: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    entries = [{"id": number, "content": token} for token, number in added.items()]
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": entries})
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "pad_token": "<pad>"}))


WORDS = {f"w{i}": i for i in range(130)}


@pytest.mark.parametrize(
    ("vocabulary", "added", "template", "expected"),
    [
        (WORDS, {"<end>": 130}, "T", []),
        (WORDS, {"<end>": 130}, None, []),
        (WORDS, {"<end>": 130}, "T2", [("L311", "warn")]),
        (WORDS, {"<end>": 130, "<new>": 131}, "T", [("L312", "note")]),
        (WORDS, {"<end>": 130, "<pad>": 136}, "T", [("L312", "note")]),
        (WORDS, {"<end>": 130, "<new>": 136}, "T", [("L312", "warn")]),
        (WORDS, {"<end>": 131}, "T", [("L312", "warn")]),
        ({f"v{i}": i for i in range(130)}, {"<end>": 130}, "T", [("L313", "warn")]),
        ({f"w{i}": 129 - i for i in range(130)}, {}, "T", [("L313", "warn")]),
    ],
)
def test_the_tokenizer_beside_the_adapter(
    tmp_path: Path, vocabulary: dict[str, int], added: dict[str, int], template: str | None, expected: list[Any]
) -> None:
    base = save_base(tmp_path / "base")
    tokenizer(base, WORDS, {"<end>": 130}, "T")
    tokenizer(tmp_path / "adapter", vocabulary, added, template)
    found, layout = specimen(pairs(QV, range(3)), files={"tokenizer.json": 1})
    found = msgspec.structs.replace(found, folder=tmp_path / "adapter")
    assert [(each.code, each.severity) for each in check_fit(found, layout, base)] == expected


def test_a_broken_tokenizer_raises_nothing(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    vocabularies = ('{"model": {"vocab": [[1], null, ["a"]]}, "added_tokens": 7}', '{"model": {"vocab": [[["a"], 0]]}}')
    for text in ("[" * 200_000, "\xff", *vocabularies, '{"model": []}'):
        (adapter / "tokenizer.json").write_text(text, "latin-1")
        found, layout = specimen(pairs(QV, range(3)), files={"tokenizer.json": 1})
        check_fit(msgspec.structs.replace(found, folder=adapter), layout, base)


def test_the_embedded_base_and_its_own_shape() -> None:
    attention = {"self_attn.q_proj": (256, 256), "self_attn.v_proj": (256, 128)}
    assert judged(TINY, attention, range(6)) == []
    (found,) = judged(TINY, {"self_attn.q_proj": (2560, 4096)}, range(6))
    assert found.code == "L301"


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "num_key_value_heads": 2},
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 20},
    "gpt2": {"n_embd": 48, "n_layer": 3, "n_head": 4, "vocab_size": 136},
    "phi3": {**SMALL, "num_key_value_heads": 4, "pad_token_id": 0},
    "gpt_neox": SMALL,
    "opt": {**SMALL, "ffn_dim": 88, "word_embed_proj_dim": 48, "pad_token_id": 0},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("more", [{}, {"modules_to_save": ["lm_head"]}, {"layers_to_transform": [0, 1]}])
def test_what_peft_makes_of_a_base_fits_it(tmp_path: Path, family: str, more: dict[str, Any]) -> None:
    """The oracle: transformers' own checkpoint and PEFT's own adapter for it."""
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    if family == "gpt_neox" and "modules_to_save" in more:
        more = {"modules_to_save": ["embed_out"]}
    config = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "base")
    kinds = {"llama": ["q_proj"], "qwen3": ["up_proj"], "gpt2": ["c_attn"], "phi3": ["qkv_proj"], "opt": ["fc1"]}
    targets = kinds.get(family, ["dense"]) if "layers_to_transform" in more else "all-linear"
    wanted = peft.LoraConfig(
        r=4, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2", **more
    )
    peft.get_peft_model(model, wanted).save_pretrained(tmp_path / "adapter")
    found = check_fit(*specimen_of(tmp_path / "adapter"), tmp_path / "base")
    assert codes(found, "reject", "warn") == [], [each.seen for each in found]
    other = transformers.AutoConfig.for_model(family, **{**FAMILIES[family], **_wider(FAMILIES[family])})
    transformers.AutoModelForCausalLM.from_config(other).save_pretrained(tmp_path / "other")
    assert "L301" in codes(check_fit(*specimen_of(tmp_path / "adapter"), tmp_path / "other"), "reject")


def _wider(values: Mapping[str, Any]) -> dict[str, int]:
    key = "n_embd" if "n_embd" in values else "hidden_size"
    return {key: 96} | ({"word_embed_proj_dim": 96} if "word_embed_proj_dim" in values else {})


def test_fitting_needs_no_torch() -> None:
    code = "import sys, lorica.vetting.base.base_fit; print(' '.join(sys.modules))"
    source = Path(lorica.models.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=source)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "hydra", "scipy", "tokenizers", "jinja2"}
