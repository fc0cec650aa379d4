"""The shipped table against an oracle it was not built from: the size that a model's name states."""

from __future__ import annotations

import re

import pytest

from lorica.adapters.bases import BaseShape, all_bases
from lorica.adapters.module_roles import scheme_of

# Three matrices in the feed-forward layer (gate, up, down), where others have two.
GATED = {"split", "phi3", "glm4", "baichuan", "internlm2", "qwen", "exaone", "olmo", "chatglm", "experts", "mixtral"}
# Publishers round: these are larger than they are called, by the published counts.
CALLED_LESS = {"Falcon3-1B": 1.67, "granite-3": 2.53, "gemma-2b": 2.51, "gemma-1.1-2b": 2.51, "codegemma-2b": 2.51,
               "gemma-2-2b": 2.61, "shieldgemma-2b": 2.61, "OLMo-2-0425-1B": 1.48, "falcon-rw-1b": 1.31,
               "codegen-2B": 2.78, "MiniCPM-2B": 2.72, "MiniCPM-1B": 1.36, "bloom-1b7": 1.72, "bloomz-1b7": 1.72,
               "bloom-1b1": 1.07, "bloomz-1b1": 1.07, "bloom-7b1": 7.07, "bloomz-7b1": 7.07,
               "Qwen2-VL-2B": 1.54}  # fmt: skip


def parameters(base: BaseShape) -> float:
    """Billions, without norms, biases and position embeddings."""
    query, kv, hidden = base.width("query"), base.width("kv"), base.hidden
    matrices = 3 if scheme_of(base.family) in GATED else 2
    if base.experts:
        wide = matrices * hidden * (base.experts * base.width("expert_ffn") + dict(base.more).get("shared_ffn", 0))
    else:
        wide = matrices * hidden * base.ffn
    layer = hidden * (query + 2 * kv) + base.width("context") * hidden + wide
    return (base.layers * layer + base.vocabulary * hidden * (1 if base.tied else 2)) / 1e9


def stated(base: BaseShape) -> float | None:
    """The billions that a name states."""
    name = base.name.rsplit("/", 1)[-1]
    for beginning, real in CALLED_LESS.items():
        if name.lower().startswith(beginning.lower()) and (beginning != "granite-3" or "2b" in name):
            return real
    if base.experts and not re.search(r"-A\d", name):
        return None  # the number of a mixture's name means many things
    hit = re.search(r"(?<![\d.xA])(\d+(?:[._]\d+)?)([bm])(?![a-z])", name, re.I)
    return None if hit is None else float(hit[1].replace("_", ".")) / (1 if hit[2] in "bB" else 1000)


OTHERS = {"opt", "gptj", "gpt_neo", "neox", "falcon", "phi", "starcoder2", "mpt"}


@pytest.mark.parametrize("scheme", sorted(GATED | OTHERS))
def test_shapes_add_up_to_the_size_in_the_name(scheme: str) -> None:
    for base in all_bases():
        wanted = stated(base)
        if scheme_of(base.family) != scheme or wanted is None or base.hybrid or not (base.ffn or base.experts):
            continue
        assert parameters(base) == pytest.approx(wanted, rel=0.25), base.name


def test_most_rows_were_held_against_their_names() -> None:
    assert sum(stated(base) is not None for base in all_bases()) > 500
