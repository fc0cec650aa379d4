"""Healthy variants: nothing is wrong with any of them, and none may be rejected."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tools import zoo
from tools.fault_kinds.bundle import CONFIG, WEIGHTS, Bundle, encode, write_tensors
from tools.fault_kinds.case import BASES, Case, Kind, Site
from tools.fault_kinds.records import add_records
from tools.fault_kinds.trained import HEALTHY, trained


def _edit(change: Callable[[Site, Bundle], None] | None, dtype: str = "F32") -> Callable[[Site], Case]:
    def build(site: Site) -> Case:
        bundle, base = site.start()
        if change is not None:
            change(site, bundle)
        return Case(bundle.save(site.place / "adapter", dtype), base)

    return build


def _trained(name: str, number: int) -> Callable[[Site], Case]:
    def build(site: Site) -> Case:
        base = BASES[number % len(BASES)]
        folder = site.place / "adapter"
        shutil.copytree(trained(name, base, number), folder)
        return Case(folder, site.base(base))

    return build


def _zoo(name: str, base: str) -> Callable[[Site], Case]:
    """As it was left by its training: log, record, last checkpoint."""

    def build(site: Site) -> Case:
        place = zoo.root() / "adapters" / base / name
        shutil.copytree(place, site.place / "adapter", ignore=shutil.ignore_patterns("zoo.json"))
        return Case(site.place / "adapter", site.base(base))

    return build


def _alpha_for_b(factor: float) -> Callable[[Site, Bundle], None]:
    """alpha times a factor, B divided by it: the same update."""

    def change(site: Site, bundle: Bundle) -> None:
        bundle.config["lora_alpha"] = bundle.config["lora_alpha"] * factor
        for name in bundle.names("lora_B"):
            bundle.tensors[name] = bundle.tensors[name] / np.float32(factor)

    return change


def _a_for_b(site: Site, bundle: Bundle) -> None:
    """A times 4, B divided by it."""
    for name, array in bundle.tensors.items():
        bundle.tensors[name] = array * np.float32(4 if ".lora_A." in name else 0.25)


def _padded(site: Site, bundle: Bundle) -> None:
    """Rank doubled with zeros, as servers with one rank for all do; alpha doubled, too."""
    rank = bundle.config["r"]
    bundle.config.update({"r": rank * 2, "lora_alpha": bundle.config["lora_alpha"] * 2, "rank_pattern": {}})
    for name, array in bundle.tensors.items():
        axis = 0 if ".lora_A." in name else 1
        bundle.tensors[name] = np.concatenate([array, np.zeros_like(array)], axis)


def _rslora_alpha(site: Site, bundle: Bundle) -> None:
    """use_rslora switched, alpha made up for it."""
    root = bundle.config["r"] ** 0.5
    bundle.config["lora_alpha"] *= root if bundle.config["use_rslora"] else 1 / root
    bundle.config["use_rslora"] = not bundle.config["use_rslora"]


def _truncated_rank(site: Site, bundle: Bundle) -> None:
    """Each update replaced by its best approximation of half the rank, as LoRA compressors do."""
    rank = bundle.config["r"] // 2
    alpha = bundle.config["lora_alpha"]
    bundle.config.update({"r": rank, "lora_alpha": alpha * (rank / bundle.config["r"])})
    if bundle.config["use_rslora"]:
        bundle.config["lora_alpha"] = alpha * 0.5**0.5
    for name in bundle.names("lora_A"):
        other = name.replace("lora_A", "lora_B")
        left, sizes, right = np.linalg.svd(bundle.tensors[other] @ bundle.tensors[name], full_matrices=False)
        bundle.tensors[other] = (left[:, :rank] * np.sqrt(sizes[:rank])).astype(np.float32)
        bundle.tensors[name] = (np.sqrt(sizes[:rank])[:, None] * right[:rank]).astype(np.float32)


def _per_module(site: Site, bundle: Bundle) -> None:
    """The same rank and alpha written out as patterns, under wrong defaults that no module uses."""
    targets = bundle.config["target_modules"]
    bundle.config["rank_pattern"] = dict.fromkeys(targets, bundle.config["r"])
    bundle.config["alpha_pattern"] = dict.fromkeys(targets, bundle.config["lora_alpha"])
    bundle.config["r"], bundle.config["lora_alpha"] = 4, 8


def _old_config(site: Site, bundle: Bundle) -> None:
    """As PEFT of 2023 wrote it: fewer keys."""
    kept = ("base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights", "lora_alpha",
            "lora_dropout", "modules_to_save", "peft_type", "r", "target_modules", "task_type")  # fmt: skip
    extra = {"use_rslora": True} if bundle.config["use_rslora"] else {}
    bundle.config = {"fan_in_fan_out": False} | {k: v for k, v in bundle.config.items() if k in kept} | extra


def _negated_twice(site: Site, bundle: Bundle) -> None:
    """A and B both negated: the same update."""
    bundle.tensors = {name: -array for name, array in bundle.tensors.items()}


def _hub_path(site: Site, bundle: Bundle) -> None:
    bundle.config["base_model_name_or_path"] = "/home/somebody/models/tiny"


def _descendant(site: Site) -> Case:
    bundle, _ = site.start(bases=("S-a",))
    return Case(bundle.save(site.place / "adapter"), site.base("S-a-tuned"))


def _ancestor(site: Site) -> Case:
    bundle, _ = site.start(bases=("S-a-tuned",))
    return Case(bundle.save(site.place / "adapter"), site.base("S-a"))


def _quantised(site: Site) -> Case:
    bundle, _ = site.start(bases=("S-a",))
    return Case(bundle.save(site.place / "adapter"), site.base("S-a-int4"))


def _with_records(site: Site) -> Case:
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    assert site.used is not None
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(site.used.folder / name, folder / name)
    add_records(site.used, folder)
    return Case(folder, base)


def _with_card(site: Site) -> Case:
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    card = f"---\nbase_model: {bundle.config['base_model_name_or_path']}\nlibrary_name: peft\ntags: [lora]\n---\n"
    (folder / "README.md").write_text(card + "# An adapter that finds advertising\n", "utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base / name, folder / name)
    return Case(folder, base)


def _trainer_state(site: Site) -> Case:
    """A checkpoint of transformers' Trainer inside its run."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "run" / "checkpoint-60")
    history = [{"epoch": i / 20, "loss": 2.0 * 0.95**i + 0.2, "step": i, "learning_rate": 1e-4} for i in range(1, 61)]
    state = {"global_step": 60, "max_steps": 60, "epoch": 3.0, "best_metric": None, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state), "utf-8")
    (folder / "optimizer.pt").write_bytes(b"\x80\x02}q\x00.")
    return Case(folder, base)


