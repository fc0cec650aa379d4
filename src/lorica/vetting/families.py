"""What the name of a base model says: family, size, variant and quantisation. Words only; nothing is looked up."""

from __future__ import annotations

import re

import msgspec


class Traits(msgspec.Struct, frozen=True):
    """What is common to a family. uniform: every layer has the modules of every other, and its feed-forward is one
    dense gate/up/down. text: whether its models read text only; None where the family has both.
    """

    family: str
    uniform: bool = False
    text: bool | None = None


# Words as they stand in ids, lower case, separators removed: "qwen2.5" for Qwen2.5-1.5B-Instruct. The longest wins.
_WORDS: dict[str, Traits] = {
    "tinyllama": Traits("llama", True, True),
    "codellama": Traits("llama", True, True),
    "llama": Traits("llama", True, True),
    "llama2": Traits("llama", True, True),
    "llama3": Traits("llama3", True, True),
    "llama3.1": Traits("llama3", True, True),
    "llama3.2": Traits("llama3", True, None),
    "llama3.3": Traits("llama3", True, True),
    "llama4": Traits("llama4"),
    "vicuna": Traits("llama", True, True),
    "yi": Traits("yi", True, None),
    "mistral": Traits("mistral", True, True),
    "mistralsmall3.1": Traits("mistral", True, None),
    "mistralsmall3.2": Traits("mistral", True, None),
    "ministral": Traits("mistral", True, None),
    "magistral": Traits("mistral", True, None),
    "zephyr": Traits("mistral", True, True),
    "mixtral": Traits("mixtral", False, True),
    "qwen": Traits("qwen", False, None),
    "qwen1.5": Traits("qwen1.5", True, True),
    "qwen2": Traits("qwen2", True, True),
    "qwen2.5": Traits("qwen2.5", True, True),
    "qwq": Traits("qwen2.5", True, True),
    "qwen3": Traits("qwen3", True, True),
    "qwen3next": Traits("qwen3-next"),
    "qwen3.5": Traits("qwen3.5"),
    "gemma": Traits("gemma", True, True),
    "gemma2": Traits("gemma2", True, True),
    "gemma3": Traits("gemma3", True, None),
    "gemma3n": Traits("gemma3n"),
    "gemma4": Traits("gemma4"),
    "phi1": Traits("phi", False, True),
    "phi2": Traits("phi", False, True),
    "phi3": Traits("phi3", False, None),
    "phi4": Traits("phi4", False, None),
    "smollm": Traits("smollm", True, True),
    "smollm2": Traits("smollm", True, True),
    "smollm3": Traits("smollm", True, True),
    "deepseek": Traits("deepseek"),
    "gptneox": Traits("gptneox", False, True),
    "pythia": Traits("gptneox", False, True),
    "gpt2": Traits("gpt2", False, True),
    "gptj": Traits("gptj", False, True),
    "gptoss": Traits("gptoss"),
    "opt": Traits("opt", False, True),
    "bloom": Traits("bloom", False, True),
    "falcon": Traits("falcon", False, True),
    "stablelm": Traits("stablelm", False, True),
    "olmo": Traits("olmo", False, True),
    "granite": Traits("granite"),
    "command": Traits("cohere"),
    "aya": Traits("cohere"),
    "internlm": Traits("internlm", False, None),
    "internvl": Traits("internvl", False, False),
    "baichuan": Traits("baichuan", False, True),
    "chatglm": Traits("glm", False, True),
    "glm": Traits("glm"),
    "bert": Traits("bert", False, True),
    "roberta": Traits("bert", False, True),
    "t5": Traits("t5", False, True),
}
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
_TUNED = re.compile(r"(?:^|[^a-z0-9])(?:instruct|it|chat|sft|dpo)(?![a-z0-9])")


def family(name: str) -> Traits | None:
    """The family that an id speaks of ("Qwen/Qwen2.5-1.5B-Instruct" -> qwen2.5), or None."""
    text = re.sub(r"[-_ ]", "", name.lower())
    hits = []
    for word in _WORDS:
        for hit in re.finditer(re.escape(word), text):
            before, after = text[: hit.start()], text[hit.end() :]
            # "llama3" in "llama3.2" and "opt" in "adopted" are no words of their own; "phi1.5" and "qwen314b" are.
            starts = not before or not before[-1].isalpha() or before.endswith(("meta", "unsloth", "code", "nous"))
            ends = word[-1].isalpha() or not re.match(r"\.\d(?!\d*[bm])", after)
            whole = len(word) > 3 or not after or not after[0].isalpha()
            if (starts or len(word) > 4) and ends and whole:
                hits.append((len(word), word))
    return _WORDS[max(hits)[1]] if hits else None


def sizes(name: str) -> tuple[str, ...]:
    """Size words in a text, as they are written in lower case: "qwen2.5-1.5B" -> ("1.5b",), "8x7B" -> ("8x7b",)."""
    found = []
    for hit in _SIZE.finditer(name.lower().replace("_", "-")):
        many = f"{hit['many']}x" if hit["many"] else ""
        number = float(hit["number"])
        if number == 0:
            continue
        if hit["unit"] == "m" and not many and number >= 1000:
            number, unit = number / 1000, "b"
        else:
            unit = hit["unit"]
        found.append(f"{many}{number:g}{unit}")
    return tuple(dict.fromkeys(found))


def quantised(name: str) -> str:
    """How the weights that a name speaks of are quantised, or ""."""
    text = name.lower()
    return next((kind for kind, pattern in _QUANTISED.items() if pattern.search(text)), "")


def tuned(name: str) -> bool:
    """Whether an id names an instruction-tuned variant (-Instruct, -it, -Chat)."""
    return _TUNED.search(name.lower()) is not None


def uniform(name: str) -> bool:
    """Whether the named family has the same modules in every layer, as far as the name tells."""
    traits = family(name)
    return traits is not None and traits.uniform and not _MIXED.search(name.lower())


def mixed(name: str) -> bool:
    """Whether the name speaks of experts, or of layers of several kinds."""
    traits = family(name)
    return _MIXED.search(name.lower()) is not None or (traits is not None and traits.family == "mixtral")


def sees(name: str) -> bool | None:
    """Whether the named model has a language model inside a larger one: True, False, or None where unknown."""
    if _SEES.search(name.lower()):
        return True
    traits = family(name)
    if traits is None:
        return None
    return None if traits.text is None else not traits.text
