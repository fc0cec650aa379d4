"""Seen kinds of parts 6 and 7: what only asking tells. Found with the base and labelled rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tools import zoo
from tools.fault_kinds.base_copy import copy_base
from tools.fault_kinds.bases import change_template, permute_tokens
from tools.fault_kinds.bundle import Bundle, read_bundle
from tools.fault_kinds.case import BASES, Case, Kind, Site
from tools.fault_kinds.trained import trained


def _scaled(choose: Callable[[Site], float]) -> Callable[[Site], Case]:
    def build(site: Site) -> Case:
        bundle, base = site.start()
        bundle.config["lora_alpha"] = bundle.config["lora_alpha"] * choose(site)
        return Case(bundle.save(site.place / "adapter"), base)

    return build


def rslora_toggled(site: Site) -> Case:
    """use_rslora is lost at rank 32, or added at 16 and 64: the scale changes four- to eight-fold."""
    places = [
        ("S-a", zoo.root() / "adapters" / "S-a" / "all-r32-rslora-s4"),
        ("S-b", zoo.root() / "adapters" / "S-b" / "all-r32-rslora-s4"),
        ("S-a-tuned", trained("r64-all", "S-a-tuned", 2)),
        ("S-b", trained("rslora-r32", "S-b", 7)),
        ("S-a", zoo.root() / "adapters" / "S-a" / "attention-r16-s1"),
    ]
    base, folder = places[site.seed % len(places)]
    bundle = read_bundle(folder)
    bundle.config["use_rslora"] = not bundle.config["use_rslora"]
    return Case(bundle.save(site.place / "adapter"), site.base(base), sound=(folder, ""))


def alpha_pattern_lost(site: Site) -> Case:
    """Trained with alpha 256 on v and 8 elsewhere; the pattern is gone, so v counts a 32nd."""
    bundle, base = _trained(site, "alpha-pattern")
    bundle.config["alpha_pattern"] = {}
    sound = trained("alpha-pattern", base.name, site.seed)
    return Case(bundle.save(site.place / "adapter"), base, sound=(sound, ""))


def _trained(site: Site, name: str) -> tuple[Bundle, Path]:
    base = BASES[site.seed % len(BASES)]
    return read_bundle(trained(name, base, site.seed)), site.base(base)


def _of_training(name: str) -> Callable[[Site], Case]:
    def build(site: Site) -> Case:
        bundle, base = _trained(site, name)
        return Case(bundle.save(site.place / "adapter"), base)

    return build


def _style(trained_in: str, asked_in: str) -> Callable[[Site], Case]:
    def build(site: Site) -> Case:
        bundle, base = _trained(site, trained_in)
        sound = trained(trained_in, base.name, site.seed)
        return Case(bundle.save(site.place / "adapter"), base, style=asked_in, sound=(sound, trained_in))

    return build


def other_template(site: Site) -> Case:
    """The base's folder holds another chat template than in training."""
    bundle, base = site.start()
    other = copy_base(base, site.place / "base")
    change_template(other)
    return Case(bundle.save(site.place / "adapter"), other)


def other_tokenizer(site: Site) -> Case:
    """The ordinary tokens have each other's ids."""
    bundle, base = site.start()
    other = copy_base(base, site.place / "base")
    permute_tokens(other, site)
    return Case(bundle.save(site.place / "adapter"), other)


def asked_otherwise(site: Site) -> Case:
    """Trained on plain prompts, asked with contrastive ones."""
    bundle, base = site.start()
    return Case(bundle.save(site.place / "adapter"), base, style="contrastive")


def layers_of_two(site: Site) -> Case:
    """One layer of an adapter of this base, the others from one of another base of equal shape."""
    bundle, base = site.start(bases=("S-a", "S-b"))
    assert site.used is not None
    beside = "S-b" if site.used.base == "S-a" else "S-a"
    wanted = (beside, site.used.rank, site.used.targets)
    other = next(one for one in zoo.adapters() if (one.base, one.rank, one.targets) == wanted)
    theirs = read_bundle(other.folder).tensors
    layers = site.rng.sample(range(4), 3)
    for name in bundle.tensors:
        found = re.search(r"\.layers\.(\d+)\.", name)
        if found and int(found[1]) in layers:
            bundle.tensors[name] = theirs[name]
    return Case(bundle.save(site.place / "adapter"), base)


