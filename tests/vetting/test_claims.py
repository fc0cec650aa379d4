from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.vetting.peft_variants import VARIANTS, save_variant
from tests.vetting.specimens import Shapes, codes, codes_between, pairs, specimen, specimen_of

from lorica.adapters.fingerprint import match_bases, shapes_of
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.adapters.tensor_names import PREFIX
from lorica.vetting.claims.check_claims import check_claims
from lorica.vetting.findings import Finding, causes

PLAIN = pairs({"self_attn.q_proj": (32, 32), "self_attn.v_proj": (32, 16)}, range(4))
QWEN = "Qwen/Qwen2.5-1.5B-Instruct"


def qwen(hidden: int = 1536, kv: int = 256, layers: int = 28) -> Shapes:
    """Tensors for Qwen2.5-1.5B, unless other widths are given."""
    return pairs({"self_attn.q_proj": (hidden, hidden), "self_attn.v_proj": (hidden, kv)}, range(layers))


def claims(made: tuple[RawAdapter, TensorMap]) -> list[Finding]:
    found, layout = made
    return check_claims(found, layout, match_bases(shapes_of(layout, found.config)))


def base(name: str | None, **more: Any) -> dict[str, Any]:
    return {"base_model_name_or_path": name, **more}


HEALTHY: dict[str, tuple[Shapes, dict[str, Any], dict[str, Any]]] = {
    "nothing but a config": (PLAIN, {}, {}),
    "fits what it names": (qwen(), base(QWEN), {}),
    "a folder with the size": (qwen(), base(QWEN), {"name": "qwen2.5-1.5b-spam-r8"}),
    "a folder of another kind": (qwen(), base(QWEN), {"name": "fold-3-of-5"}),
    "words like sizes": (qwen(), base(QWEN), {"name": "spam-4bit-5e-4-r16-1m-tokens-10BT"}),
    "the card says the same": (
        qwen(),
        base(QWEN),
        {"card": "---\nbase_model: Qwen/Qwen2.5-1.5B-Instruct\n---\n# Qwen2.5 1.5B for rules\n"},
    ),
    "a quantised copy of the same": (
        qwen(),
        base("unsloth/Qwen2.5-1.5B-Instruct-bnb-4bit"),
        {"card": f"---\nbase_model:\n- {QWEN}\n---\n"},
    ),
    "a merge of several": (
        qwen(),
        base(QWEN),
        {"card": f"---\nbase_model:\n- {QWEN}\n- meta-llama/Llama-3.1-8B\n---\n"},
    ),
    "compared with others": (
        qwen(),
        base(QWEN),
        {"card": "# Rules\nBetter than Llama-3.1-70B, from Qwen2.5-1.5B.\n"},
    ),
    "words and sizes in the folder's name and the card's text": (
        qwen(),
        base(QWEN),
        {
            "name": "llama-3-70b-rules-r8",
            "card": "---\ndatasets:\n- me/gemma-2-9b-answers\n---\n# Llama 3 70B\n- **LoRA rank**: 16\n"
            "trainable params: 9,999 || all params: 4,024,470,528\n- **Finetuned from model:** google/gemma-2-9b\n",
        },
    ),
    "an unfilled card": (qwen(), base(QWEN), {"card": "---\nbase_model: ''\n---\n# Model Card for Model ID\n- r: 4\n"}),
    "a card with a table of settings": (
        PLAIN,
        {},
        {"card": "| r | 4 |\n| lora_alpha | 8 |\nLoraConfig(r=4, lora_alpha=8)"},
    ),
    "a short name": (
        qwen(4096, 1024, 32),
        base("unsloth/mistral-7b"),
        {"card": "---\nbase_model: mistralai/Mistral-7B-v0.1\n---"},
    ),
    "deepseek's qwen": (qwen(3584, 512), base("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"), {"name": "qwen-7b-reason"}),
    "grown vocabulary": (
        qwen() | {f"{PREFIX}lm_head.weight": (151940, 1536), f"{PREFIX}model.embed_tokens.weight": (151940, 1536)},
        base(QWEN, modules_to_save=["lm_head", "embed_tokens"]),
        {"documents": {"added_tokens.json": {"<yes>": 151936}}},
    ),
    "its own tokenizer": (
        qwen(),
        base(QWEN),
        {
            "documents": {
                "tokenizer_config.json": {
                    "tokenizer_class": "Qwen2TokenizerFast",
                    "bos_token": None,
                    "chat_template": "<|im_start|>",
                    "added_tokens_decoder": {"151645": {"content": "<|im_end|>"}},
                }
            }
        },
    ),
    "strange documents": (
        PLAIN,
        {},
        {
            "documents": {
                "training.json": [1],
                "trainer_state.json": {"log_history": [1, {"loss": "x"}]},
                "args.json": 3,
            }
        },
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_claims_that_agree_give_no_alarm(name: str) -> None:
    shapes, values, more = HEALTHY[name]
    found = claims(specimen(shapes, values, **more))
    assert not codes(found, "reject", "warn"), [each.seen for each in found]


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("mixtral",)][::4])
def test_what_peft_saves_gives_no_alarm(name: str, tmp_path: Path) -> None:
    found = claims(specimen_of(save_variant(name, tmp_path / "adapter")))
    assert not codes(found, "reject", "warn"), [each.seen for each in found]


