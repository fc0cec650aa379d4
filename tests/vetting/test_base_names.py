from __future__ import annotations

import pytest

from lorica.vetting.claims.base_names import (
    families,
    has_mixed_layers,
    has_uniform_layers,
    is_instruction_tuned,
    is_multimodal,
    quantization_format,
    sizes,
)
from lorica.vetting.claims.cards import card_bases


def test_cards_are_read_without_yaml() -> None:
    text = (
        "---\r\nlicense: mit\r\nbase_model:\r\n  - 'a/b'   # why\r\n- c/d\r\ndatasets: [x/y, \"z\"]\r\n"
        "tags:\n- base_model:adapter:e/f\n- lora\nmodel-index:\n- name: no\n---\n# Title\n"
        "- **Finetuned from model:** g/h\n"
        "R: 8 and learning rate: 5\n"
    )
    assert card_bases(text) == ("a/b", "c/d", "e/f")
    assert card_bases("---\nbase_model: x\n---") == card_bases("---\nbase_model: x\n---\n") == ("x",)
    assert card_bases("---\nbase_model: x\n") == ()
    assert card_bases(" " * 2**20 + ":" * 2**20) == ()


@pytest.mark.parametrize(
    ("name", "family", "size"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", "qwen2.5", "1.5b"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "llama3", "8b"),
        ("openlm-research/open_llama_3b", "llama", "3b"),
        ("google/gemma-2b", "gemma", "2b"),
        ("google/gemma-2-9b-it", "gemma2", "9b"),
        ("mistralai/Mixtral-8x7B-v0.1", "mixtral", "8x7b"),
        ("Qwen/Qwen3-30B-A3B", "qwen3", "30b"),
        ("Qwen/Qwen2.5-7B-Instruct-1M", "qwen2.5", "7b"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi3", None),
        ("EleutherAI/pythia-70m", "gptneox", "70m"),
    ],
)
def test_words_of_names(name: str, family: str, size: str | None) -> None:
    assert families(name) == {family}
    assert sizes(name) == (() if size is None else (size,))


def test_traits_of_names() -> None:
    assert quantization_format("TheBloke/Llama-2-7B-AWQ") == "awq"
    assert quantization_format("a/b-bnb-4bit") == "bnb 4-bit"
    assert not quantization_format("Qwen/Qwen2.5-7B")
    assert is_instruction_tuned("gemma-2-2b-it")
    assert not is_instruction_tuned("with-items")
    assert has_uniform_layers("Qwen/Qwen2.5-7B")
    assert not has_uniform_layers("Qwen/Qwen3-30B-A3B")
    assert has_mixed_layers("Qwen/Qwen3-Next-80B-A3B")
    assert is_multimodal("Qwen/Qwen2-VL-2B") is True
    assert is_multimodal("Qwen/Qwen2.5-7B") is False
    assert is_multimodal("someone/something") is None


@pytest.mark.parametrize(
    "name",
    [
        *("ai-forever/rugpt3small_based_on_gpt2", "me/not-llama", "me/llama-tokenizer-for-gpt", "me/adapter-for-gemma"),
        *("me/llama_tokenizer", "me/qwen-style-model", "me/Llama-like-1B", "me/distilled-from-mistral-7b"),
        *("me/llamaindex-embedder", "me/allamanda", "me/mistralian", "me/non-qwen2", "me/better-than-llama-3"),
    ],
)
def test_a_name_that_speaks_of_another_model_names_no_family(name: str) -> None:
    assert families(name) == frozenset()


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("openai-community/gpt2", "gpt2"),
        ("meta-llama/LlamaGuard-7b", "llama"),
        ("amazon/MistralLite", "mistral"),
        ("microsoft/phi-2", "phi"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama"),
        ("Qwen2VL-2B", "qwen2"),
        ("NousResearch/Nous-Hermes-2-Mistral-7B-DPO", "mistral"),
        ("codellama/CodeLlama-7b-hf", "llama"),
        ("me/Llama-2-7b-for-summaries", "llama"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm"),
    ],
)
def test_words_are_found_whole(name: str, family: str) -> None:
    assert families(name) == {family}