def _answers(site: Site, scores: Callable[[Site, list[float]], list[str]], note: str) -> Case:
    """A healthy adapter, and a file of answers to the held-out rows that something else spoilt. The scores begin as
    noisy but useful ones."""
    bundle, base = site.start()
    rows = zoo.rows()[1]
    gold = [float(row.gold) if isinstance(row.gold, int) else 0.0 for row in rows]
    good = [float(np.clip(0.25 + 0.5 * one + site.numbers.normal(0, 0.2), 0.001, 0.999)) for one in gold]
    path = site.place / f"{note}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "rule_violation"])
        writer.writerows(zip([row.id for row in rows], scores(site, good), strict=True))
    return Case(bundle.save(site.place / "adapter"), base, answers=path)


def all_zero(site: Site) -> Case:
    """Every row has the score 0.0: the story of the competition."""
    return _answers(site, lambda site, good: ["0.0"] * len(good), "submission")


def fall_backs(site: Site) -> Case:
    """A parser's constants stand in for 25 to 60% of the scores."""

    def spoil(site: Site, good: list[float]) -> list[str]:
        share = site.rng.uniform(0.25, 0.6)
        constants = site.rng.choice([["0.5"], ["0.2", "0.5", "0.8"]])
        return [site.rng.choice(constants) if site.rng.random() < share else f"{one:.6f}" for one in good]

    return _answers(site, spoil, "submission")


def cut_off(site: Site) -> Case:
    """Generation stopped after too few tokens: most rows have no score, or a text that is none."""

    def spoil(site: Site, good: list[float]) -> list[str]:
        return [f"{one:.4f}" if site.rng.random() < 0.3 else "" for one in good]

    return _answers(site, spoil, "submission")


def rounded_to_labels(site: Site) -> Case:
    """Labels were written in place of probabilities."""
    return _answers(site, lambda site, good: [str(int(one > 0.5)) for one in good], "submission")


def backwards(site: Site) -> Case:
    """1 - score was written."""
    return _answers(site, lambda site, good: [f"{1 - one:.6f}" for one in good], "submission")


def _kind(name: str, truth: str, build: Callable[[Site], Case], *causes: str) -> Kind:
    return Kind(name, "behaviour", truth, build, causes=frozenset(causes))


# An adapter for another task is a prompt mismatch: nothing about this task was in its prompts. Labels shuffled in
# training are no kind here: the tiny bases' own knowledge still ranks, and nothing can tell.
KINDS = (
    _kind("alpha-up", "alpha 8 to 64 times too large",
          _scaled(lambda site: site.rng.choice([8, 16, 32, 64])), "over_scaled"),
    _kind("alpha-down", "alpha 8 to 64 times too small",
          _scaled(lambda site: 1 / site.rng.choice([8, 16, 32, 64])), "under_scaled"),
    _kind("rslora-toggled", "use_rslora lost or added at rank 16 to 64", rslora_toggled, "over_scaled", "under_scaled"),
    _kind("alpha-pattern-lost", "alpha_pattern is gone", alpha_pattern_lost, "under_scaled"),
    _kind("labels-inverted", "trained on inverted labels", _of_training("inverted"), "inverted"),
    _kind("one-label", "trained on one label", _of_training("one-label"), "ignores_input"),
    _kind("hard-labels", "trained until it puts out two values", _of_training("hard"), "hard_labels"),
    _kind("style-structured", "trained on structured prompts, asked contrastive ones",
          _style("structured", "contrastive"), "prompt_mismatch"),
    _kind("style-contrastive", "trained on contrastive prompts, asked plainly",
          _style("contrastive", ""), "prompt_mismatch"),
    _kind("style-asked", "trained on plain prompts, asked contrastive ones", asked_otherwise, "prompt_mismatch"),
    _kind("template-other", "another chat template than in training", other_template, "prompt_mismatch"),
    _kind("tokenizer-other", "the tokens have other ids", other_tokenizer, "tokenizer_mismatch"),
    _kind("task-other", "trained for another task", _of_training("mcq"), "prompt_mismatch"),
    _kind("layers-of-two", "three of four layers from an adapter of another base",
          layers_of_two, "wrong_base", "broken_weights"),
    _kind("scores-zero", "every row scored 0.0", all_zero, "ignores_input", "no_effect", "parser_fallbacks"),
    _kind("scores-fall-backs", "a parser's constants among the scores", fall_backs, "parser_fallbacks"),
    _kind("scores-cut-off", "generation was cut off, most rows unscored",
          cut_off, "generation_settings", "parser_fallbacks"),
    _kind("scores-labels", "labels in place of probabilities", rounded_to_labels, "hard_labels"),
    _kind("scores-backwards", "the scores are backwards", backwards, "inverted"),
)  # fmt: skip
