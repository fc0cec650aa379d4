"""Does an adapter cover what its config targets: targets, layers, and shapes alike from layer to layer?"""

from __future__ import annotations

import msgspec

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.layout import Layout, module_path
from lorica.vetting.claims.families import family, mixed, uniform
from lorica.vetting.finding_codes import Severity
from lorica.vetting.findings import Finding, finding
from lorica.vetting.structure.layers import check_layers, layers
from lorica.vetting.structure.targets import (
    Asked,
    by_default,
    ends_with,
    read_expression,
    suffixes,
)
from lorica.vetting.wording import listed, shown, some

_INPUTS = ("q_proj", "k_proj", "v_proj")
_LLAMA_MLP = ("gate_proj", "up_proj", "down_proj")
# Modules that stand in other families where Llama's have o_proj.
_OTHER_OUTPUTS = ("dense", "out_proj", "fc1", "fc2")


def check_coverage(asked: Asked | None, layout: Layout) -> list[Finding]:
    """Findings about targets, layers and pattern keys."""
    if not layout.modules:
        return []
    if asked is None:
        return check_layers(None, layout)
    return (
        _outside(asked, layout)
        + _without_tensors(asked, layout)
        + check_layers(asked, layout)
        + _chosen_layers(asked, layout)
        + _pattern_keys(asked, layout)
        + _expressions(asked, layout)
    )


def _outside(asked: Asked, layout: Layout) -> list[Finding]:
    """Modules that PEFT would not adapt."""
    config = asked.config
    if config.target_modules is None and not config.other.get("target_parameters"):
        outside = [] if by_default(layout) else list(layout.modules)
        kinds = sorted({each.kind for each in layout.modules.values()})
        if not outside:
            seen = f"no target_modules; the tensors adapt {listed(kinds)}"
            return [finding("L140", seen, file=CONFIG_NAME, facts={"kinds": kinds})]
    elif config.target_modules is None:
        outside = [path for path in layout.modules if asked.targeted(path) is not True]
    else:
        outside = [path for path in layout.modules if asked.targeted(path) is False]
    if not outside:
        return []
    kinds = sorted({layout.modules[path].kind for path in outside})
    targets = config.target_modules
    says = "none" if targets is None else shown(targets) if isinstance(targets, str) else listed(targets, 10)
    also = ""
    if config.layers_to_transform not in (None, []):
        chosen = config.layers_to_transform
        also = f", in {layers([chosen] if isinstance(chosen, int) else chosen or [])}"
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


def _without_tensors(asked: Asked, layout: Layout) -> list[Finding]:
    """Targets by name for which the file holds nothing."""
    config = asked.config
    targets = config.target_modules
    if isinstance(targets, str):
        names = read_expression(targets) if targets != "all-linear" else None
        wanted = [name for how, name in names.ends if how != "whole"] if names else []
        wanted = [name.removeprefix(".") for name in wanted]
    else:
        wanted = list(targets or ())
    there = {end for path in layout.modules for end in suffixes(module_path(path))}
    excluded = config.exclude_modules if isinstance(config.exclude_modules, list) else []
    left_out = frozenset([*excluded, *config.saved_modules])
    lost = [name for name in dict.fromkeys(wanted) if name not in there and not ends_with(name, left_out)]
    if not lost:
        return []
    bases = _Base.of(asked, layout)
    severities = [bases.lacks(name) for name in lost]
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
            facts={"targets": lost[:64], "sure": sure[:64]},
        )
    ]


