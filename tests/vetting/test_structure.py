from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.vetting.peft_variants import VARIANTS, save_variant
from tests.vetting.specimens import Shapes, codes, codes_between, pairs, specimen, specimen_of

from lorica.adapters.tensor_names import PREFIX
from lorica.vetting.findings import causes
from lorica.vetting.structure.check_structure import check_structure

Q, V = "self_attn.q_proj", "self_attn.v_proj"
QV = {Q: (32, 32), V: (32, 16)}
LLAMA = {
    Q: (32, 32),
    "self_attn.k_proj": (32, 16),
    V: (32, 16),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (32, 48),
    "mlp.up_proj": (32, 48),
    "mlp.down_proj": (48, 32),
}
SEVEN = [kind.rsplit(".", 1)[-1] for kind in LLAMA]
PLAIN = pairs(QV, range(4))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes an adapter of VARIANTS once."""
    root, made = tmp_path_factory.mktemp("legal"), {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = save_variant(name, root / name)
        return made[name]

    return make


@pytest.mark.parametrize("name", VARIANTS)
def test_legal_adapters_give_no_alarm(adapters: Callable[[str], Path], name: str) -> None:
    found = check_structure(*specimen_of(adapters(name)))
    assert not codes(found, "reject", "warn"), [each.seen for each in found]


def test_what_the_native_engine_does_not_apply_is_noted(adapters: Callable[[str], Path]) -> None:
    for name in ("dora", "saved-head", "tokens", "invocation-tokens", "bias-all", "embedding", "experts", "lora-bias"):
        found = [each for each in check_structure(*specimen_of(adapters(name))) if each.code == "L136"]
        assert [each.severity for each in found] == ["note"], name
        assert "engine=transformers" in found[0].fix


def renamed(old: str, new: str) -> Shapes:
    return {name.replace(old, new): shape for name, shape in PLAIN.items()}


def without(*parts: str) -> Shapes:
    return {name: shape for name, shape in PLAIN.items() if not any(part in name for part in parts)}


DORA = PLAIN | {
    f"{PREFIX}model.layers.{layer}.{kind}.lora_magnitude_vector": (outputs,)
    for layer in range(4)
    for kind, (_, outputs) in QV.items()
}
BIASED = PLAIN | {name.replace(".weight", ".bias"): (shape[0],) for name, shape in PLAIN.items() if "lora_B" in name}
HEAD = {f"{PREFIX}lm_head.weight": (64, 32)}
TOKENS = {f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta": (2, 32)}
LAYER_2 = "layers.2."

# name -> (tensors, config, codes that must be among the rejections)
FAULTS: dict[str, tuple[Shapes, dict[str, Any], str]] = {
    "empty": ({}, {}, "L100"),
    "strange": ({"weights": (3, 3)}, {}, "L100"),
    "no prefix": (renamed(PREFIX, ""), {}, "L104"),
    "half a prefix": (renamed(f"{PREFIX}model.", "base_model."), {}, "L104"),
    "no inner model": (renamed(f"{PREFIX}model.", PREFIX), {}, "L143"),
    "doubled prefix": (renamed(PREFIX, PREFIX + PREFIX), {}, "L105"),
    "doubled model": (renamed(PREFIX, f"{PREFIX}model."), {}, "L105"),
    "ddp": (renamed(PREFIX, f"module.{PREFIX}"), {}, "L105"),
    "ddp inside": (renamed(PREFIX, f"{PREFIX}module."), {}, "L105"),
    "compile": (renamed(PREFIX, f"_orig_mod.{PREFIX}"), {}, "L105"),
    "compile inside": (renamed(PREFIX, f"{PREFIX}_orig_mod."), {}, "L105"),
    "fsdp inside": (renamed("self_attn.", "_fsdp_wrapped_module.self_attn."), {}, "L105"),
    "base layer": (renamed(".lora_", ".base_layer.lora_"), {}, "L105"),
    "text base": (
        renamed(f"{PREFIX}model.", f"{PREFIX}model.language_model."),
        {"base_model_name_or_path": "Qwen/Qwen2.5-0.5B"},
        "L106",
    ),
    "default": (renamed(".weight", ".default.weight"), {}, "L107"),
    "another name": (renamed(".weight", ".mine.weight"), {}, "L107"),
    "two adapters": (renamed(".weight", ".a.weight") | renamed(".weight", ".b.weight"), {}, "L108"),
    "two adapters, one named": (PLAIN | renamed(".weight", ".b.weight"), {}, "L108"),
    "twice": (PLAIN | renamed(PREFIX, ""), {}, "L141"),
    "no lora_A": (without("layers.1.self_attn.q_proj.lora_A"), {}, "L110"),
    "no lora_B": (without("layers.1.self_attn.q_proj.lora_B"), {}, "L110"),
    "unequal ranks": (PLAIN | {f"{PREFIX}model.layers.1.{Q}.lora_A.weight": (8, 32)}, {}, "L111"),
    "config of rank 8": (PLAIN, {"r": 8}, "L112"),
    "rank_pattern lost": (PLAIN | pairs({Q: (32, 32)}, range(4), rank=2), {}, "L112"),
    "rank_pattern for another": (PLAIN, {"rank_pattern": {"q_proj": 2}}, "L112"),
    "transposed": ({name: shape[::-1] for name, shape in PLAIN.items()}, {}, "L113"),
    "swapped": (
        {n.replace("_A", "_X").replace("_B", "_A").replace("_X", "_B"): s for n, s in PLAIN.items()},
        {},
        "L113",
    ),
    "flat": ({name: (shape[0] * shape[1],) for name, shape in PLAIN.items()}, {}, "L114"),
    "sharded away": ({name: (0, shape[1]) for name, shape in PLAIN.items()}, {}, "L114"),
    "two hidden sizes": (PLAIN | pairs({Q: (64, 64)}, [3]), {}, "L117"),
    "one odd input": (PLAIN | {f"{PREFIX}model.layers.2.{V}.lora_A.weight": (4, 48)}, {}, "L117"),
    "two inner sizes": (
        pairs({"mlp.up_proj": (32, 48), "mlp.down_proj": (40, 32)}, range(4)),
        {"target_modules": ["up_proj", "down_proj"]},
        "L117",
    ),
    "dora flag lost": (DORA, {}, "L119"),
    "magnitudes lost": (PLAIN, {"use_dora": True}, "L120"),
    "one magnitude lost": (
        {n: s for n, s in DORA.items() if not n.endswith(f"2.{Q}.lora_magnitude_vector")},
        {"use_dora": True},
        "L120",
    ),
    "short magnitudes": (
        DORA | {f"{PREFIX}model.layers.2.{Q}.lora_magnitude_vector": (31,)},
        {"use_dora": True},
        "L121",
    ),
    "lora_bias lost": (BIASED, {}, "L122"),
    "biases lost": (PLAIN, {"lora_bias": True}, "L122"),
    "targets lost": (PLAIN, {"target_modules": ["q_proj"]}, "L123"),
    "targets lost from an expression": (PLAIN, {"target_modules": r".*\.(q_proj|k_proj)"}, "L123"),
    "targets removed": (pairs(LLAMA, range(4)), {"target_modules": None}, "L123"),
    "excluded": (PLAIN, {"exclude_modules": ["v_proj"]}, "L123"),
    "excluded by expression": (PLAIN, {"exclude_modules": r".*\.v_proj"}, "L123"),
    "layers chosen": (PLAIN, {"layers_to_transform": [0, 1]}, "L123"),
    "inside a saved module": (PLAIN | HEAD, {"modules_to_save": ["self_attn"]}, "L123"),
    "tensors of a target lost": (without("v_proj"), {}, "L124"),
    "tensors of o_proj lost": (PLAIN, {"target_modules": ["q_proj", "v_proj", "o_proj"]}, "L124"),
    "tensors of a feed-forward lost": (
        pairs({kind: width for kind, width in LLAMA.items() if "up_" not in kind}, range(4)),
        {"target_modules": SEVEN},
        "L124",
    ),
    "a layer lost": (without(LAYER_2), {}, "L125"),
    "first layers lost": (pairs(QV, range(2, 6)), {}, "L125"),
    "a module of a layer lost": (without("layers.1.self_attn.v_proj"), {}, "L125"),
    "last layers of one target lost": (without("layers.3.self_attn.v_proj"), {}, "L125"),
    "a layer lost, by expression": (
        without(LAYER_2),
        {"target_modules": r"(?:.*?(?:self_attn).*?(?:q_proj|v_proj).*?)"},
        "L125",
    ),
    "a chosen layer lost": (pairs(QV, [0, 3]), {"layers_to_transform": [0, 1, 3]}, "L125"),
    "every second layer lost": (
        pairs(QV, range(0, 8, 2)),
        {"base_model_name_or_path": "meta-llama/Llama-3.1-8B"},
        "L125",
    ),
    "saved module lost": (PLAIN, {"modules_to_save": ["lm_head"]}, "L131"),
    "saved module named as in memory": (
        PLAIN | {f"{PREFIX}lm_head.modules_to_save.weight": (64, 32)},
        {"modules_to_save": ["lm_head"]},
        "L131",
    ),
    "modules_to_save lost": (PLAIN | HEAD, {}, "L132"),
    "a norm of the base": (PLAIN | {f"{PREFIX}model.norm.weight": (32,)}, {}, "L132"),
    "a weight of the base": (PLAIN | {f"{PREFIX}model.layers.0.self_attn.k_proj.weight": (16, 32)}, {}, "L132"),
    "tokens' indices lost": (PLAIN | TOKENS, {}, "L134"),
    "tokens lost": (PLAIN, {"trainable_token_indices": [1, 2]}, "L134"),
    "fewer tokens": (PLAIN | TOKENS, {"trainable_token_indices": [1]}, "L134"),
    "biases of the base": (PLAIN | {f"{PREFIX}model.layers.0.{Q}.bias": (32,)}, {}, "L135"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_rejected(name: str) -> None:
    shapes, values, code = FAULTS[name]
    found = check_structure(*specimen(shapes, values))
    assert code in codes(found, "reject"), codes(found)
    one = next(each for each in found if each.code == code)
    assert one.seen
    assert one.fix
    assert one.file
    assert json.dumps(one.facts) is not None
    assert len(codes(found)) == len(set(codes(found))), "one finding for each kind of problem"


def test_findings_count_instead_of_repeating() -> None:
    shapes = {name: shape for name, shape in pairs(QV, range(56)).items() if "q_proj.lora_B" not in name}
    found = check_structure(*specimen(shapes))
    assert codes(found) == ["L110"]
    assert "56 of 112 modules" in found[0].seen
    assert "56 times lora_B" in found[0].seen


METHODS: dict[str, tuple[Shapes, dict[str, Any], str, str]] = {
    "IA3": ({f"{PREFIX}model.layers.0.{Q}.ia3_l": (32, 1)}, {"peft_type": "IA3"}, "L101", "IA3"),
    "LoHa": ({f"{PREFIX}model.layers.0.{Q}.hada_w1_a": (32, 4)}, {"peft_type": "LOHA"}, "L101", "LoHa"),
    "LoKr": ({f"{PREFIX}model.layers.0.{Q}.lokr_w1": (4, 4)}, {"peft_type": "LOKR"}, "L101", "LoKr"),
    "VeRA": ({f"{PREFIX}model.layers.0.{Q}.vera_lambda_b": (32,)}, {"peft_type": "VERA"}, "L101", "VeRA"),
    "OFT": ({f"{PREFIX}model.layers.0.{Q}.oft_R.weight": (4, 4)}, {"peft_type": "OFT"}, "L101", "OFT"),
    "prompt tuning": ({"prompt_embeddings": (8, 32)}, {"peft_type": "PROMPT_TUNING"}, "L101", "prompt tuning"),
    "prefix tuning": ({"prompt_embeddings": (8, 256)}, {"peft_type": "PREFIX_TUNING"}, "L101", "prefix tuning"),
    "AdaLoRA": (PLAIN | {f"{PREFIX}model.layers.0.{Q}.lora_E": (4, 1)}, {"peft_type": "ADALORA"}, "L101", "AdaLoRA"),
    "unheard of": ({f"{PREFIX}x.y": (1,)}, {"peft_type": "NEWLORA"}, "L101", "NEWLORA"),
    "kohya": ({"lora_unet_down_0_proj.lora_down.weight": (4, 32)}, {}, "L102", "kohya"),
    "MLX": (
        {"model.layers.0.self_attn.q_proj.lora_a": (32, 4)},
        {"peft_type": None, "lora_parameters": {}},
        "L102",
        "mlx_lm",
    ),
    "AdapterHub": (
        {"model.layers.0.self_attn.q_proj.loras.mine.lora_A": (4, 32)},
        {"peft_type": None, "config": {"architecture": "lora"}, "model_class": "LlamaModel"},
        "L102",
        "adapters",
    ),
    "IA3 said to be LoRA": ({f"{PREFIX}model.layers.0.{Q}.ia3_l": (32, 1)}, {}, "L103", "IA3"),
    "LoRA said to be IA3": (PLAIN, {"peft_type": "IA3"}, "L103", "IA3"),
}


@pytest.mark.parametrize("name", METHODS)
def test_other_methods_are_refused_by_name(name: str) -> None:
    shapes, values, code, word = METHODS[name]
    found = check_structure(*specimen(shapes, values))
    assert codes(found, "reject") == [code]
    assert word in found[0].seen + found[0].fix


def test_every_method_of_the_shared_configs_is_named() -> None:
    folder = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "peft_configs"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not beside the repository")
    seen = 0
    for path in sorted(folder.rglob("*.json")):
        raw = json.loads(path.read_text("utf-8"))
        found = check_structure(*specimen({}, raw | {"peft_type": raw["peft_type"]}))
        wanted = "L100" if raw["peft_type"] == "LORA" else "L101"
        assert codes(found, "reject") == [wanted], path.name
        if wanted == "L101":
            assert "newer version" not in found[0].fix, raw["peft_type"]
        seen += 1
    assert seen == 165


HYBRIDS: dict[str, tuple[Shapes, dict[str, Any]]] = {
    "attention in every fourth layer": (
        pairs({Q: (32, 32)}, [3, 7, 11]) | pairs({"linear_attn.in_proj": (32, 96)}, [0, 1, 2, 4, 5, 6, 8, 9, 10]),
        {"target_modules": ["q_proj", "in_proj"]},
    ),
    "attention only, of a hybrid": (
        pairs({Q: (32, 32)}, [3, 7, 11, 15]),
        {"target_modules": ["q_proj"], "base_model_name_or_path": "Qwen/Qwen3-Next-80B-A3B-Instruct"},
    ),
    "a dense first layer": (
        pairs({"mlp.gate_proj": (32, 96)}, [0])
        | pairs({f"mlp.experts.{i}.gate_proj": (32, 24) for i in range(4)}, range(1, 5)),
        {"target_modules": ["gate_proj"]},
    ),
    "experts from the second layer on": (
        pairs({"mlp.experts.0.up_proj": (32, 24)}, range(1, 5)) | pairs({Q: (32, 32)}, range(5)),
        {"target_modules": ["up_proj", "q_proj"]},
    ),
    "wider layers further up": (
        pairs({Q: (32, 32)}, range(4)) | pairs({Q: (32, 64)}, range(4, 8)),
        {"target_modules": ["q_proj"]},
    ),
    "vision and text": (
        pairs({Q: (32, 32)}, range(4), container="model.language_model.layers")
        | pairs({"attn.qkv": (24, 72)}, range(6), container="model.visual.blocks"),
        {"target_modules": ["q_proj", "qkv"], "base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct"},
    ),
    "targets that phi-3 has under other names": (
        pairs({"self_attn.o_proj": (32, 32), "mlp.down_proj": (48, 32)}, range(4)),
        {"target_modules": SEVEN, "base_model_name_or_path": "microsoft/Phi-3-mini-4k-instruct"},
    ),
    "seven targets on experts": (
        pairs({kind: width for kind, width in LLAMA.items() if "attn" in kind}, range(4)),
        {"target_modules": SEVEN, "base_model_name_or_path": "mistralai/Mixtral-8x7B-v0.1"},
    ),
    "convolutions": (
        {f"{PREFIX}conv_in.lora_A.weight": (4, 3, 3, 3), f"{PREFIX}conv_in.lora_B.weight": (32, 4, 1, 1)},
        {"target_modules": ["conv_in"], "task_type": None},
    ),
    "a model without a head": (
        pairs(QV, range(4), container="layers"),
        {"task_type": "FEATURE_EXTRACTION"},
    ),
    "mixed element types": (PLAIN, {}),
    "rank larger than a width": (pairs(QV, range(2), rank=64), {"r": 64}),
    "square and of full rank": (pairs({Q: (4, 4)}, range(2)), {"target_modules": ["q_proj"]}),
    "square, of the other's rank": (pairs({Q: (8, 8)}, range(2), rank=8), {"r": 8, "target_modules": ["q_proj"]}),
}


@pytest.mark.parametrize("name", HYBRIDS)
def test_unusual_architectures_give_no_alarm(name: str) -> None:
    shapes, values = HYBRIDS[name]
    found = check_structure(*specimen(shapes, values))
    assert not codes(found, "reject", "warn"), [each.seen for each in found]


WARNED: dict[str, tuple[Shapes, dict[str, Any], str]] = {
    "inside an unknown model": (renamed(f"{PREFIX}model.", f"{PREFIX}model.language_model."), {}, "L106"),
    "a stray tensor": (PLAIN | {"notes": (3,)}, {}, "L109"),
    "one layer of another shape": (PLAIN | {f"{PREFIX}model.layers.1.{V}.lora_B.weight": (48, 4)}, {}, "L118"),
    "a whole block lost, perhaps": (PLAIN, {"target_modules": ["q_proj", "v_proj", "gate_proj"]}, "L124"),
    "layers beyond the last": (PLAIN, {"layers_to_transform": [0, 1, 2, 3, 4, 5]}, "L127"),
    "a misspelt key": (PLAIN, {"alpha_pattern": {"vproj": 32}}, "L129"),
    "pissa": (PLAIN, {"init_lora_weights": "pissa_niter_4"}, "L137"),
    "fan_in_fan_out": (PLAIN, {"fan_in_fan_out": True}, "L139"),
}


@pytest.mark.parametrize("name", WARNED)
def test_contradictions_are_warned_of(name: str) -> None:
    shapes, values, code = WARNED[name]
    found = check_structure(*specimen(shapes, values))
    assert codes(found, "warn") == [code]
    assert not codes(found, "reject")


NOTED: dict[str, tuple[Shapes, dict[str, Any], str]] = {
    "no targets": (PLAIN, {"target_modules": None}, "L140"),
    "an expression": (PLAIN, {"target_modules": r"model\..*(?=q|v)._proj"}, "L128"),
    "an expression as key": (PLAIN, {"rank_pattern": {r"layers\.[0-9]+\.mlp.*": 4}}, "L130"),
    "large scaling": (PLAIN, {"lora_alpha": 400}, "L138"),
    "a foreign target": (PLAIN, {"target_modules": ["q_proj", "v_proj", "c_attn"]}, "L124"),
    "alpha_pattern lost": (
        PLAIN | pairs({Q: (32, 32)}, range(4), rank=2),
        {"rank_pattern": {"q_proj": 2}},
        "L142",
    ),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_is_worth_knowing_is_noted(name: str) -> None:
    shapes, values, code = NOTED[name]
    assert codes(check_structure(*specimen(shapes, values))) == [code]


@pytest.mark.parametrize("dtype", ["I8", "U8", "I32", "BOOL"])
def test_whole_numbers_are_rejected(dtype: str) -> None:
    found = check_structure(*specimen(PLAIN, dtypes=dict.fromkeys(PLAIN, dtype)))
    assert codes(found) == ["L115"]


def test_element_types_may_differ() -> None:
    found = check_structure(*specimen(PLAIN, dtypes={name: "BF16" for name in PLAIN if "lora_A" in name}))
    assert codes(found) == ["L116"]


def test_an_expression_that_never_ends_is_not_executed() -> None:
    values = {"target_modules": "(a+)+$", "rank_pattern": {"(a+)+b": 4}, "exclude_modules": "(x+x+)+y"}
    path = f"{PREFIX}model.layers.0.{'a' * 60}!"
    shapes = {f"{path}.lora_A.weight": (4, 32), f"{path}.lora_B.weight": (32, 4)}
    assert codes(check_structure(*specimen(shapes, values))) == ["L123", "L130"]


def test_names_with_odd_characters_are_shown_plainly() -> None:
    shapes = {f"{PREFIX}model.\u202elayers.0.{Q}.lora_A.weight": (4, 32)}
    found = check_structure(*specimen(shapes))
    assert found
    assert all(each.seen.isascii() and each.seen.isprintable() for each in found)


def test_without_a_config_the_tensors_still_speak() -> None:
    made, layout = specimen(without("layers.1.self_attn.q_proj.lora_B"))
    bare = msgspec.structs.replace(made, config=None, raw_config=None)
    assert codes(check_structure(bare, layout)) == ["L110"]


def test_all_titles_end_without_a_full_stop_and_name_known_causes() -> None:
    for code, each in codes_between("L100", "L149").items():
        assert 100 <= int(code[1:]) < 150
        assert not each.title.endswith("."), code
        assert set(each.causes) <= set(causes()), code


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, lorica.vetting.structure.check_structure; print(' '.join(sys.modules))"
    source = Path(__file__).resolve().parents[2] / "src"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=source)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "hydra", "scipy", "peft"}
