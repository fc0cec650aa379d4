"""The gate before the engine: an adapter must prove, in the very engine that will answer, that it is applied.

With a passport its canaries are asked of base and adapter and must come out as expected. Without one, the adapter must
at least change what the base says, and reach all of its layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lorica.adapters.arrays import TensorReader
from lorica.adapters.folder import PAIR_PARTS, AdapterFolder
from lorica.adapters.member import Member
from lorica.adapters.passport import Passport, read_passport
from lorica.adapters.passport_facts import file_changes
from lorica.adapters.shallow_folder import ShallowFolder
from lorica.adapters.tensor_names import module_of
from lorica.admission.canaries import CanaryResult, canary_requests, compare_with_passport, describe_result
from lorica.admission.layer_coverage import check_layer_coverage
from lorica.admission.probes import number_probes
from lorica.admission.provenance import trained_otherwise
from lorica.engines.base import Engine
from lorica.errors import AdapterError
from lorica.models.base_folder import BaseFolder
from lorica.precision import precision_of
from lorica.records import Output, ScoreChoices

Policy = Literal["auto", "require", "off"]

# So many prompts are asked of adapters without a passport: any prompt shows whether an adapter does anything.
_BLIND_PROMPTS = 8
_USUAL_WEIGHT = 0.02  # root mean square of a base's weights: what an update's size is relative to


@dataclass(frozen=True)
class Admission:
    """How an adapter came in. proof: `canaries` (its passport's came out as expected), `differs` (no passport; it
    changes what the base says), or `none` (nothing was proved, and `notes` say why). canaries: their figures.
    notes: what a person should know; differences: how it was trained otherwise than it is used now.
    """

    name: str
    proof: Literal["canaries", "differs", "none"]
    canaries: CanaryResult | None = None
    notes: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


def admit_all(
    engine: Engine,
    adapters: Mapping[str, Member],
    base: BaseFolder,
    *,
    used: Mapping[str, str] | None = None,
    policy: Policy = "auto",
) -> dict[str, Admission]:
    """Add adapters to an engine and let each prove itself there; name -> admission.

    base: the engine's base model. used: `provenance.trained_as` of this use. policy: `require` refuses an adapter
    without a passport, `off` asks for no proof. All canaries go through one call of the engine.

    Raises AdapterError for what `Engine.add_adapter` refuses, a broken or missing passport, an adapter that was written
    since it was opened, and one whose canaries are not reproduced: with the largest difference, and whether the base's
    own answer came instead or the base differs. The engine no longer knows what was refused.
    """
    with_passports = {} if policy == "off" else adapters
    passports = {adapter_name: read_passport(adapter.path) for adapter_name, adapter in with_passports.items()}
    missing = [adapter_name for adapter_name, passport in passports.items() if passport is None]
    if policy == "require" and missing:
        raise AdapterError(
            f"no passport: {', '.join(missing)}; adapters.gate=require admits no adapter without one",
            fix="look at it with `lorica check`, then "
            f"`lorica passport {adapters[missing[0]].path} --base {base.path}`",
        )
    for adapter_name, adapter in adapters.items():
        engine.add_adapter(adapter_name, adapter)
    differences = {
        adapter_name: tuple(trained_otherwise(adapter.path, used or {}, passports.get(adapter_name)))
        for adapter_name, adapter in adapters.items()
    }
    if policy == "off" or not engine.info.runs_model:
        admitted = {adapter_name: Admission(adapter_name, "none") for adapter_name in adapters}
    else:
        admitted = _prove_adapters(engine, adapters, base, passports, differences)
    for adapter_name, adapter in adapters.items():
        if adapter.changed:
            raise AdapterError(
                f"adapter {adapter_name!r} ({adapter.path}) was written while it was read",
                fix="wait until that is done; try again",
            )
    return {name: replace(admission, differences=differences[name]) for name, admission in admitted.items()}


def _prove_adapters(
    engine: Engine,
    adapters: Mapping[str, Member],
    base: BaseFolder,
    passports: Mapping[str, Passport | None],
    differences: Mapping[str, tuple[str, ...]],
) -> dict[str, Admission]:
    outputs = _score_probes(
        engine, {adapter_name: _probe_requests(passport, base) for adapter_name, passport in passports.items()}
    )
    dtype = engine.info.dtype
    admitted, refused = {}, []
    for adapter_name, passport in passports.items():
        adapter, (base_outputs, own_outputs) = adapters[adapter_name], outputs[adapter_name]
        try:
            if passport is None:
                admission = _without_passport(adapter_name, adapter, base, base_outputs, own_outputs, dtype)
            else:
                trial = compare_with_passport(passport.canaries, base_outputs, own_outputs, dtype=dtype)
                admission = _with_passport(adapter_name, adapter, passport, trial, differences[adapter_name])
        except AdapterError as error:
            refused.append((adapter_name, error))
            engine.remove_adapter(adapter_name)
            continue
        admitted[adapter_name] = admission
    if refused:
        (_, first_error), *further = refused
        further_text = f"\n  and {len(further)} more: {', '.join(name for name, _ in further[:8])}" if further else ""
        raise AdapterError(first_error.message + further_text, fix=first_error.fix)
    return admitted


def _probe_requests(passport: Passport | None, base: BaseFolder) -> list[ScoreChoices]:
    if passport is not None:
        return canary_requests(passport.canaries, None)
    return [ScoreChoices(probe.id, probe.prompt, probe.choices) for probe in number_probes(base)[:_BLIND_PROMPTS]]


def _score_probes(
    engine: Engine, questions: Mapping[str, Sequence[ScoreChoices]]
) -> dict[str, tuple[list[Output], list[Output]]]:
    """Name -> outputs of base and of adapter, from one run. What several adapters ask of the base is asked once."""
    base_index: dict[tuple[object, ...], int] = {}
    requests: list[ScoreChoices] = []
    for request in itertools.chain.from_iterable(questions.values()):
        if base_index.setdefault((request.prompt, request.choices), len(requests)) == len(requests):
            requests.append(request)
    starts = {}
    for adapter_name, canaries in questions.items():
        starts[adapter_name] = len(requests)
        requests += [ScoreChoices(request.id, request.prompt, request.choices, adapter_name) for request in canaries]
    outputs = engine.run(requests)
    return {
        adapter_name: (
            [outputs[base_index[request.prompt, request.choices]] for request in canaries],
            outputs[starts[adapter_name] : starts[adapter_name] + len(canaries)],
        )
        for adapter_name, canaries in questions.items()
    }


def _with_passport(
    adapter_name: str,
    adapter: Member,
    passport: Passport,
    canary_trial: CanaryResult,
    differences: Sequence[str],
) -> Admission:
    if not canary_trial.ok:
        # What failed is described by its problem alone.
        reasons = list(dict.fromkeys([canary_trial.problem, describe_result(canary_trial)]))
        reasons += file_changes(passport.adapter, adapter)
        reasons += [difference for difference in differences if " base " in difference]
        raise AdapterError(
            f"adapter {adapter_name!r} ({adapter.path}) does not reproduce the canaries of its passport: "
            + "\n  ".join(reasons),
            fix="use the base and the files of the passport; if both are meant, make it anew: "
            f"`lorica passport {adapter.path} --base BASE --force`",
        )
    is_faint = canary_trial.outcome == "faint"
    effect_notes = (f"its effect is too small to be proved in {canary_trial.dtype}",) if is_faint else ()
    return Admission(adapter_name, "canaries", canary_trial, effect_notes)


def _without_passport(
    adapter_name: str,
    adapter: Member,
    base: BaseFolder,
    base_outputs: Sequence[Output],
    outputs: Sequence[Output],
    dtype: str,
) -> Admission:
    if isinstance(adapter, ShallowFolder):
        note = "no passport: its files have the digests that member.json says, and nothing else was proved"
        return Admission(adapter_name, "none", notes=(note,))
    if isinstance(adapter, AdapterFolder):
        check_layer_coverage(adapter_name, adapter, base)
    if any(output.error for output in base_outputs):
        return Admission(
            adapter_name, "none", notes=(f"no passport, and the base answers no probe: {base_outputs[0].error}",)
        )
    broken = next((output.error for output in outputs if output.error), "")
    if broken:
        raise AdapterError(
            f"adapter {adapter_name!r} ({adapter.path}): {broken}", fix=f"look at it with `lorica check {adapter.path}`"
        )
    largest_shift = max(
        abs(before - after)
        for base_output, output in zip(base_outputs, outputs, strict=True)
        for before, after in zip(base_output.logprobs, output.logprobs, strict=True)
    )
    limits = precision_of(dtype)
    if largest_shift > limits.noise:
        return Admission(adapter_name, "differs")
    if not isinstance(adapter, AdapterFolder):
        return Admission(adapter_name, "none", notes=(f"it tells its labels hardly apart on {len(outputs)} probes",))
    update_norm = update_size(adapter)
    if update_norm == 0 and adapter.is_plain:
        raise AdapterError(
            f"adapter {adapter_name!r} ({adapter.path}) does nothing: its update is zero, "
            "the base would answer in its name",
            fix="train it, or take the file that was saved after training; `adapters.gate=off` lets it in",
        )
    if update_norm < (limits.visible_update if largest_shift else limits.moving_update) * _USUAL_WEIGHT:
        return Admission(adapter_name, "none", notes=(f"its update is too small to be proved in {dtype}",))
    raise AdapterError(
        f"adapter {adapter_name!r} ({adapter.path}) is not applied: the engine answers {len(base_outputs)} probes "
        f"as the base alone does (largest difference {largest_shift:.2g}), though the update is not small "
        f"(root mean square {update_norm:.2g})",
        fix="the engine drops it; use another engine, and look at the adapter with `lorica check`",
    )


def update_size(adapter: AdapterFolder) -> float:
    """The largest root mean square over modules of the entries of scaling * B A; NaN and inf count as inf. What stands
    beside the pairs (DoRA's magnitudes, whole modules) is left out."""
    halves: dict[str, dict[str, str]] = {}
    for tensor in adapter.tensors:
        module, parameter = module_of(tensor)
        if parameter in PAIR_PARTS:
            halves.setdefault(module, {})[parameter[-1]] = tensor
    largest = 0.0
    with TensorReader(adapter.weights) as reader:
        for module, tensor_names in halves.items():
            factor_a, factor_b = (
                reader.read(adapter.tensors[tensor_names[factor_name]]).astype("float64") for factor_name in "AB"
            )
            # |B A|^2 = trace(B'B AA'), without the product itself.
            square = float(((factor_b.T @ factor_b) * (factor_a @ factor_a.T)).sum()) / (
                factor_b.shape[0] * factor_a.shape[1]
            )
            if not math.isfinite(square):
                return math.inf
            largest = max(largest, abs(adapter.config.scaling(module)) * math.sqrt(max(square, 0.0)))
    return largest