def card(text: str) -> dict[str, Any]:
    return {"card": text}


def documents(**named: Any) -> dict[str, Any]:
    return {"documents": {f"{name}.json": value for name, value in named.items()}}


def manifest(**values: Any) -> dict[str, Any]:
    return documents(training={"manifest": {f"lora.{key}": json.dumps(value) for key, value in values.items()}})


RUGPT = "ai-forever/rugpt3small_based_on_gpt2"


@pytest.mark.parametrize("name", [RUGPT, "me/llama-tokenizer-for-gpt", "me/not-llama"])
def test_a_tokenizer_is_not_held_against_a_model_that_the_base_only_speaks_of(name: str) -> None:
    beside = documents(tokenizer_config={"bos_token": "<s>", "tokenizer_class": "GPT2Tokenizer"})
    found = check_claims(*specimen(PLAIN, base(name), **beside), None)
    assert not {"L166", "L150"} & set(codes(found))


@pytest.mark.parametrize("name", ["philschmid/gemma-tokenizer-chatml", "hf-internal-testing/llama-tokenizer"])
def test_a_tokenizer_of_its_own_repository_names_no_base(name: str) -> None:
    found = check_claims(*specimen(PLAIN, base(QWEN), **documents(tokenizer_config={"name_or_path": name})), None)
    assert "L150" not in codes(found)