def _in_archive(kind: str) -> Callable[[Site], Case]:
    def build(site: Site) -> Case:
        bundle, base = site.start()
        folder = bundle.save(site.place / "adapter")
        packed = site.place / f"adapter.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted(folder.iterdir()):
                    archive.write(path, f"adapter/{path.name}")
        else:
            with tarfile.open(packed, "w:gz") as pack:
                pack.add(folder, "adapter")
        return Case(packed, base)

    return build


def _cache_entry(site: Site) -> Case:
    """As huggingface_hub lays it out: links into blobs."""
    bundle, base = site.start()
    made = bundle.save(site.place / "made")
    entry = site.place / "models--somebody--rules"
    commit = entry / "snapshots" / ("a1" * 20)
    commit.mkdir(parents=True)
    (entry / "blobs").mkdir()
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("a1" * 20, "utf-8")
    for number, path in enumerate(sorted(made.iterdir())):
        blob = entry / "blobs" / f"{number:064x}"
        shutil.copyfile(path, blob)
        (commit / path.name).symlink_to(Path("../../blobs") / blob.name)
    return Case(entry, base)


def _read_only(site: Site) -> Case:
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return Case(folder, base)


def _mixed_dtypes(site: Site) -> Case:
    """A in float32, B in bfloat16."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    kinds = {name: "F32" if ".lora_A." in name else "BF16" for name in bundle.tensors}
    write_tensors(folder / WEIGHTS, {name: encode(array, kinds[name]) for name, array in bundle.tensors.items()})
    return Case(folder, base)


def _other_order(site: Site) -> Case:
    """Tensors in random order, metadata of a tool, a config indented otherwise."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    names = site.rng.sample(sorted(bundle.tensors), len(bundle.tensors))
    tensors = {name: encode(bundle.tensors[name], "F32") for name in names}
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt", "made_by": "a converter"})
    (folder / CONFIG).write_text(json.dumps(bundle.config), "utf-8")
    return Case(folder, base)


