"""Does an adapter cover what its config targets: targets, layers, and shapes alike from layer to layer?"""

from __future__ import annotations

import itertools
from collections.abc import Collection

import msgspec

from lorica.adapters.config import CONFIG_NAME, AdapterConfig
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.layout import Layout, module_path, split_layer
from lorica.vetting.codes import Severity
from lorica.vetting.families import family, mixed, uniform
from lorica.vetting.findings import Finding, finding
from lorica.vetting.targets import (
    by_default,
    means_module,
    names_any,
    read_expression,
    targeted,
    tells_layers,
)
from lorica.vetting.wording import listed, numbers, shown, some

_INPUTS = ("q_proj", "k_proj", "v_proj")
_LLAMA_MLP = ("gate_proj", "up_proj", "down_proj")
# Modules that stand in other families where Llama's have o_proj.
_OTHER_OUTPUTS = ("dense", "out_proj", "fc1", "fc2")


class Rows(msgspec.Struct, frozen=True):
    """Repeated layers of one container ("model.layers"). templates: path with "*" for the layer -> its layers."""

    container: str
    last: int
    templates: dict[str, frozenset[int]]


def rows_of(layout: Layout) -> list[Rows]:
    """The adapted layers, by container."""
    found: dict[str, dict[str, set[int]]] = {}
    for path, each in layout.modules.items():
        if each.layer is not None:
            container, template = split_layer(path)
            found.setdefault(container, {}).setdefault(template, set()).add(each.layer)
    return [
        Rows(container, max(map(max, templates.values())), {name: frozenset(on) for name, on in templates.items()})
        for container, templates in found.items()
    ]


def check_coverage(config: AdapterConfig | None, layout: Layout) -> list[Finding]:
    """Findings about targets, layers and pattern keys."""
    if not layout.modules:
        return []
    if config is None:
        return _holes(None, layout)
    return (
        _outside(config, layout)
        + _without_tensors(config, layout)
        + _holes(config, layout)
        + _chosen_layers(config, layout)
        + _pattern_keys(config, layout)
        + _expressions(config)
    )


def _outside(config: AdapterConfig, layout: Layout) -> list[Finding]:
    """Modules that PEFT would not adapt."""
    if config.target_modules is None and not config.other.get("target_parameters"):
        outside = [] if by_default(layout) else list(layout.modules)
        kinds = sorted({each.kind for each in layout.modules.values()})
        if not outside:
            seen = f"no target_modules; the tensors adapt {listed(kinds)}"
            return [finding("L140", seen, file=CONFIG_NAME, facts={"kinds": kinds})]
    elif config.target_modules is None:
        outside = [path for path in layout.modules if targeted(config, path) is not True]
    else:
        outside = [path for path in layout.modules if targeted(config, path) is False]
    if not outside:
        return []
    kinds = sorted({layout.modules[path].kind for path in outside})
    targets = config.target_modules
    says = "none" if targets is None else shown(targets) if isinstance(targets, str) else listed(targets, 10)
    also = ""
    if config.layers_to_transform not in (None, []):
        chosen = config.layers_to_transform
        also = f", in {_layers([chosen] if isinstance(chosen, int) else chosen or [])}"
    if config.exclude_modules:
        also += ", but exclude_modules"
    return [
        finding(
            "L123",
            f"{some(outside, len(layout.modules))} ({listed(kinds)})",
            expected=f"modules of target_modules: {says}{also}",
            file=CONFIG_NAME,
            facts={"modules": len(outside), "of": len(layout.modules), "kinds": kinds},
        )
    ]


def _without_tensors(config: AdapterConfig, layout: Layout) -> list[Finding]:
    """Targets by name for which the file holds nothing."""
    targets = config.target_modules
    if isinstance(targets, str):
        names = read_expression(targets) if targets != "all-linear" else None
        wanted = [name for how, name in names.ends if how != "whole"] if names else []
        wanted = [name.removeprefix(".") for name in wanted]
    else:
        wanted = list(targets or ())
    lost = [name for name in dict.fromkeys(wanted) if not any(_named(path, name) for path in layout.modules)]
    excluded = config.exclude_modules if isinstance(config.exclude_modules, list) else []
    saved = [*excluded, *(config.modules_to_save or [])]
    lost = [name for name in lost if not names_any(name, saved)]
    if not lost:
        return []
    severities = [_loss(config, layout, name) for name in lost]
    severity: Severity = "reject" if "reject" in severities else "warn" if "warn" in severities else "note"
    sure = [name for name, each in zip(lost, severities, strict=True) if each == "reject"]
    seen = f"no tensors for {listed(lost)}, which target_modules names"
    if sure:
        seen += f"; bases with {listed(sorted({each.kind for each in layout.modules.values()}), 4)} have {listed(sure)}"
    return [
        finding(
            "L124",
            seen,
            expected="tensors for each target that the base has",
            file=WEIGHTS_NAME,
            severity=severity,
            facts={"targets": lost, "sure": sure},
        )
    ]


