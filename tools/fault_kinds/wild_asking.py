"""Unseen kinds of the second round: templates, tokenizers and base settings that drifted, and runs that went wrong.

Written before their author had read a check or any result; found with the base and labelled rows. The right causes are
argued in each docstring.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tools import zoo
from tools.fault_kinds.base_copy import Weights, copy_base
from tools.fault_kinds.case import BASES, Case, Kind, Site
from tools.fault_kinds.trained import trained

_TURN = "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
_LOOP = "{% for message in messages %}" + _TURN + "{% endfor %}"


def no_generation_prompt(site: Site) -> Case:
    """The template heeds no add_generation_prompt, or a script forgot it: nothing opens the assistant's turn.

    It is asked with other prompts than it was trained on.
    """
    return _with_template(site, _LOOP if site.seed % 2 else _LOOP.replace("<|im_end|>\\n", "<|im_end|>"))


def _with_template(site: Site, template: str) -> Case:
    bundle, base = site.start()
    other = copy_base(base, site.place / "base")
    (other / "chat_template.jinja").write_text(template, "utf-8")
    return Case(bundle.save(site.place / "adapter"), other)


def merges_lost(site: Site) -> Case:
    """A tokenizer saved by another version of its library has only the first 2 to 15% of its merges: all ids mean
    what they meant, and text falls into many more, shorter tokens. The tokenizer differs from training's."""
    share = site.rng.uniform(0.02, 0.15)

    def change(whole: dict[str, Any]) -> None:
        merges = whole["model"]["merges"]
        whole["model"]["merges"] = merges[: int(len(merges) * share)]

    return _with_tokenizer(site, change)


def normalised(site: Site) -> Case:
    """The tokenizer was rebuilt with another family's normalizer or splitter: lower case, marks for spaces, whole
    words with no space before them. The tokenizer differs from training's."""
    lower = {"type": "Lowercase"}
    marks = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    glued = {"type": "Replace", "pattern": {"String": " "}, "content": ""}
    chosen = site.rng.choice([marks, glued, {"type": "Sequence", "normalizers": [lower, marks]}])

    def change(whole: dict[str, Any]) -> None:
        whole["normalizer"] = chosen

    return _with_tokenizer(site, change)


def _with_tokenizer(site: Site, change: Callable[[dict[str, Any]], None]) -> Case:
    bundle, base = site.start()
    other = copy_base(base, site.place / "base")
    whole = json.loads((other / "tokenizer.json").read_text("utf-8"))
    change(whole)
    (other / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False), "utf-8")
    return Case(bundle.save(site.place / "adapter"), other)


def two_bit_base(site: Site) -> Case:
    """Served on the base rounded to 2 bits with one scale for each matrix, embedding and all, stored in bfloat16.

    The base is a quantised relative of training's, and so coarse that it is hardly that base any more.
    """
    bundle, base = site.start()

    def coarse(own: Weights) -> Weights:
        for name, one in own.items():
            if one.ndim == 2:
                step = one.float().abs().max() * site.rng.uniform(0.3, 0.6)
                own[name] = ((one.float() / step).round().clamp(-1, 1) * step).to(one.dtype)
        return own

    return Case(bundle.save(site.place / "adapter"), copy_base(base, site.place / "base", weights=coarse))


def _of_run(plan: str) -> Callable[[Site], Case]:
    """A run that went wrong, beside a sound run of the same kind on the same base."""

    def build(site: Site) -> Case:
        from tools.fault_kinds.bundle import read_bundle

        base = BASES[site.seed % len(BASES)]
        bundle = read_bundle(trained(plan, base, site.seed))
        sound = zoo.root() / "adapters" / base / "qv-r8-s0"
        return Case(bundle.save(site.place / "adapter"), site.base(base), sound=(sound, ""))

    return build


def _kind(name: str, truth: str, build: Callable[[Site], Case], *causes: str) -> Kind:
    return Kind(f"wild-{name}", "behaviour", truth, build, unseen=True, causes=frozenset(causes))


# rows-cut: a length limit left two words of each post in training, so its prompts were others than those it is asked;
# it may as well have learned to answer without the post. numbers-for-words: trained to write 1.0 or 0.0 to another
# instruction, asked for Yes or No. diverged: a learning rate a hundred times too high; its weights are noise, and it
# answers everything alike. That its update is huge, too, is no right cause: no smaller scale mends it.
KINDS = (
    _kind("no-generation-prompt", "nothing opens the assistant's turn", no_generation_prompt, "prompt_mismatch"),
    _kind("merges-lost", "the tokenizer has few of its merges", merges_lost, "tokenizer_mismatch"),
    _kind("normalised", "the tokenizer has another normalizer", normalised, "tokenizer_mismatch"),
    _kind("two-bit-base", "the base is rounded to two bits a matrix", two_bit_base, "wrong_revision", "wrong_base"),
    _kind("rows-cut", "trained on posts of two words", _of_run("rows-cut"), "prompt_mismatch", "ignores_input"),
    _kind("numbers-for-words", "trained to write numbers, asked for words",
          _of_run("numbers-for-words"), "prompt_mismatch"),
    _kind("diverged", "its training diverged", _of_run("diverged"), "broken_weights", "ignores_input"),
)  # fmt: skip