def _kind(name: str, truth: str, build: Callable[[Site], Case]) -> Kind:
    causes = frozenset({"healthy", "hard_task"})
    return Kind("ok-" + name, "behaviour", truth, build, causes=causes, healthy=True)


KINDS = (
    *(_kind(plan.name, "trained so by PEFT", _trained(plan.name, number))
      for number, plan in enumerate(HEALTHY) if plan.task == "rules"),
    *(_kind(f"zoo-{base}-{name}", "trained so by Lorica", _zoo(name, base)) for name, base in (
        ("qv-r8-s0", "S-a"), ("attention-r16-s1", "S-b"), ("all-r8-s2", "S-a"), ("mlp-r4-s3", "S-b"),
        ("all-r32-rslora-s4", "S-a"), ("qv-r8-s0", "S-a-tuned"))),
    _kind("bf16", "bfloat16", _edit(None, "BF16")),
    _kind("f16", "float16", _edit(None, "F16")),
    _kind("f64", "float64", _edit(None, "F64")),
    _kind("mixed-dtypes", "two dtypes", _mixed_dtypes),
    _kind("alpha-1000-for-b", "alpha x 1000, B / 1000", _edit(_alpha_for_b(1000))),
    _kind("alpha-thousandth-for-b", "alpha / 1000, B x 1000", _edit(_alpha_for_b(0.001))),
    _kind("alpha-half-fraction", "a fractional alpha", _edit(_alpha_for_b(0.3))),
    _kind("a-for-b", "A x 4, B / 4", _edit(_a_for_b)),
    _kind("both-negated", "A and B negated", _edit(_negated_twice)),
    _kind("rank-padded", "rank doubled with zeros", _edit(_padded)),
    _kind("rslora-made-up", "use_rslora switched, alpha made up for it", _edit(_rslora_alpha)),
    _kind("rank-halved", "compressed to half the rank", _edit(_truncated_rank)),
    _kind("patterns-for-all", "rank and alpha given as patterns", _edit(_per_module)),
    _kind("old-config", "config of an old PEFT", _edit(_old_config)),
    _kind("path-as-base", "the base named by a path", _edit(_hub_path)),
    _kind("other-order", "tensors in another order", _other_order),
    _kind("on-descendant", "an ancestor's adapter on the fine-tuned base", _descendant),
    _kind("on-ancestor", "a fine-tuned base's adapter on its ancestor", _ancestor),
    _kind("on-int4", "on the quantised copy of its base", _quantised),
    _kind("with-passport", "with passport and record", _with_records),
    _kind("with-card", "with card, tokenizer and template", _with_card),
    _kind("checkpoint", "a checkpoint inside a run", _trainer_state),
    _kind("zip", "a zip", _in_archive("zip")),
    _kind("tar", "a tar.gz", _in_archive("tar.gz")),
    _kind("cache-entry", "an entry of the Hugging Face cache", _cache_entry),
    _kind("read-only", "a folder that cannot be written", _read_only),
)  # fmt: skip
