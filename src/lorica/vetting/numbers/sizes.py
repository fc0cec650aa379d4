"""Is an adapter's update of a size that training leaves: not zero, not faint, not overwhelming, even over the layers?

The measure is the gain: for an input of entries of size one (what a norm layer hands on), the size of the entries that
the update adds to the output. A base layer's own gain is near 1, a trained update's between 0.001 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from lorica.adapters.config import BASE_CHANGING_INIT, AdapterConfig
from lorica.adapters.tensor_map import TensorMap
from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.numbers.module_updates import ModuleUpdate
from lorica.vetting.numbers.scan import TensorFacts
from lorica.vetting.wording import some

# Below the resolution of float32 beside an output of size one: no engine can show it.
NO_EFFECT = 1e-8
# A hundredth of what half precision resolves beside an output of size one, and a tenth of that: one step of Adam at a
# rate of 1e-5 still leaves more than the latter.
SLIGHT, FAINT = 1e-4, 1e-5
# Trainings use 0.05 to 8: below this, a slight update has been scaled away.
LOW_SCALE = 0.02
# A base layer's own effect, ten times that, and a thousand times.
NOTABLE, LARGE, ABSURD = 1.0, 10.0, 1000.0
# Peers of one role lie within a factor of ten of their median in healthy adapters.
STANDS_OUT = 50.0
# Gaussian initialisation of rank 1 in a wide layer reaches 250, EVA's and PiSSA's a few; small ones are rescaled.
A_SPREAD, A_SPREAD_ABSURD = (0.02, 500.0), (1e-5, 1e5)
# Modules that text alone, or one prompt, may never reach: other modalities, and the experts of a mixture.
_UNREACHED = re.compile(r"vision|visual|image|audio|speech|expert|mm_|projector|encoder\.", re.IGNORECASE)


def check_sizes(
    config: AdapterConfig | None,
    tensor_map: TensorMap,
    tensor_facts: dict[str, TensorFacts],
    updates: dict[str, ModuleUpdate],
    *,
    scaled: bool,
) -> list[Finding]:
    """scaled: whether alpha and rank are known, without which only zero is judged."""
    pair_paths = [module.path for module in tensor_map.pairs]
    if not pair_paths:
        return []
    silent = [module_path for module_path in pair_paths if _silent(module_path, tensor_map, tensor_facts, updates)]
    if len(silent) == len(pair_paths):
        return [_no_effect(pair_paths, tensor_map, tensor_facts, updates)]
    findings = [*_partly_silent(silent, pair_paths), *_unused(updates)]
    linear = {path: update for path, update in updates.items() if not tensor_map.modules[path].embedding}
    # A and B started large, and the base was changed to match.
    special = config is not None and str(config.init_lora_weights).startswith(BASE_CHANGING_INIT)
    if linear and scaled and not special:
        findings += [*_scale(linear, special=config is not None and config.use_dora), *_spread(linear)]
    findings += _outliers({module_path: update for module_path, update in linear.items() if update.norm > 0})
    return findings


def _silent(
    module_path: str, tensor_map: TensorMap, tensor_facts: dict[str, TensorFacts], updates: dict[str, ModuleUpdate]
) -> bool:
    if module_path in updates:
        return updates[module_path].gain <= NO_EFFECT
    module = tensor_map.modules[module_path]
    return tensor_facts[module.a].is_zero or tensor_facts[module.b].is_zero


def _no_effect(
    pair_paths: list[str], tensor_map: TensorMap, tensor_facts: dict[str, TensorFacts], updates: dict[str, ModuleUpdate]
) -> Finding:
    halves = {"lora_A": [pair.a for pair in tensor_map.pairs], "lora_B": [pair.b for pair in tensor_map.pairs]}
    zero_counts = {
        factor_name: sum(tensor_facts[name].zeros == tensor_facts[name].count for name in tensor_names)
        for factor_name, tensor_names in halves.items()
    }
    largest_gain = max((updates[module_path].gain for module_path in pair_paths if module_path in updates), default=0.0)
    zero_halves = " and ".join(name for name, zero_count in zero_counts.items() if zero_count == len(pair_paths))
    actual = f"the largest update changes outputs of size 1 by {largest_gain:.1e}, less than float32 can show"
    actual = f"{zero_halves} is zero in all {len(pair_paths)} modules" if zero_halves else actual
    acting = sum(bool(module.magnitude or module.more) for module in tensor_map.modules.values())
    acting += len(tensor_map.saved)
    actual += f"; only {acting} saved parameters or magnitudes can act" if acting else ""
    facts = {"modules": len(pair_paths), "zero_a": zero_counts["lora_A"], "zero_b": zero_counts["lora_B"]}
    severity: Severity | None = "warn" if acting else None
    return finding("L210", actual, facts=facts | {"gain": largest_gain}, severity=severity)


def _partly_silent(silent: list[str], pair_paths: list[str]) -> Iterable[Finding]:
    if not silent:
        return
    reached = [module_path for module_path in silent if not _UNREACHED.search(module_path)]
    actual = f"the update is zero in {some(reached or silent, len(pair_paths))}"
    facts = {"modules": len(pair_paths), "silent": len(silent), "reached": len(reached)}
    expected = "an update in every adapted module" if reached else ""
    yield finding("L211", actual, expected=expected, facts=facts, severity="warn" if reached else "note")


def _unused(updates: dict[str, ModuleUpdate]) -> Iterable[Finding]:
    with_zeros = [module_path for module_path, update in updates.items() if 0 < update.unused < update.rank]
    if with_zeros:
        unused, rank = updates[with_zeros[0]].unused, updates[with_zeros[0]].rank
        actual = f"{unused} of {rank} rank components are zero in {some(with_zeros, len(updates))}"
        facts = {"modules": len(with_zeros), "unused": sum(updates[module_path].unused for module_path in with_zeros)}
        yield finding("L218", actual, facts=facts)


def _scale(updates: dict[str, ModuleUpdate], *, special: bool) -> Iterable[Finding]:
    """special: DoRA, where the base's own row lengths bound the result."""
    gains = np.array([update.gain for update in updates.values()])
    facts = {"median_gain": _middle(gains), "max_gain": float(gains.max())}
    scales = sorted({update.scale for update in updates.values()})
    scaling_text = f"scaling {scales[0]:.4g}" if len(scales) == 1 else f"scalings {scales[0]:.4g} to {scales[-1]:.4g}"
    severity: Severity | None
    if facts["max_gain"] < SLIGHT:
        actual = f"the largest update changes outputs of size 1 by {facts['max_gain']:.1e} ({scaling_text})"
        severity = None if facts["max_gain"] < FAINT or scales[-1] < LOW_SCALE else "note"
        yield finding("L212", actual, facts=facts, severity=severity)
    actual = f"for inputs of size 1 the updates add outputs of size {facts['median_gain']:.3g} ({scaling_text})"
    if facts["median_gain"] > LARGE:
        severity = "reject" if facts["median_gain"] > ABSURD and not special else "warn"
        yield finding("L214", actual, facts=facts, severity=severity)
    elif facts["median_gain"] > NOTABLE:
        yield finding("L213", actual, facts=facts)