def _named(path: str, name: str) -> bool:
    return names_any(module_path(path), [name])


def _loss(config: AdapterConfig, layout: Layout, name: str) -> Severity:
    """How sure it is that the base has modules of this name, so that their tensors were lost."""
    kind = name.rsplit(".", 1)[-1]
    kinds = {each.kind for each in layout.modules.values() if each.layer is not None}
    base = config.base_model_name_or_path or ""
    attention, llama = kinds & set(_INPUTS), any(".self_attn." in path for path in layout.modules)
    if kind in _INPUTS and attention:
        return "reject"
    if (kind in _LLAMA_MLP and "gate_proj" in kinds) or (kind == "down_proj" and "up_proj" in kinds):
        return "note" if mixed(base) else "reject"
    if kind == "o_proj" and attention and llama:
        others = {*kinds, *(config.target_modules or ())} & set(_OTHER_OUTPUTS)
        inside = any(".layers." in f".{path}" and ".decoder." not in path for path in layout.modules)
        return "reject" if inside and not others else "note"
    if kind in (*_INPUTS, "o_proj", *_LLAMA_MLP) and llama:
        traits = family(base)
        if (traits is not None and not traits.uniform) or kinds == {"o_proj", "down_proj"}:
            return "note"  # Phi-3 and its kin have qkv_proj and gate_up_proj instead
        return "reject" if uniform(base) else "note" if mixed(base) else "warn"
    return "warn" if uniform(base) and kind in ("lm_head", "embed_tokens") else "note"


def _holes(config: AdapterConfig | None, layout: Layout) -> list[Finding]:
    """Layers that lack a module which other layers have, unless config or architecture explain it."""
    lost: dict[str, dict[str, list[int]]] = {}
    steps: list[str] = []
    for rows in rows_of(layout):
        for template, on in rows.templates.items():
            missing = [
                layer
                for layer in range(rows.last + 1)
                if layer not in on
                and not _elsewhere(rows, on, layer)
                and _wanted(config, template.replace("*", str(layer)))
            ]
            if not missing or ("expert" in template and missing == list(range(len(missing))) and len(missing) <= 3):
                continue  # the first layers of some mixtures of experts are dense
            if _regular(on, missing):
                steps.append(template)
            else:
                lost.setdefault(rows.container, {})[template] = missing
    found = []
    base = (config.base_model_name_or_path or "") if config else ""
    if steps:
        severity: Severity = "note" if mixed(base) else "reject" if uniform(base) else "warn"
        on = next(rows.templates[steps[0]] for rows in rows_of(layout) if steps[0] in rows.templates)
        seen = f"{shown(steps[0])} in {_layers(on)} only"
        facts = {"templates": len(steps), "layers": sorted(on)}
        code = "L125" if severity == "reject" else "L126"
        found.append(finding(code, seen, file=WEIGHTS_NAME, severity=severity, facts=facts))
    if lost:
        found.append(_hole(lost, {rows.container: rows for rows in rows_of(layout)}))
    return found


def _hole(lost: dict[str, dict[str, list[int]]], rows: dict[str, Rows]) -> Finding:
    says, facts = [], {}
    for container, templates in lost.items():
        present = frozenset[int]().union(*rows[container].templates.values())
        empty = sorted({layer for missing in templates.values() for layer in missing} - present)
        if empty:
            says.append(f"no tensors in {_layers(empty)} of {shown(container)}")
        partial = {
            template: layers for template, each in templates.items() if (layers := sorted(set(each) - set(empty)))
        }
        if partial:
            template, layers = next(iter(partial.items()))
            more = f" (and {len(partial) - 1} more modules)" if len(partial) > 1 else ""
            says.append(f"{shown(template)} is missing in {_layers(layers)}{more}")
        facts[container] = {"empty": empty, "partial": dict(list(partial.items())[:16])}
    first = next(iter(lost))
    return finding(
        "L125",
        "; ".join(says),
        expected=f"every target in each of the layers 0-{rows[first].last}, as nothing in {CONFIG_NAME} leaves one out",
        file=WEIGHTS_NAME,
        facts={"missing": facts},
    )


