"""Seen kinds of part 5: the base is not the adapter's. Found with the base."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tools import zoo
from tools.fault_kinds.base_copy import Weights, copy_base
from tools.fault_kinds.case import Case, Kind, Level, Site
from tools.fault_kinds.records import add_records

Config = dict[str, Any]
_UNRELATED = {"S-a": "S-b", "S-b": "S-a", "S-a-tuned": "S-b"}


def other_seed(site: Site) -> Case:
    """The base has equal shapes and was trained from another seed."""
    bundle, base = site.start()
    return Case(bundle.save(site.place / "adapter"), site.base(_UNRELATED[base.name]))


def other_family(site: Site) -> Case:
    """The same, and its config says another family of the same shapes and names."""
    bundle, base = site.start()
    bundle.config["base_model_name_or_path"] = "tiny-llama"

    def rename(values: Config) -> None:
        values.update({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None})

    other = copy_base(site.base(_UNRELATED[base.name]), site.place / "tiny-mistral", config=rename)
    return Case(bundle.save(site.place / "adapter"), other)


def fewer_layers(site: Site) -> Case:
    """The base is the adapter's first two or three layers."""
    bundle, base = site.start()
    kept = site.rng.choice([2, 3])
    return Case(bundle.save(site.place / "adapter"), _depth(site, base, kept))


def more_layers(site: Site) -> Case:
    """The base is another model of equal widths with one to three layers more."""
    bundle, base = site.start()
    other = site.base(_UNRELATED[base.name])
    return Case(bundle.save(site.place / "adapter"), _depth(site, other, site.rng.choice([5, 6, 7])))


def _depth(site: Site, base: Path, layers: int) -> Path:
    def change(own: Weights) -> Weights:
        made = {name: tensor for name, tensor in own.items() if _layer(name) is None or _layer(name) < layers}  # type: ignore[operator]
        for name, tensor in own.items():
            if _layer(name) is not None:
                for new in range(4, layers):
                    if new % 4 == _layer(name):
                        made[re.sub(r"\.layers\.\d+\.", f".layers.{new}.", name)] = tensor.clone()
        return made

    def say(values: Config) -> None:
        values["num_hidden_layers"] = layers

    return copy_base(base, site.place / "base", weights=change, config=say)


def _layer(name: str) -> int | None:
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def narrower(site: Site) -> Case:
    """The base is half as wide: the story of an adapter for 2560 used on 1536."""
    return _width(site, 64)


def wider(site: Site) -> Case:
    """The base is wider."""
    return _width(site, site.rng.choice([192, 256]))


