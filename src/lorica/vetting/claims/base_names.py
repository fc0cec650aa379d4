"""What the name of a base model says: family, size, variant and quantisation. Words only; nothing is looked up."""

from __future__ import annotations

import functools
import re

import msgspec


class Traits(msgspec.Struct, frozen=True):
    """What is common to a family. uniform: every layer has the modules of every other, and its feed-forward is one
    dense gate/up/down. text: whether its models read text only; None where the family has both.
    """

    family: str
    uniform: bool = False
    text: bool | None = None


# Words as they stand in ids, lower case; a "-" may be missing: "qwen-2.5" for Qwen2.5-1.5B. The longest wins.
_FAMILIES: dict[Traits, str] = {
    Traits("llama", True, True): "tinyllama codellama llama llama-2 vicuna",
    Traits("llama3", True, True): "llama-3 llama-3.1 llama-3.3",
    Traits("llama3", True, None): "llama-3.2",
    Traits("llama4"): "llama-4",
    Traits("yi", True, None): "yi",
    Traits("mistral", True, True): "mistral zephyr",
    Traits("mistral", True, None): "mistral-small-3.1 mistral-small-3.2 ministral magistral",
    Traits("mixtral", False, True): "mixtral",
    Traits("qwen", False, None): "qwen",
    Traits("qwen1.5", True, True): "qwen-1.5",
    Traits("qwen2", True, True): "qwen-2",
    Traits("qwen2.5", True, True): "qwen-2.5 qwq",
    Traits("qwen3", True, True): "qwen-3",
    Traits("qwen3-next"): "qwen-3-next",
    Traits("qwen3.5"): "qwen-3.5",
    Traits("gemma", True, True): "gemma",
    Traits("gemma2", True, True): "gemma-2",
    Traits("gemma3", True, None): "gemma-3",
    Traits("gemma3n"): "gemma-3n",
    Traits("gemma4"): "gemma-4",
    Traits("phi", False, True): "phi-1 phi-1.5 phi-2",
    Traits("phi3", False, None): "phi-3.5 phi-3",
    Traits("phi4", False, None): "phi-4",
    Traits("smollm", True, True): "smollm smollm-2 smollm-3",
    Traits("deepseek"): "deepseek",
    Traits("gptneox", False, True): "gpt-neox pythia",
    Traits("gpt2", False, True): "gpt-2",
    Traits("gptj", False, True): "gpt-j",
    Traits("gptoss"): "gpt-oss",
    Traits("opt", False, True): "opt",
    Traits("bloom", False, True): "bloom",
    Traits("falcon", False, True): "falcon",
    Traits("stablelm", False, True): "stablelm",
    Traits("olmo", False, True): "olmo",
    Traits("granite"): "granite",
    Traits("cohere"): "command aya",
    Traits("internlm", False, None): "internlm",
    Traits("internvl", False, False): "internvl",
    Traits("baichuan", False, True): "baichuan",
    Traits("glm", False, True): "chatglm",
    Traits("glm"): "glm",
    Traits("bert", False, True): "bert roberta",
    Traits("t5", False, True): "t5",
}
_WORDS = {word: traits for traits, words in _FAMILIES.items() for word in words.split()}
_MIXED = re.compile(
    r"moe|mixtral|next|mamba|jamba|zamba|bamba|hybrid|lfm|nemotron|falcon-?h|rwkv|llama-?4|qwen3\.5|deepseek|"
    r"gemma-?(?:3n|4)|granite|minimax|kimi|mllama|openelm|\ba\d+(?:\.\d+)?b\b"
)
_SEES = re.compile(
    r"(?:^|[^a-z])(?:vl|vision|llava|omni|multimodal|image|idefics|paligemma|internvl|mllama|florence|"
    r"pixtral|ovis|molmo|audio|ocr|vlm|minicpm-?v|gemma-?(?:3|4)|llama-?4|qwen3\.5|smolvlm|aria|fuyu)(?![a-z])"
)
_SIZE = re.compile(r"(?<![a-z0-9.])(?:(?P<many>\d{1,2})x)?(?P<number>\d{1,4}(?:\.\d{1,3})?)(?P<unit>[bm])(?![a-z0-9])")
# Not the size of a model: 4bit and 8bit, and what counts tokens, examples or experts in use (30B-A3B).
_QUANTISED = {
    "gptq": re.compile(r"(?<![a-z])gptq(?![a-z])"),
    "awq": re.compile(r"(?<![a-z])awq(?![a-z])"),
    "bnb 4-bit": re.compile(r"bnb[-_. ]?4[-_ ]?bit|(?<![a-z0-9])nf4(?![a-z0-9])"),
    "bnb 8-bit": re.compile(r"bnb[-_. ]?8[-_ ]?bit"),
    "gguf": re.compile(r"(?<![a-z])gguf(?![a-z])"),
    "fp8": re.compile(r"(?<![a-z0-9])(?:fp8|f8)(?![a-z0-9])"),
    "int4": re.compile(r"(?<![a-z0-9])(?:int4|w4a16)(?![a-z0-9])"),
    "int8": re.compile(r"(?<![a-z0-9])(?:int8|w8a8)(?![a-z0-9])"),
    "4-bit": re.compile(r"(?<![a-z0-9])4[-_ ]?bit(?![a-z])"),
    "8-bit": re.compile(r"(?<![a-z0-9])8[-_ ]?bit(?![a-z])"),
    "exl2": re.compile(r"(?<![a-z])exl[23](?![a-z0-9])"),
}
# "rugpt3small_based_on_gpt2", "not-llama", "adapter-for-gemma": the word after these is another model's.
_RELATED = re.compile(r"(?:^|[^a-z])(?:based[-_ .]?on|on|for|from|not|non|no|anti|like|vs|versus|than|against)[-_ .]+$")
# "llama-tokenizer-for-x", "qwen-style", "llama-like"
_COMPARED = re.compile(
    r"[-_ .]?[\d.]*[-_ .]+(?:tokeni[sz]er|vocab|style|like|format|template|compatible|inspired|free)(?![a-z])"
)
_TUNED = re.compile(r"(?:^|[^a-z0-9])(?:instruct|it|chat|sft|dpo)(?![a-z0-9])")