def _spread(updates: dict[str, ModuleUpdate]) -> Iterable[Finding]:
    spreads = {module_path: update.a_spread for module_path, update in updates.items() if update.a_spread > 0}
    lowest, highest = A_SPREAD
    unusual = [module_path for module_path, spread in spreads.items() if not lowest <= spread <= highest]
    if unusual:
        worst = max((spreads[module_path] for module_path in unusual), key=lambda spread: abs(np.log(spread)))
        extreme = not A_SPREAD_ABSURD[0] <= worst <= A_SPREAD_ABSURD[1]
        actual = f"lora_A is {worst:.2g} times the size PEFT starts it with in {some(unusual, len(updates))}"
        facts = {"modules": len(unusual), "worst": worst}
        yield finding("L216", actual, facts=facts, severity="warn" if extreme else "note")


def _middle(values: npt.NDArray[np.float64]) -> float:
    # np.median would import numpy.ma, which costs as much as everything here.
    return float(np.sort(values)[len(values) // 2])


def _outliers(updates: dict[str, ModuleUpdate]) -> Iterable[Finding]:
    """Modules whose gain is far from that of the same module in the other layers."""
    paths_by_role: dict[str, list[str]] = {}
    for module_path in updates:
        paths_by_role.setdefault(re.sub(r"\d+", "*", module_path), []).append(module_path)
    outliers: dict[str, float] = {}
    for module_paths in paths_by_role.values():
        if len(module_paths) < 4 or _UNREACHED.search(module_paths[0]):
            continue
        log_gains = np.log([updates[module_path].gain for module_path in module_paths])
        deviations = log_gains - _middle(log_gains)
        # Robust: the usual distance from the median, which a few bad layers do not move.
        usual_deviation = max(_middle(np.abs(deviations)), 0.2)
        next_best = np.sort(log_gains)[-2]
        limit = np.log(STANDS_OUT)
        for module_path, distance, log_gain in zip(module_paths, deviations, log_gains, strict=True):
            # Of four layers one cannot tell what is usual: the largest must not hide in its own distance.
            far_above = distance > max(limit, 8 * usual_deviation) or log_gain - next_best > limit
            if far_above or distance < -max(2 * limit, 12 * usual_deviation):
                outliers[module_path] = float(np.exp(distance))
    if outliers:
        worst_path = max(outliers, key=lambda module_path: abs(np.log(outliers[module_path])))
        affected = some(sorted(outliers, key=lambda module_path: module_path != worst_path), len(updates))
        actual = f"the update is {outliers[worst_path]:.3g} times that of the same module in other layers in {affected}"
        facts = {"modules": len(outliers), "worst": outliers[worst_path], "path": worst_path}
        yield finding("L215", actual, facts=facts)
