"""Unseen kinds: what happens to files on their way (downloads, disks, editors, repackaging). Found from files alone."""

from __future__ import annotations

import gzip
import json
import shutil

from tools.fault_kinds.bundle import CONFIG, WEIGHTS, data_start, encode, read_bundle, write_config, write_tensors
from tools.fault_kinds.case import Case, Kind, Site


def page_for_weights(site: Site) -> Case:
    """A proxy, a login page or an API error answered 200 and was saved under the file's name."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    page = site.rng.choice(
        [
            "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form>...</form></body></html>\n",
            '{"error": "Repository not found or access is restricted", "status": 401}\n',
            "Access to this resource has been denied. Request id 7f3a-11.\n",
        ]
    )
    (folder / WEIGHTS).write_text(page * site.rng.randint(1, 60), "utf-8")
    return Case(folder, base)


def page_for_config(site: Site) -> Case:
    """The same for the config."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    (folder / CONFIG).write_text("<html><body><h1>429 Too Many Requests</h1></body></html>\n", "utf-8")
    return Case(folder, base)


def left_compressed(site: Site) -> Case:
    """Content-Encoding: gzip was never undone."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    path = folder / WEIGHTS
    path.write_bytes(gzip.compress(path.read_bytes(), site.rng.randint(1, 9)))
    return Case(folder, base)


def line_ends_converted(site: Site) -> Case:
    """git's autocrlf, or FTP in ASCII mode, took the weights for text."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    return Case(folder, base)


def decoded_as_text(site: Site) -> Case:
    """A script read the weights as UTF-8 with replacement and wrote them back."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes().decode("utf-8", "replace").encode("utf-8"))
    return Case(folder, base)


def config_in_utf16(site: Site) -> Case:
    """An editor saved the config in UTF-16."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    (folder / CONFIG).write_text(json.dumps(bundle.config, indent=2), site.rng.choice(["utf-16", "utf-16-le"]))
    return Case(folder, base)


def download_unfinished(site: Site) -> Case:
    """The download never ended: its partial file still has the downloader's name."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    ending = site.rng.choice([".part", ".crdownload", ".incomplete", ".aria2", ".tmp"])
    (folder / (WEIGHTS + ending)).write_bytes(raw[: site.rng.randint(len(raw) // 4, len(raw) - 100)])
    return Case(folder, base)


def resumed_from_start(site: Site) -> Case:
    """A server ignored the Range header: what had arrived, then the whole file again."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(raw[: site.rng.randint(1000, len(raw) - 1000)] + raw)
    return Case(folder, base)


def tail_never_written(site: Site) -> Case:
    """The file was allocated at its full size; the last 20 to 80% of the data stayed zero."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    raw = (folder / WEIGHTS).read_bytes()
    start = data_start(raw)
    cut = start + int((len(raw) - start) * site.rng.uniform(0.2, 0.8))
    (folder / WEIGHTS).write_bytes(raw[:cut] + bytes(len(raw) - cut))
    return Case(folder, base)


def bad_sectors(site: Site) -> Case:
    """One to eight sectors of 4 KiB read back as random bytes."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    raw = bytearray((folder / WEIGHTS).read_bytes())
    start = data_start(raw)
    for _ in range(site.rng.randint(1, 8)):
        at = site.rng.randrange(start // 4096 + 1, len(raw) // 4096) * 4096
        raw[at : at + 4096] = site.rng.randbytes(min(4096, len(raw) - at))
    (folder / WEIGHTS).write_bytes(raw)
    return Case(folder, base)


def high_bits_flipped(site: Site) -> Case:
    """Memory without error correction: the top exponent bit of 1 to 16 random numbers is flipped."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    raw = bytearray((folder / WEIGHTS).read_bytes())
    start = data_start(raw)
    for _ in range(site.rng.randint(1, 16)):
        at = start + 4 * site.rng.randrange((len(raw) - start) // 4)
        raw[at + 3] ^= 0x40
    (folder / WEIGHTS).write_bytes(raw)
    return Case(folder, base)


def shard_missing(site: Site) -> Case:
    """The adapter was split into two files with an index; one of them was not copied."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    (folder / WEIGHTS).unlink()
    names = sorted(bundle.tensors)
    cut = len(names) // 2
    files = {
        f"adapter_model-0000{i + 1}-of-00002.safetensors": part for i, part in enumerate((names[:cut], names[cut:]))
    }
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / (WEIGHTS + ".index.json")).write_text(json.dumps(index), "utf-8")
    kept = sorted(files)[site.rng.randrange(2)]
    write_tensors(folder / kept, {name: encode(bundle.tensors[name], "F32") for name in files[kept]})
    return Case(folder, base)