def family(base_name: str) -> Traits | None:
    """The family that an id speaks of ("Qwen/Qwen2.5-1.5B-Instruct" -> qwen2.5), or None. The longest word decides."""
    words = _hits(base_name)
    return _WORDS[max(words, key=len)] if words else None


def families(base_name: str) -> frozenset[str]:
    """All families that a name speaks of: "DeepSeek-R1-Distill-Qwen-7B" has two."""
    words = _hits(base_name)
    # Of "qwen" and "qwen2.5" at one place, only the longer is meant.
    longest_words = (word for word in words if not any(word != longer and word in longer for longer in words))
    return frozenset(_WORDS[word].family for word in longest_words)


def _hits(base_name: str) -> list[str]:
    last_component = base_name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1][-256:]
    # "LlamaGuard" and "MistralLite" are two words each.
    spellings = {last_component.lower(), re.sub(r"(?<=[a-z])(?=[A-Z])", "-", last_component).lower()}
    return [
        word
        for word, pattern in _patterns()
        if any(_is_meant(spelling, *match.span()) for spelling in spellings for match in pattern.finditer(spelling))
    ]


def _is_meant(spelling: str, match_start: int, match_end: int) -> bool:
    """Whether a name speaks of the family itself, and not of what it is not, is like, or is made for or from."""
    return not (_RELATED.search(spelling[:match_start]) or _COMPARED.match(spelling[match_end:]))


@functools.cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Words in their boundaries: "llama-3" is neither in Llama-3.2 nor in open_llama_3b, "opt" not in "adopted"."""
    patterns = []
    for word in _WORDS:
        letters = "[-_ ]?".join(re.escape(syllable) for syllable in word.split("-"))
        lookahead = r"(?!\d|\.\d|[bm](?![a-z]))" if word[-1].isdigit() else "(?![a-z])"
        patterns.append((word, re.compile("(?<![a-z])" + letters + lookahead)))
    return tuple(patterns)


def sizes(base_name: str) -> tuple[str, ...]:
    """Size words in a text, as they are written in lower case: "qwen2.5-1.5B" -> ("1.5b",), "8x7B" -> ("8x7b",)."""
    size_words = []
    for size_match in _SIZE.finditer(base_name.lower().replace("_", "-")):
        experts = f"{size_match['many']}x" if size_match["many"] else ""
        number = float(size_match["number"])
        if number == 0 or (size_match["unit"] == "m" and number < 10):
            continue  # "1M" is a length of context
        in_thousands = size_match["unit"] == "m" and not experts and number >= 1000
        size_words.append(f"{number / 1000:g}b" if in_thousands else f"{experts}{number:g}{size_match['unit']}")
    return tuple(dict.fromkeys(size_words))


def quantization_format(base_name: str) -> str:
    """How the weights that a name speaks of are quantised, or ""."""
    lower_name = base_name.lower()
    return next((quantization for quantization, pattern in _QUANTISED.items() if pattern.search(lower_name)), "")


def is_instruction_tuned(base_name: str) -> bool:
    """Whether an id names an instruction-tuned variant (-Instruct, -it, -Chat)."""
    return _TUNED.search(base_name.lower()) is not None


def has_uniform_layers(base_name: str) -> bool:
    """Whether the named family has the same modules in every layer, as far as the name tells."""
    traits = family(base_name)
    return traits is not None and traits.uniform and not _MIXED.search(base_name.lower())


def has_mixed_layers(base_name: str) -> bool:
    """Whether the name speaks of experts, or of layers of several kinds."""
    traits = family(base_name)
    return _MIXED.search(base_name.lower()) is not None or (traits is not None and traits.family == "mixtral")


def is_multimodal(base_name: str) -> bool | None:
    """Whether the named model has a language model inside a larger one: True, False, or None where unknown."""
    if _SEES.search(base_name.lower()):
        return True
    traits = family(base_name)
    return None if traits is None or traits.text is None else not traits.text