def _width(site: Site, width: int) -> Case:
    bundle, base = site.start()
    generator = torch.Generator().manual_seed(site.seed)

    def change(own: Weights) -> Weights:
        sizes = {128: width, 384: width * 3, 64: width // 2}
        made = {}
        for name, tensor in own.items():
            shape = [sizes.get(size, size) for size in tensor.shape]
            fresh = torch.randn(shape, generator=generator) * 0.02 if len(shape) == 2 else torch.ones(shape)
            made[name] = fresh.to(tensor.dtype)
        return made

    def say(values: Config) -> None:
        values.update({"hidden_size": width, "intermediate_size": width * 3, "head_dim": width // 4})

    return Case(bundle.save(site.place / "adapter"), copy_base(base, site.place / "base", weights=change, config=say))


def with_passport(to: str) -> Callable[[Site], Case]:
    """An adapter with the passport of S-a, used on a relative of it."""

    def build(site: Site) -> Case:
        bundle, _ = site.start(bases=("S-a",))
        folder = bundle.save(site.place / "adapter")
        assert site.used is not None
        _records(site.used, folder)
        return Case(folder, site.base(to))

    return build


def other_base_named(site: Site) -> Case:
    """The base is a later revision than the passport's: its weights moved a little."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    assert site.used is not None
    _records(site.used, folder)
    generator = torch.Generator().manual_seed(site.seed)

    def move(own: Weights) -> Weights:
        for name, tensor in own.items():
            if tensor.ndim == 2:
                noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std() * 0.05
                own[name] = (tensor.float() + noise).to(tensor.dtype)
        return own

    return Case(folder, copy_base(base, site.place / "base", weights=move))


def tokenizer_of_another(site: Site) -> Case:
    """With a passport: the base's folder holds another tokenizer than in training."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    assert site.used is not None
    _records(site.used, folder)
    other = copy_base(base, site.place / "base")
    permute_tokens(other, site)
    return Case(folder, other)


def template_of_another(site: Site) -> Case:
    """With a passport: the base's folder holds another chat template than in training."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    assert site.used is not None
    _records(site.used, folder)
    other = copy_base(base, site.place / "base")
    change_template(other)
    return Case(folder, other)


def passport_of_other_weights(site: Site) -> Case:
    """The passport is the adapter's, some weights were changed since."""
    bundle, base = site.start()
    assert site.used is not None
    name = site.rng.choice(bundle.names("lora_B"))
    bundle.tensors[name] = bundle.tensors[name] * 1.5
    folder = bundle.save(site.place / "adapter")
    _records(site.used, folder)
    return Case(folder, base)


def passport_of_other_config(site: Site) -> Case:
    """The passport is the adapter's, the scaling was edited since."""
    bundle, base = site.start()
    assert site.used is not None
    bundle.config["lora_alpha"] = bundle.config["lora_alpha"] * site.rng.choice([2, 4, 0.5])
    folder = bundle.save(site.place / "adapter")
    _records(site.used, folder)
    return Case(folder, base)


def _records(info: zoo.AdapterInfo, folder: Path) -> None:
    add_records(info, folder)
    if not (folder / "lorica.json").is_file():
        raise LookupError(f"no passport was made for {info.name}")


def permute_tokens(base: Path, site: Site) -> None:
    """Give the ordinary tokens each other's ids at random, as another training of the tokenizer would."""
    path = base / "tokenizer.json"
    whole = json.loads(path.read_text("utf-8"))
    special = {one["content"] for one in whole.get("added_tokens", [])}
    vocabulary = whole["model"]["vocab"]
    names = [name for name in sorted(vocabulary) if name not in special]
    ids = [vocabulary[name] for name in names]
    site.rng.shuffle(ids)
    vocabulary.update(zip(names, ids, strict=True))
    path.write_text(json.dumps(whole, ensure_ascii=False), "utf-8")


TEMPLATE = (
    "{% for message in messages %}{{ '[' + message['role'] | upper + '] ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[ASSISTANT] ' }}{% endif %}"
)


def change_template(base: Path) -> None:
    """Another chat template in a base's copy."""
    (base / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    path = base / "tokenizer_config.json"
    values = json.loads(path.read_text("utf-8"))
    values.pop("chat_template", None)
    path.write_text(json.dumps(values), "utf-8")


def copied(base: Path, to: Path) -> Path:
    """An unchanged copy of a base."""
    shutil.copytree(base, to)
    return to


def _kind(name: str, truth: str, build: Callable[[Site], Case], *causes: str, level: Level = "base") -> Kind:
    about = name.startswith("passport")
    return Kind(name, level, truth, build, causes=frozenset(causes), passport=about)


# Which way an edited scaling errs is as right a name as that it was edited.
KINDS = (
    _kind("base-other-seed", "equal shapes, unrelated weights", other_seed, "wrong_base"),
    _kind("base-other-family", "equal shapes, another family", other_family, "wrong_base"),
    _kind("base-fewer-layers", "the base has fewer layers", fewer_layers, "wrong_size"),
    _kind("base-more-layers", "the base has more layers", more_layers, "wrong_size"),
    _kind("base-narrower", "the base is narrower", narrower, "wrong_size"),
    _kind("base-wider", "the base is wider", wider, "wrong_size"),
    _kind("passport-descendant", "passport of the ancestor, base fine-tuned",
          with_passport("S-a-tuned"), "wrong_revision"),
    _kind("passport-quantised", "passport of the base, used on its int4 copy",
          with_passport("S-a-int4"), "wrong_revision"),
    _kind("passport-other-base", "passport of the base, used on an unrelated one", with_passport("S-b"), "wrong_base"),
    _kind("passport-revision", "passport of the base, used on a revision of it", other_base_named, "wrong_revision"),
    _kind("passport-tokenizer", "another tokenizer than the passport's", tokenizer_of_another, "tokenizer_mismatch"),
    _kind("passport-template", "another template than the passport's", template_of_another, "prompt_mismatch"),
    _kind("passport-weights", "weights changed since the passport",
          passport_of_other_weights, "altered", "broken_weights", level="files"),
    _kind("passport-config", "config changed since the passport", passport_of_other_config,
          "altered", "over_scaled", "under_scaled", level="files"),
)  # fmt: skip