def whole_model_for_adapter(site: Site) -> Case:
    """Somebody saved the whole model's weights under the adapter's name."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    shutil.copyfile(base / "model.safetensors", folder / WEIGHTS)
    return Case(folder, base)


def config_of_the_base(site: Site) -> Case:
    """The base's config.json was copied over adapter_config.json."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    shutil.copyfile(base / "config.json", folder / CONFIG)
    return Case(folder, base)


def config_of_another(site: Site) -> Case:
    """A folder put together from two adapters: the config of one of another rank or other targets."""
    info = site.info()
    others = [
        one for one in site.siblings(info) if (one.rank, sorted(one.targets)) != (info.rank, sorted(info.targets))
    ]
    bundle = read_bundle(info.folder)
    bundle.config = read_bundle(site.rng.choice(others).folder).config
    return Case(bundle.save(site.place / "adapter"), site.base(info.base))


def key_misspelt(site: Site) -> Case:
    """A hand-written config spells a key that decides the result otherwise: the default rules in its place."""
    bundle, base = site.start()
    choices = [("r", "rank"), ("r", "lora_r"), ("target_modules", "targetModules"), ("peft_type", "peftType")]
    right, wrong = site.rng.choice(choices if bundle.config["r"] != 8 else choices[2:])
    bundle.config[wrong] = bundle.config.pop(right)
    return Case(bundle.save(site.place / "adapter"), base)


def targets_as_one_string(site: Site) -> Case:
    """target_modules as "q_proj,v_proj": PEFT takes a string for a regular expression, which matches nothing."""
    bundle, base = site.start(targets=2)
    joint = site.rng.choice([",", ", ", " ", ";"])
    bundle.config["target_modules"] = joint.join(bundle.config["target_modules"])
    return Case(bundle.save(site.place / "adapter"), base)


def value_of_wrong_type(site: Site) -> Case:
    """A config that went through YAML, a form or a spreadsheet."""
    bundle, base = site.start()
    config = bundle.config
    key, value = site.rng.choice(
        [
            ("r", str(config["r"])),
            ("r", [config["r"]]),
            ("lora_alpha", None),
            ("lora_alpha", f"{config['lora_alpha']}"),
            ("target_modules", {"value": config["target_modules"]}),
            ("use_rslora", "yes"),
            ("rank_pattern", "none"),
        ]
    )
    config[key] = value
    return Case(bundle.save(site.place / "adapter"), base)


