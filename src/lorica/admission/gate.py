"""The gate behind which adapters answer: each must prove, in the very engine that will answer, that it is applied.

With a passport its canaries are asked of base and adapter and must come out as expected. Without one, the adapter must
at least change what the base says, and reach all of its layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorica.adapters.arrays import read_array
from lorica.adapters.folder import MORE_THAN_PAIRS, AdapterFolder, module_of, open_adapter
from lorica.adapters.passport import Passport, read_passport
from lorica.adapters.passport_facts import file_changes
from lorica.admission.canaries import Trial, canary_requests, compare, describe_trial
from lorica.admission.layer_coverage import check_reach
from lorica.admission.probes import number_probes
from lorica.admission.provenance import trained_otherwise
from lorica.engines.base import Engine
from lorica.errors import AdapterError, LoricaError
from lorica.models.families import read_json_object
from lorica.precision import precision_of
from lorica.records import Choose, Output

Policy = Literal["auto", "require", "off"]

# So many prompts are asked of adapters without a passport: any prompt shows whether an adapter does anything.
_BLIND_PROMPTS = 8
_USUAL_WEIGHT = 0.02  # root mean square of a base's weights: what an update's size is relative to


@dataclass(frozen=True)
class Admission:
    """How an adapter came in. proof: `canaries` (its passport's came out as expected), `differs` (no passport; it
    changes what the base says), or `none` (nothing was proved, and `notes` say why). trial: the canaries' figures.
    notes: what a person should know; differences: how it was trained otherwise than it is used now.
    """

    name: str
    proof: Literal["canaries", "differs", "none"]
    trial: Trial | None = None
    notes: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


def admit(
    engine: Engine,
    name: str,
    folder: Path,
    base: Path,
    *,
    used: Mapping[str, str] | None = None,
    policy: Policy = "auto",
) -> Admission:
    """Add one adapter to an engine and let it prove itself; see `admit_all`."""
    return admit_all(engine, {name: folder}, base, used=used, policy=policy)[name]


def admit_all(
    engine: Engine,
    folders: Mapping[str, Path],
    base: Path,
    *,
    used: Mapping[str, str] | None = None,
    policy: Policy = "auto",
) -> dict[str, Admission]:
    """Add adapters to an engine and let each prove itself there; name -> admission.

    base: the folder of the engine's base model. used: `provenance.trained_as` of this use. policy: `require` refuses an
    adapter without a passport, `off` asks for no proof. All canaries go through one call of the engine.

    Raises AdapterError for what `Engine.add_adapter` refuses, a broken or missing passport, and an adapter whose
    canaries are not reproduced: with the largest difference, and whether the base's own answer came instead or the
    base differs. The engine no longer knows what was refused.
    """
    passports = {} if policy == "off" else {name: read_passport(folder) for name, folder in folders.items()}
    missing = [name for name, passport in passports.items() if passport is None]
    if policy == "require" and missing:
        raise AdapterError(
            f"no passport: {', '.join(missing)}; adapters.gate=require admits no adapter without one",
            fix=f"look at it with `lorica check`, then `lorica passport {folders[missing[0]]} --base {base}`",
        )
    for name, folder in folders.items():
        engine.add_adapter(name, folder)
    differences = {
        name: tuple(trained_otherwise(folder, used or {}, passports.get(name))) for name, folder in folders.items()
    }
    info = engine.info
    if policy == "off" or not info.runs_model:
        return {name: Admission(name, "none", differences=differences[name]) for name in folders}
    dtype = info.dtype
    answers = _ask(engine, {name: _questions(passport, base) for name, passport in passports.items()})
    admitted, refused = {}, []
    for name, passport in passports.items():
        base_outputs, outputs = answers[name]
        try:
            if passport is None:
                found = _without_passport(name, folders[name], base, base_outputs, outputs, dtype)
            else:
                found = _with_passport(name, folders[name], passport, base_outputs, outputs, dtype, differences[name])
        except AdapterError as error:
            refused.append((name, error))
            engine.remove_adapter(name)
            continue
        admitted[name] = Admission(name, found.proof, found.trial, found.notes, differences[name])
    if refused:
        raise _refusal(refused)
    return admitted


def _refusal(refused: Sequence[tuple[str, AdapterError]]) -> AdapterError:
    error = refused[0][1]
    others = [name for name, _ in refused[1:]]
    more = f"\n  and {len(others)} more: {', '.join(others[:8])}" if others else ""
    return AdapterError(error.message + more, fix=error.fix)


def _questions(passport: Passport | None, base: Path) -> list[Choose]:
    if passport is not None:
        return canary_requests(passport.canaries, None)
    return [Choose(each.id, each.prompt, each.choices) for each in number_probes(base)[:_BLIND_PROMPTS]]


def _ask(engine: Engine, questions: Mapping[str, Sequence[Choose]]) -> dict[str, tuple[list[Output], list[Output]]]:
    """Name -> outputs of base and of adapter, from one run. What several adapters ask of the base is asked once."""
    unique: dict[tuple[object, ...], int] = {}
    requests: list[Choose] = []
    for asked in questions.values():
        for each in asked:
            if unique.setdefault((each.prompt, each.choices), len(requests)) == len(requests):
                requests.append(each)
    starts = {}
    for name, asked in questions.items():
        starts[name] = len(requests)
        requests += [Choose(each.id, each.prompt, each.choices, name) for each in asked]
    outputs = engine.run(requests)
    return {
        name: (
            [outputs[unique[(each.prompt, each.choices)]] for each in asked],
            outputs[starts[name] : starts[name] + len(asked)],
        )
        for name, asked in questions.items()
    }


def _with_passport(
    name: str,
    folder: Path,
    passport: Passport,
    base: Sequence[Output],
    adapter: Sequence[Output],
    dtype: str,
    differences: Sequence[str],
) -> Admission:
    trial = compare(passport.canaries, base, adapter, dtype=dtype)
    if not trial.ok:
        reasons = [trial.problem, describe_trial(trial)] if trial.reading != "failed" else [trial.problem]
        reasons += _what_changed(folder, passport)
        reasons += [each for each in differences if " base " in each]
        raise AdapterError(
            f"adapter {name!r} ({folder}) does not reproduce the canaries of its passport: " + "\n  ".join(reasons),
            fix="use the base and the files of the passport; if both are meant, make it anew: "
            f"`lorica passport {folder} --base BASE --force`",
        )
    notes = []
    if trial.reading == "faint":
        notes.append(f"its effect is too small to be proved in {trial.dtype}")
    return Admission(name, "canaries", trial, tuple(notes))


def _what_changed(folder: Path, passport: Passport) -> list[str]:
    try:
        opened = open_adapter(folder)
        raw = read_json_object(folder / "adapter_config.json")
        return file_changes(passport.adapter, folder, raw, opened.weights)
    except LoricaError:
        return []


def _without_passport(
    name: str, folder: Path, model: Path, base: Sequence[Output], adapter: Sequence[Output], dtype: str
) -> Admission:
    check_reach(name, open_adapter(folder, applied=MORE_THAN_PAIRS), model)
    if any(output.error for output in base):
        return Admission(name, "none", notes=(f"no passport, and the base answers no probe: {base[0].error}",))
    broken = next((output.error for output in adapter if output.error), "")
    if broken:
        raise AdapterError(f"adapter {name!r} ({folder}): {broken}", fix=f"look at it with `lorica check {folder}`")
    moved = max(
        abs(before - after)
        for one, other in zip(base, adapter, strict=True)
        for before, after in zip(one.logprobs, other.logprobs, strict=True)
    )
    limits = precision_of(dtype)
    if moved > limits.noise:
        return Admission(name, "differs")
    size = update_size(open_adapter(folder))
    if size == 0:
        raise AdapterError(
            f"adapter {name!r} ({folder}) does nothing: its update is zero, the base would answer in its name",
            fix="train it, or take the file that was saved after training; `adapters.gate=off` lets it in",
        )
    if size < (limits.visible_update if moved else limits.moving_update) * _USUAL_WEIGHT:
        return Admission(name, "none", notes=(f"its update is too small to be proved in {dtype}",))
    raise AdapterError(
        f"adapter {name!r} ({folder}) is not applied: the engine answers {len(base)} probes as the base alone does "
        f"(largest difference {moved:.2g}), though the update is not small (root mean square {size:.2g})",
        fix="the engine drops it; use another engine, and look at the adapter with `lorica check`",
    )


def update_size(adapter: AdapterFolder) -> float:
    """The largest root mean square over modules of the entries of scaling * B A; NaN and inf count as inf."""
    halves: dict[str, dict[str, str]] = {}
    for tensor in adapter.tensors:
        module, part = module_of(tensor)
        halves.setdefault(module, {})[part] = tensor
    largest = 0.0
    for module, both in halves.items():
        a = read_array(adapter.weights, adapter.tensors[both["lora_A"]]).astype("float64")
        b = read_array(adapter.weights, adapter.tensors[both["lora_B"]]).astype("float64")
        # |B A|^2 = trace(B'B AA'), without the product itself.
        square = float(((b.T @ b) * (a @ a.T)).sum()) / (b.shape[0] * a.shape[1])
        if not math.isfinite(square):
            return math.inf
        largest = max(largest, abs(adapter.config.scaling(module)) * math.sqrt(max(square, 0.0)))
    return largest
