"""Is every layer there? A base's layers are alike unless its architecture mixes them or the config leaves some out."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import msgspec

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.layout import Layout, split_layer
from lorica.vetting.claims.families import mixed, uniform
from lorica.vetting.finding_codes import Severity
from lorica.vetting.findings import Finding, finding
from lorica.vetting.structure.targets import Asked, tells_layers
from lorica.vetting.wording import numbers, shown

# More layers, or more ways of filling them, than any model has: such a file is not looked at layer by layer.
_MOST_LAYERS, _MOST_WAYS = 1024, 64
_MOST_TEMPLATES = 2000


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


def layers(which: Collection[int]) -> str:
    """ "layer 3", "layers 0-11, 13"."""
    return f"layer{'s' if len(which) > 1 else ''} {numbers(which)}"


def check_layers(asked: Asked | None, layout: Layout) -> list[Finding]:
    """Findings L125 and L126: layers that lack a module which others have, and nothing explains it."""
    every = rows_of(layout)
    lost: dict[str, dict[str, list[int]]] = {}
    steps: dict[str, frozenset[int]] = {}
    for rows in every:
        for template, missing in _missing(asked, rows).items():
            if _regular(rows.templates[template], missing):
                steps[template] = rows.templates[template]
            else:
                lost.setdefault(rows.container, {})[template] = missing
    if lost:
        return [_hole(lost, {rows.container: rows for rows in every})]
    if not steps:
        return []
    base = (asked.config.base_model_name_or_path or "") if asked else ""
    severity: Severity = "note" if mixed(base) else "reject" if uniform(base) else "warn"
    template, on = next(iter(steps.items()))
    seen = f"{shown(template)} in {layers(on)} only"
    facts = {"templates": len(steps), "layers": sorted(on)[:512]}
    code = "L125" if severity == "reject" else "L126"
    return [finding(code, seen, file=WEIGHTS_NAME, severity=severity, facts=facts)]


def _missing(asked: Asked | None, rows: Rows) -> dict[str, list[int]]:
    """Template -> layers that lack it, though the config wants it there and the layer has nothing else instead."""
    ways: dict[frozenset[int], list[str]] = {}
    for template, on in rows.templates.items():
        ways.setdefault(on, []).append(template)
    if rows.last >= _MOST_LAYERS or len(ways) > _MOST_WAYS:
        present = frozenset[int]().union(*ways)
        gaps = sorted(frozenset(range(min(rows.last + 1, _MOST_LAYERS))) - present)
        return {next(iter(rows.templates)): gaps} if gaps else {}
    found: dict[str, list[int]] = {}
    for on, templates in ways.items():
        missing = [each for each in range(rows.last + 1) if each not in on and not _elsewhere(ways, on, each)]
        for template in templates[: _MOST_TEMPLATES // max(1, len(missing) // 8)] if missing else ():
            wanted = [each for each in missing if _wanted(asked, template.replace("*", str(each)))]
            leading = wanted == list(range(len(wanted))) and len(wanted) <= 3
            # The first layers of some mixtures of experts are dense.
            if wanted and not (leading and "expert" in template):
                found[template] = wanted
    return found


def _elsewhere(ways: Collection[frozenset[int]], on: frozenset[int], layer: int) -> bool:
    """Whether this layer has modules of its own kind instead: hybrid bases, and dense layers among experts."""
    return any(layer in other and not other & on for other in ways)


def _wanted(asked: Asked | None, path: str) -> bool:
    """Whether the config asks for a module that the file lacks."""
    means = True if asked is None else asked.targeted(path)
    if means is not None or asked is None:
        return bool(means)
    config = asked.config
    if config.layers_to_transform not in (None, []):
        return False
    expressions = [each for each in (config.target_modules, config.exclude_modules) if isinstance(each, str)]
    # An expression without a number cannot tell layers apart.
    return not any(tells_layers(each) for each in expressions)


def _regular(on: frozenset[int], missing: Sequence[int]) -> bool:
    """Whether layers repeat in equal steps, as in bases with attention in every fourth layer."""
    have = sorted(on)
    sparse = len(have) >= 3 and len(_steps(have)) == 1 and have[1] - have[0] > 1
    gaps = len(missing) >= 2 and len(_steps(missing)) == 1 and missing[1] - missing[0] >= 3
    return sparse or gaps


def _steps(which: Sequence[int]) -> set[int]:
    return {after - before for before, after in itertools.pairwise(which)}


def _hole(lost: dict[str, dict[str, list[int]]], rows: dict[str, Rows]) -> Finding:
    says, facts = [], {}
    for container, templates in list(lost.items())[:8]:
        present = frozenset[int]().union(*rows[container].templates.values())
        empty = sorted({layer for missing in templates.values() for layer in missing} - present)
        if empty:
            says.append(f"no tensors in {layers(empty)} of {shown(container)}")
        none = set(empty)
        partial = {
            template: where
            for template, each in templates.items()
            if (where := [layer for layer in each if layer not in none])
        }
        if partial:
            template, where = next(iter(partial.items()))
            more = f" (and {len(partial) - 1} more modules)" if len(partial) > 1 else ""
            says.append(f"{shown(template)} is missing in {layers(where)}{more}")
        facts[container] = {"empty": empty[:512], "partial": dict(list(partial.items())[:16])}
    first = next(iter(lost))
    return finding(
        "L125",
        "; ".join(says),
        expected=f"every target in each of the layers 0-{rows[first].last}, as nothing in {CONFIG_NAME} leaves one out",
        file=WEIGHTS_NAME,
        facts={"missing": facts},
    )