class _Base(msgspec.Struct, frozen=True):
    """What the adapted modules say of the base. kinds: of modules in layers. targets: names the config gives."""

    name: str
    kinds: frozenset[str]
    targets: frozenset[str]
    llama: bool
    plain_layers: bool

    @classmethod
    def of(cls, asked: Asked, layout: Layout) -> _Base:
        targets = asked.config.target_modules
        return cls(
            name=asked.config.base_model_name_or_path or "",
            kinds=frozenset(each.kind for each in layout.modules.values() if each.layer is not None),
            targets=frozenset(targets if isinstance(targets, list) else ()),
            llama=any(".self_attn." in path for path in layout.modules),
            plain_layers=any(".layers." in f".{path}" and ".decoder." not in path for path in layout.modules),
        )

    def lacks(self, target: str) -> Severity:
        """How sure it is that the base has modules of this name, so that their tensors were lost."""
        kind, kinds = target.rsplit(".", 1)[-1], self.kinds
        attention = kinds & set(_INPUTS)
        if kind in _INPUTS and attention:
            return "reject"
        if (kind in _LLAMA_MLP and "gate_proj" in kinds) or (kind == "down_proj" and "up_proj" in kinds):
            return "note" if mixed(self.name) else "reject"
        if kind == "o_proj" and attention and self.llama:
            others = (kinds | self.targets) & set(_OTHER_OUTPUTS)
            return "reject" if self.plain_layers and not others else "note"
        if kind in (*_INPUTS, "o_proj", *_LLAMA_MLP) and self.llama:
            traits = family(self.name)
            if (traits is not None and not traits.uniform) or kinds == {"o_proj", "down_proj"}:
                return "note"  # Phi-3 and its kin have qkv_proj and gate_up_proj instead
            return "reject" if uniform(self.name) else "note" if mixed(self.name) else "warn"
        return "warn" if kind in ("lm_head", "embed_tokens") and uniform(self.name) else "note"


def _chosen_layers(asked: Asked, layout: Layout) -> list[Finding]:
    chosen = asked.config.layers_to_transform
    if chosen is None or chosen == []:
        return []
    wanted = {chosen} if isinstance(chosen, int) else set(chosen)
    present = {each.layer for each in layout.modules.values() if each.layer is not None}
    # What lies between the layers that are there is a hole, L125.
    lost = sorted(layer for layer in wanted - present if not present or layer > max(present))
    if not lost:
        return []
    seen = f"no tensors in {layers(lost)}; there are {layers(present)}"
    facts = {"missing": lost[:512], "present": sorted(present)[:512]}
    return [finding("L127", seen, expected=layers(wanted), file=CONFIG_NAME, facts=facts)]


def _pattern_keys(asked: Asked, layout: Layout) -> list[Finding]:
    useless, unread, total = [], [], 0
    for name, patterns in (("rank_pattern", asked.ranks), ("alpha_pattern", asked.alphas)):
        none, unknown = patterns.useless(layout.modules.keys())
        # Keys may name parameters ("gate_up_proj") whose tensors stand under their module's name ("experts").
        none = [key for key in none if not (asked.parameters and _means_parameter(asked, key))]
        useless += [f"{name} {key}" for key in none]
        unread += [f"{name} {key}" for key in unknown]
        total += len(patterns.values)
    found = []
    if useless:
        seen = f"{listed(useless)} of {total} keys mean no adapted module"
        facts = {"keys": useless[:64]}
        found.append(finding("L129", seen, expected="names of adapted modules", file=CONFIG_NAME, facts=facts))
    if unread:
        found.append(finding("L130", listed(unread), file=CONFIG_NAME, facts={"keys": unread[:64]}))
    return found


def _means_parameter(asked: Asked, key: str) -> bool:
    last = key.rsplit(".", 1)[-1].rstrip("$)")
    return any(name == last or name.endswith(f".{last}") for name in asked.parameters)


def _expressions(asked: Asked, layout: Layout) -> list[Finding]:
    config, unread = asked.config, []
    for name, value in (("target_modules", config.target_modules), ("exclude_modules", config.exclude_modules)):
        if isinstance(value, str) and value and value != "all-linear" and read_expression(value) is None:
            unread.append(f"{name} {shown(value, 60)}")
    undecided = [path for path in layout.modules if asked.targeted(path) is None] if unread else []
    if not undecided:
        return []
    seen = f"{'; '.join(unread)}: whether it means {some(undecided, len(layout.modules))} is not known"
    facts = {"expressions": len(unread), "modules": len(undecided), "of": len(layout.modules)}
    return [finding("L128", seen, file=CONFIG_NAME, facts=facts)]