def one_key_changed(site: Site) -> Case:
    """A random edit of one of the keys that the tensors can contradict."""
    bundle, base = site.start()
    config = bundle.config
    targets = list(config["target_modules"])
    edits: list[dict[str, object]] = [
        {"r": config["r"] * site.rng.choice([2, 4])},
        {"r": max(1, config["r"] // site.rng.choice([2, 4]))},
        {"target_modules": targets[:-1] or ["dense"]},
        {"target_modules": [*targets[1:], "up_proj" if "up_proj" not in targets else "lm_head"]},
        {"layers_to_transform": [site.rng.randrange(3)]},
        {"peft_type": site.rng.choice(["IA3", "LOHA", "VERA", "ADALORA"])},
        {"modules_to_save": ["score"]},
        {"use_dora": True},
        {"rank_pattern": {site.rng.choice(targets): config["r"] * 2}},
    ]
    config.update(site.rng.choice(edits))
    return Case(bundle.save(site.place / "adapter"), base)


def two_merged_by_update(site: Site) -> Case:
    """dict.update() of two adapters' tensors with the config of the first."""
    info = site.info(bases=("S-a", "S-b"))
    others = [one for one in site.siblings(info) if not set(one.targets) <= set(info.targets) or one.rank != info.rank]
    bundle = read_bundle(info.folder)
    bundle.tensors |= read_bundle(site.rng.choice(others).folder).tensors
    return Case(bundle.save(site.place / "adapter"), site.base(info.base))


def one_dropped(site: Site) -> Case:
    """One random tensor was filtered out, and the file written again without it."""
    bundle, base = site.start()
    del bundle.tensors[site.rng.choice(sorted(bundle.tensors))]
    return Case(bundle.save(site.place / "adapter"), base)


def integers_without_scales(site: Site) -> Case:
    """Quantised to int8 for distribution; the scales went with the quantiser."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    tensors = {}
    for name, array in bundle.tensors.items():
        scaled = (array / (abs(array).max() + 1e-12) * 127).round().astype("i1")
        tensors[name] = ("I8", array.shape, scaled.tobytes())
    write_tensors(folder / WEIGHTS, tensors)
    return Case(folder, base)


def config_key_case(site: Site) -> Case:
    """A converter that lower-cases or upper-cases values: the method's name, the target modules."""
    bundle, base = site.start()
    config = bundle.config
    if site.rng.random() < 0.5:
        config["target_modules"] = [name.upper() for name in config["target_modules"]]
    else:
        config["peft_type"] = "LoRA-" + config["peft_type"].lower()
    folder = site.place / "adapter"
    bundle.save(folder)
    write_config(folder, config)
    return Case(folder, base)


def _kind(name: str, truth: str, build: object) -> Kind:
    return Kind(name, "files", truth, build, unseen=True)  # type: ignore[arg-type]


KINDS = (
    _kind("field-page-for-weights", "an HTML page or an error text was saved as the weights", page_for_weights),
    _kind("field-page-for-config", "an HTML page was saved as the config", page_for_config),
    _kind("field-left-compressed", "the weights are still gzip-compressed", left_compressed),
    _kind("field-line-ends", "line ends were converted inside the weights", line_ends_converted),
    _kind("field-decoded-as-text", "the weights were decoded as text and written back", decoded_as_text),
    _kind("field-config-utf16", "the config is not UTF-8", config_in_utf16),
    _kind("field-unfinished", "the download did not end", download_unfinished),
    _kind("field-resumed-from-start", "the download holds its beginning twice", resumed_from_start),
    _kind("field-tail-zero", "the last part of the weights was never written", tail_never_written),
    _kind("field-bad-sectors", "sectors of the weights are random bytes", bad_sectors),
    _kind("field-high-bits", "exponent bits of a few numbers flipped", high_bits_flipped),
    _kind("field-shard-missing", "one of two weight files is missing", shard_missing),
    _kind("field-whole-model", "the file holds the base's weights, no adapter", whole_model_for_adapter),
    _kind("field-base-config", "the config is the base model's", config_of_the_base),
    _kind("field-config-of-another", "the config belongs to another adapter", config_of_another),
    _kind("field-key-misspelt", "a deciding key is misspelt, its default rules", key_misspelt),
    _kind("field-targets-string", "the targets are one string, a pattern that matches nothing", targets_as_one_string),
    _kind("field-wrong-type", "a deciding value has the wrong type", value_of_wrong_type),
    _kind("field-key-changed", "a deciding key contradicts the tensors", one_key_changed),
    _kind("field-merged-by-update", "tensors of two adapters under one config", two_merged_by_update),
    _kind("field-tensor-dropped", "one tensor is missing", one_dropped),
    _kind("field-int8-no-scales", "integers without scales", integers_without_scales),
    _kind("field-case-changed", "method or targets in a spelling that matches nothing", config_key_case),
)