CONFLICTS: dict[str, tuple[Shapes, dict[str, Any], dict[str, Any], str, str]] = {
    "card of another size": (PLAIN, base(QWEN), card("---\nbase_model: Qwen/Qwen2.5-7B\n---"), "L150", "7B"),
    "card of another family": (PLAIN, base(QWEN), card("---\nbase_model: [google/gemma-2-2b]\n---"), "L150", "gemma"),
    "card of another name": (PLAIN, base("a/one-base"), card('---\nbase_model: "b/two-base"\n---'), "L150", "two-base"),
    "record of another base": (
        PLAIN,
        base(QWEN),
        manifest(base_model_name_or_path="Qwen/Qwen3-4B"),
        "L150",
        "training.json",
    ),
    "passport of another base": (
        PLAIN,
        base(QWEN),
        documents(lorica={"base": {"name": "Qwen3-8B"}}),
        "L150",
        "lorica.json",
    ),
    "tuned and not": (PLAIN, base(QWEN), card("---\nbase_model: Qwen/Qwen2.5-1.5B\n---"), "L153", "Instruct"),
    "quantised elsewhere": (PLAIN, base(f"{QWEN}-GPTQ-Int4"), card(f"---\nbase_model: {QWEN}\n---"), "L154", "gptq"),
    "no base": (PLAIN, base(None), {}, "L156", "missing"),
    "empty base": (PLAIN, base(""), card(f"---\nbase_model: {QWEN}\n---"), "L156", "README.md"),
    "another alpha in the arguments": (PLAIN, {}, documents(args={"lora_alpha": 64, "lora_rank": 4}), "L161", "64"),
    "foreign tokenizer": (
        PLAIN,
        base("Qwen/Qwen3-4B"),
        documents(tokenizer_config={"tokenizer_class": "GemmaTokenizerFast"}),
        "L166",
        "Gemma",
    ),
    "foreign first token": (
        PLAIN,
        base("Qwen/Qwen3-4B"),
        documents(tokenizer_config={"bos_token": {"content": "<|begin_of_text|>"}}),
        "L166",
        "begin_of_text",
    ),
    "new tokens, untrained": (
        qwen(),
        base(QWEN),
        documents(added_tokens={"<yes>": 151936, "<no>": 151937}),
        "L167",
        "2 tokens",
    ),
    "NaN in training": (
        PLAIN,
        {},
        documents(trainer_state={"log_history": [{"step": 1, "loss": float("nan")}]}),
        "L170",
        "1 logged",
    ),
    "never fell": (
        PLAIN,
        {},
        documents(trainer_state={"log_history": [{"step": i, "loss": 2 + i % 2 / 9 + i / 99} for i in range(30)]}),
        "L171",
        "mean loss",
    ),
    "rose": (
        PLAIN,
        {},
        documents(trainer_state={"log_history": [{"step": i, "loss": 1 + (i > 15) * i} for i in range(30)]}),
        "L172",
        "mean loss",
    ),
    "no steps": (PLAIN, {}, documents(trainer_state={"global_step": 0, "log_history": []}), "L177", "0 steps"),
    "no better than the base": (
        PLAIN,
        {},
        documents(training={"result": {"base_loss": 1.0, "trained_loss": 1.2}}),
        "L179",
        "1.2",
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_claims_in_conflict_are_warned_of(name: str) -> None:
    shapes, values, more, code, word = CONFLICTS[name]
    made, layout = specimen(shapes, values, **more)
    # Without the fingerprint: these tiny tensors fit none of the bases that are named here.
    found = [each for each in check_claims(made, layout, None) if each.code not in ("L163", "L164")]
    assert codes(found, "warn") == [code], [(each.code, each.seen) for each in found]
    one = next(each for each in found if each.code == code)
    assert word in one.seen + one.expected
    assert json.dumps(one.facts) is not None


WRONG: dict[str, tuple[Shapes, dict[str, Any], str, str]] = {
    "another size": (qwen(2560, 1024, 36), base(QWEN), "L163", "hidden 2560, not 1536"),
    "the story: re-labelled": (qwen(2560, 1024, 36), base("Qwen/Qwen2.5-1.5B"), "L163", "fits"),
    "more layers": (qwen(layers=32), base(QWEN), "L163", "layers"),
    "the last layers lost": (qwen(layers=20), base(QWEN), "L164", "20 layers, not 28"),
    "names of GPT-2": (
        pairs(
            {"self_attn.q_proj": (1536, 1536), "self_attn.v_proj": (1536, 256)}, range(28), container="transformer.h"
        ),
        base(QWEN),
        "L165",
        "transformer.h.0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_base_that_does_not_fit_is_rejected(name: str) -> None:
    shapes, values, code, words = WRONG[name]
    found = claims(specimen(shapes, values))
    assert codes(found, "reject") == [code], [(each.code, each.seen) for each in found]
    assert words in next(each.seen for each in found if each.code == code)


def test_a_base_that_only_resembles_a_known_one_is_warned_of() -> None:
    found = claims(specimen(qwen(2560, 1024, 36), base("someone/Qwen2.5-1.5B-medical-v3")))
    assert codes(found, "warn", "reject") == ["L163"]
    assert found[0].severity == "warn"


def test_chosen_layers_are_not_lost_layers() -> None:
    found = claims(specimen(qwen(layers=20), base(QWEN, layers_to_transform=list(range(20)))))
    assert not codes(found, "warn", "reject")


@pytest.mark.parametrize(
    ("was", "now", "ratio"),
    [
        ({"lora_alpha": 8}, {"lora_alpha": 64}, 8.0),
        ({"use_rslora": False}, {"use_rslora": True}, 2.0),
        ({"alpha_pattern": {"v_proj": 32}}, {}, 1.0),
        ({"target_modules": ["v_proj", "q_proj", "k_proj"]}, {}, 1.0),
    ],
)
def test_a_config_changed_after_training_is_rejected(was: dict[str, Any], now: dict[str, Any], ratio: float) -> None:
    found = claims(specimen(PLAIN, now, **manifest(**{"r": 4, "lora_alpha": 8, "use_rslora": False} | was)))
    assert codes(found) == ["L160"]
    assert found[0].severity == "reject"
    assert found[0].facts["keys"] == sorted(was)
    assert found[0].facts["scale_ratio"] == pytest.approx(ratio)


def test_a_config_as_in_its_record_is_not() -> None:
    same = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["v_proj", "q_proj"],
        "rank_pattern": {},
        "modules_to_save": None,
    }
    assert not claims(specimen(PLAIN, {}, **manifest(**same, lora_dropout=0.5)))


NOTES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "quantised": (base("TheBloke/Llama-2-7B-GPTQ"), {}, "L154"),
    "revision": ({"revision": "3f2a"}, {}, "L155"),
    "a path": (base("/home/me/models/base"), {}, "L157"),
    "another task": ({"task_type": "SEQ_CLS"}, {}, "L158"),
    "newer PEFT": ({"peft_version": "0.22.0"}, {}, "L159"),
    "another template": (
        base("me/llama-3.2-mine"),
        documents(tokenizer_config={"chat_template": "<|im_start|>"}),
        "L168",
    ),
    "overfitted": (
        {},
        documents(trainer_state={"log_history": [{"step": i, "eval_loss": [2, 1, 1.5][i]} for i in range(3)]}),
        "L173",
    ),
    "not ended": ({}, documents(trainer_state={"global_step": 3, "max_steps": 9}), "L175"),
    "nothing held out": ({}, documents(training={"rows": {"held_out": 0, "training": 9}}), "L176"),
}


@pytest.mark.parametrize("name", NOTES)
def test_what_is_worth_knowing_is_noted(name: str) -> None:
    values, more, code = NOTES[name]
    made, layout = specimen(PLAIN, values, **more)
    found = check_claims(made, layout, None)
    assert (codes(found, "note"), codes(found, "warn", "reject")) == ([code], []) or code in codes(found, "note")


def test_all_codes_name_known_causes() -> None:
    for code, each in codes_between("L150", "L199").items():
        assert 150 <= int(code[1:]) < 200
        assert set(each.causes) <= set(causes()), code


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, lorica.vetting.claims.check_claims; print(' '.join(sys.modules))"
    source = Path(__file__).resolve().parents[2] / "src"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=source)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "hydra", "scipy", "peft", "yaml"}