def _layers(which: Collection[int]) -> str:
    return f"layer{'s' if len(which) > 1 else ''} {numbers(which)}"


def _wanted(config: AdapterConfig | None, path: str) -> bool:
    """Whether the config asks for a module that the file lacks."""
    if config is None:
        return True
    means = targeted(config, path)
    if means is not None:
        return means
    expressions = [each for each in (config.target_modules, config.exclude_modules) if isinstance(each, str)]
    if config.layers_to_transform not in (None, []):
        return False
    # An expression without a number cannot tell layers apart.
    return not any(tells_layers(each) for each in expressions)


def _elsewhere(rows: Rows, on: frozenset[int], layer: int) -> bool:
    """Whether this layer has modules of its own kind instead: hybrid bases, and dense layers among experts."""
    return any(layer in other and not other & on for other in rows.templates.values())


def _regular(on: frozenset[int], missing: list[int]) -> bool:
    """Whether layers repeat in equal steps, as in bases with attention in every fourth layer."""

    def steps(layers: list[int]) -> set[int]:
        return {after - before for before, after in itertools.pairwise(layers)}

    have = sorted(on)
    sparse = len(have) >= 3 and len(steps(have)) == 1 and have[1] - have[0] > 1
    gaps = len(missing) >= 2 and len(steps(missing)) == 1 and missing[1] - missing[0] >= 3
    return sparse or gaps


def _chosen_layers(config: AdapterConfig, layout: Layout) -> list[Finding]:
    chosen = config.layers_to_transform
    if chosen is None or chosen == []:
        return []
    asked = {chosen} if isinstance(chosen, int) else set(chosen)
    present = {each.layer for each in layout.modules.values() if each.layer is not None}
    # What lies between the layers that are there is a hole, L125.
    lost = sorted(layer for layer in asked - present if not present or layer > max(present))
    if not lost:
        return []
    seen = f"no tensors in {_layers(lost)}; there are {_layers(present)}"
    facts = {"missing": lost, "present": sorted(present)}
    return [finding("L127", seen, expected=_layers(asked), file=CONFIG_NAME, facts=facts)]


def _pattern_keys(config: AdapterConfig, layout: Layout) -> list[Finding]:
    useless, unread = [], []
    for name, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for key in patterns:
            means = [means_module(key, path) for path in layout.modules]
            if any(each is None for each in means):
                unread.append(f"{name} {key}")
            elif not any(means) and not _names_parameter(config, key):
                useless.append(f"{name} {key}")
    found = []
    if useless:
        seen = (
            f"{listed(useless)} of {len(config.rank_pattern) + len(config.alpha_pattern)} keys mean no adapted module"
        )
        found.append(
            finding("L129", seen, expected="names of adapted modules", file=CONFIG_NAME, facts={"keys": useless})
        )
    if unread:
        found.append(finding("L130", listed(unread), file=CONFIG_NAME, facts={"keys": unread}))
    return found


def _names_parameter(config: AdapterConfig, key: str) -> bool:
    # Keys may name parameters ("gate_up_proj") whose tensors stand under their module's name ("experts").
    named = config.other.get("target_parameters")
    return isinstance(named, list) and any(means_module(key, f"x.{one}") is not False for one in map(str, named))


def _expressions(config: AdapterConfig) -> list[Finding]:
    unread = []
    for name, value in (("target_modules", config.target_modules), ("exclude_modules", config.exclude_modules)):
        if isinstance(value, str) and value and value != "all-linear" and read_expression(value) is None:
            unread.append(f"{name} {shown(value, 60)}")
    if not unread:
        return []
    seen = f"{'; '.join(unread)}: whether it means exactly the modules with tensors is not checked"
    return [finding("L128", seen, file=CONFIG_NAME, facts={"expressions": len(unread)})]
