"""The gate: what is applied as its passport says comes in, on every engine and precision; nothing else does."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from safetensors.numpy import load_file, save_file
from tests.passports import BASE, Deaf, give_passport, make_adapter, make_dora_adapter

from lorica.adapters.arrays import read_array
from lorica.adapters.folder import MORE_THAN_PAIRS, open_adapter
from lorica.adapters.header import read_header
from lorica.adapters.passport import PASSPORT_NAME, Passport, Tolerance, read_passport, write_passport
from lorica.admission.canaries import make_canaries, run_canaries
from lorica.admission.gate import Admission, Policy, admit_all, update_size
from lorica.admission.probes import shipped_probes
from lorica.admission.provenance import trained_as
from lorica.engines import load_engine
from lorica.engines.base import Engine, EngineSettings
from lorica.engines.fake import FakeEngine
from lorica.errors import AdapterError, EngineError
from lorica.models.base_folder import BaseFolder
from lorica.prompts.encoder import Encoder
from lorica.records import Output, ScoreChoices
from lorica.tasks import load_task

EXACT = EngineSettings(dtype="float32", device="cpu", threads=1)


def _engine(base: Path = BASE, name: str = "native", settings: EngineSettings = EXACT) -> Engine:
    return load_engine(name, BaseFolder(base), settings)


def admit(engine: Engine, name: str, folder: Path, base: Path, **options: Any) -> Admission:
    return admit_each(engine, {name: folder}, base, **options)[name]


def admit_each(
    engine: Engine,
    folders: Mapping[str, Path],
    base: Path,
    *,
    used: Mapping[str, str] | None = None,
    policy: Policy = "auto",
) -> dict[str, Admission]:
    adapters = {name: open_adapter(folder, applied=MORE_THAN_PAIRS) for name, folder in folders.items()}
    return admit_all(engine, adapters, BaseFolder(base), used=used, policy=policy)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return _engine()


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Path:
    """An adapter with a passport."""
    folder = make_adapter(tmp_path_factory.mktemp("signed") / "rules")
    passport = give_passport(folder, engine)
    assert len(passport.canaries.items) == 8
    assert passport.canaries.gap > 0.3
    return folder


def _copy(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place))


def _passport(folder: Path) -> Passport:
    passport = read_passport(folder)
    assert passport is not None
    return passport


def _other_base(place: Path, *, noise: float) -> Path:
    """The embedded base with noise on its weights, as a part of their standard deviation."""
    shutil.copytree(BASE, place)
    chance = np.random.default_rng(3)
    weights = {}
    for name, info in read_header(BASE / "model.safetensors").tensors.items():
        values = read_array(BASE / "model.safetensors", info)
        spread = noise * float(values.std()) if values.ndim > 1 else 0.0
        weights[name] = (values + spread * chance.standard_normal(values.shape)).astype("float32")
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return place


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("native", EngineSettings(dtype="float32", device="cpu", share_prefixes=False, batch_tokens=64)),
        ("native", EngineSettings(dtype="bfloat16", device="cpu")),
        ("native", EngineSettings(dtype="float16", device="cpu")),
        ("native", EngineSettings(dtype="int8", device="cpu")),
        ("native", EngineSettings(dtype="int8-weights", device="cpu")),
        ("native", EngineSettings(dtype="int4-weights", device="cpu")),
        ("native", EngineSettings(dtype="float32", device="cpu", load_in_4bit=True)),
        ("transformers", EngineSettings(dtype="float32", device="cpu")),
    ],
    ids=["float32", "bfloat16", "float16", "int8", "int8-weights", "int4-weights", "nf4", "transformers"],
)
@pytest.mark.filterwarnings("ignore")
def test_every_engine_and_precision_admits_it(signed: Path, name: str, settings: EngineSettings) -> None:
    needed = {"transformers": "peft"}.get(name, "bitsandbytes" if settings.load_in_4bit else "torch")
    if find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    tried = _engine(name=name, settings=settings)
    admission = admit(tried, "rules", signed, BASE, policy="require")
    assert admission.proof == "canaries"
    assert admission.canaries is not None
    assert admission.canaries.ok
    assert admission.canaries.effect == pytest.approx(1, abs=0.3)
    assert admission.canaries.dtype == tried.info.dtype
    # And no precision is so coarse that an adapter which is not applied would pass.
    with pytest.raises(AdapterError, match="answers as the base alone"):
        admit(Deaf(tried), "rules", signed, BASE)


def test_an_adapter_that_is_not_applied_is_refused(signed: Path, engine: Engine) -> None:
    with pytest.raises(AdapterError) as caught:
        admit(Deaf(engine), "deaf", signed, BASE)
    assert "the adapter is not applied" in caught.value.message
    assert "largest difference" in caught.value.message
    with pytest.raises(EngineError, match="asks for the adapter 'deaf'"):
        engine.run([ScoreChoices("1", (1,), ((2,),), "deaf")])


def test_without_a_passport_it_must_still_be_applied(tmp_path: Path, engine: Engine) -> None:
    folder = make_adapter(tmp_path / "bare", seed=5)
    assert admit(engine, "bare", folder, BASE).proof == "differs"
    with pytest.raises(AdapterError, match=r"is not applied: .* as the base alone does") as caught:
        admit(Deaf(engine), "bare", folder, BASE)
    assert "lorica check" in caught.value.fix


@pytest.mark.parametrize(
    ("b", "says"),
    [(1e-12, "too small to be proved"), (1e-6, "too small"), (1e-4, ""), (30.0, "")],
)
def test_an_update_of_any_size_but_zero_is_admitted(tmp_path: Path, engine: Engine, b: float, says: str) -> None:
    folder = make_adapter(tmp_path / "sized", b=b)
    admission = admit(engine, f"sized {b}", folder, BASE)
    assert says in " ".join(admission.notes)
    assert bool(says) == (admission.proof == "none")


def test_an_update_of_zero_is_refused(tmp_path: Path, engine: Engine) -> None:
    folder = make_adapter(tmp_path / "zero", b=0.0)
    with pytest.raises(AdapterError, match="does nothing: its update is zero"):
        admit(engine, "zero", folder, BASE)
    assert admit(engine, "zero", folder, BASE, policy="off").proof == "none"
    with pytest.raises(EngineError):
        engine.run([ScoreChoices("1", (1,), ((2,),), "nobody")])


@pytest.mark.parametrize(("b", "proof"), [(1e-9, "none"), (0.05, "differs")])
@pytest.mark.filterwarnings("ignore")
def test_what_goes_beyond_pairs_is_admitted_where_the_engine_applies_it(tmp_path: Path, b: float, proof: str) -> None:
    pytest.importorskip("peft")
    folder = make_dora_adapter(tmp_path / "dora", b=b)
    tried = _engine(name="transformers")
    admission = admit(tried, "dora", folder, BASE)
    assert admission.proof == proof
    assert ("too small to be proved" in " ".join(admission.notes)) == (proof == "none")
    if proof == "differs":
        with pytest.raises(AdapterError, match=r"is not applied: .* as the base alone does"):
            admit(Deaf(tried), "deaf", folder, BASE)
    with pytest.raises(AdapterError, match="use_dora: DoRA rescales each row of the base weights"):
        admit(_engine(), "dora", folder, BASE)


def test_layers_that_end_before_the_bases_are_refused(tmp_path: Path, engine: Engine) -> None:
    folder = make_adapter(tmp_path / "short")
    weights = load_file(folder / "adapter_model.safetensors")
    kept = {name: values for name, values in weights.items() if ".layers.4." not in name and ".layers.5." not in name}
    save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterError, match="has layers 0 to 3 only; the base has 6"):
        admit(engine, "short", folder, BASE)
    config = json.loads((folder / "adapter_config.json").read_text())
    for choice in ({"layers_to_transform": [0, 1, 2, 3]}, {"target_modules": r".*\.[0-3]\..*(q_proj|v_proj)"}):
        (folder / "adapter_config.json").write_text(json.dumps({**config, **choice}))
        assert admit(engine, f"short {sorted(choice)}", folder, BASE).proof == "differs"


@pytest.mark.parametrize("b", [1e-4, 0.01, 0.02, 0.04, 0.08, 0.2, 5.0])
def test_an_adapter_of_any_strength_keeps_its_passport_in_every_precision(
    tmp_path: Path, engine: Engine, b: float
) -> None:
    folder = make_adapter(tmp_path / f"sized {b}", b=b)
    give_passport(folder, engine)
    assert admit(engine, str(folder), folder, BASE).proof == "canaries"
    for dtype in ("bfloat16", "int8", "int8-weights", "int4-weights"):
        coarse = _engine(settings=EngineSettings(dtype=dtype, device="cpu"))
        assert admit(coarse, "it", folder, BASE).canaries is not None


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_another_base_of_equal_shape_is_refused(signed: Path, tmp_path: Path, noise: float) -> None:
    base = _other_base(tmp_path / "base", noise=noise)
    used = trained_as(load_task("rules"), Encoder.load(base), BaseFolder(base))
    with pytest.raises(AdapterError) as caught:
        admit(_engine(base), "rules", signed, base, used=used)
    assert "this is another base model than the passport's" in caught.value.message
    assert "was trained with base 'sha256:" in caught.value.message


@pytest.mark.parametrize("b", [0.02, 0.05])
def test_the_adapter_of_another_base_is_refused_in_bfloat16_too(tmp_path: Path, engine: Engine, b: float) -> None:
    folder = make_adapter(tmp_path / "a", b=b)
    give_passport(folder, engine)
    base = _other_base(tmp_path / "base", noise=1.0)
    with pytest.raises(AdapterError, match="another base model"):
        admit(_engine(base, settings=EngineSettings(dtype="bfloat16", device="cpu")), "a", folder, base)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("lora_alpha", 16, "lora_alpha 8 -> 16"),
        ("lora_alpha", 4, "lora_alpha 8 -> 4"),
        ("use_rslora", True, "use_rslora (none) -> true"),
        ("alpha_pattern", {"v_proj": 1}, 'alpha_pattern (none) -> {"v_proj": 1}'),
    ],
)
def test_an_altered_config_is_refused_and_named(
    signed: Path, tmp_path: Path, engine: Engine, key: str, value: object, says: str
) -> None:
    folder = _copy(signed, tmp_path / "altered")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(AdapterError) as caught:
        admit(engine, str(folder), folder, BASE)
    assert "the base answers as it should and the adapter does not" in caught.value.message
    assert says in caught.value.message


def test_altered_weights_are_refused(signed: Path, tmp_path: Path, engine: Engine) -> None:
    folder = make_adapter(_copy(signed, tmp_path / "altered"), seed=9)
    with pytest.raises(AdapterError, match="holds other weights than when the passport was made"):
        admit(engine, str(folder), folder, BASE)


@pytest.mark.parametrize("module", ["q_proj", "v_proj"])
def test_weights_that_are_no_numbers_are_refused_with_and_without_a_passport(
    signed: Path, tmp_path: Path, engine: Engine, module: str
) -> None:
    folder = _copy(signed, tmp_path / "nan")
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(each for each in sorted(weights) if f"{module}.lora_B" in each)
    weights[name][0, 0] = math.nan
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    for tried in ("with", "without"):
        with pytest.raises(AdapterError, match="NaN"):
            admit(engine, f"{folder} {tried}", folder, BASE)
        (folder / PASSPORT_NAME).unlink(missing_ok=True)


def test_no_passport_can_widen_what_is_accepted(signed: Path, tmp_path: Path, engine: Engine) -> None:
    folder = _copy(signed, tmp_path / "generous")
    passport = _passport(folder)
    everything = {"float32": Tolerance(absolute=1e9, relative=1e9)}
    canaries = msgspec.structs.replace(passport.canaries, tolerance=everything)
    write_passport(folder, msgspec.structs.replace(passport, canaries=canaries))
    with pytest.raises(AdapterError, match="answers as the base alone"):
        admit(Deaf(engine), "rules", folder, BASE)


def test_a_vocabulary_that_lacks_the_canaries_tokens_is_another_base(
    signed: Path, tmp_path: Path, engine: Engine
) -> None:
    folder = _copy(signed, tmp_path / "foreign")
    passport = _passport(folder)
    items = [msgspec.structs.replace(item, prompt=(10**6,)) for item in passport.canaries.items]
    canaries = msgspec.structs.replace(passport.canaries, items=tuple(items))
    write_passport(folder, msgspec.structs.replace(passport, canaries=canaries))
    with pytest.raises(AdapterError, match="token 1000000 is outside the model's vocabulary"):
        admit(engine, str(folder), folder, BASE)


def test_require_refuses_what_has_no_passport_and_off_asks_for_nothing(signed: Path, tmp_path: Path) -> None:
    tried = _engine()
    bare = make_adapter(tmp_path / "bare")
    with pytest.raises(AdapterError, match=r"no passport: bare; adapters\.gate=require"):
        admit_each(tried, {"bare": bare, "rules": signed}, BASE, policy="require")
    deaf = Deaf(tried)
    admitted = admit_each(deaf, {"bare": bare, "rules": signed}, BASE, policy="off")
    assert {one.proof for one in admitted.values()} == {"none"}
    assert not deaf.runs


def test_a_broken_passport_is_refused_unless_the_gate_is_off(signed: Path, tmp_path: Path, engine: Engine) -> None:
    folder = _copy(signed, tmp_path / "broken")
    (folder / PASSPORT_NAME).write_text("{}")
    with pytest.raises(AdapterError, match="not a passport"):
        admit(engine, str(folder), folder, BASE)
    assert admit(engine, str(folder), folder, BASE, policy="off").proof == "none"


@pytest.mark.parametrize("policy", ["auto", "off"])
def test_an_adapter_that_was_written_since_it_was_opened_is_refused(
    tmp_path: Path, engine: Engine, policy: Policy
) -> None:
    adapter = open_adapter(make_adapter(tmp_path / "a"))
    make_adapter(tmp_path / "a", seed=1)
    with pytest.raises(AdapterError, match=r"adapter 'written' .* was written while it was read"):
        admit_all(engine, {"written": adapter}, BaseFolder(BASE), policy=policy)
    engine.remove_adapter("written")


def test_many_adapters_are_proved_in_one_run_and_the_base_is_asked_once(tmp_path: Path, engine: Engine) -> None:
    folders = {}
    for number in range(5):
        folders[f"a{number}"] = make_adapter(tmp_path / f"a{number}", seed=number)
        give_passport(folders[f"a{number}"], engine)

    class Counting(Deaf):
        def run(self, requests: object, on_done: object = None, on_outputs: object = None) -> list[Output]:
            self.runs.append(len(requests))  # type: ignore[arg-type]
            return self._engine.run(requests)  # type: ignore[arg-type]

    counting = Counting(engine)
    admitted = admit_each(counting, folders, BASE)
    assert all(one.proof == "canaries" for one in admitted.values())
    (asked,) = counting.runs
    prompts = {item.prompt for folder in folders.values() for item in _passport(folder).canaries.items}
    assert asked == 5 * 8 + len(prompts)


def test_all_that_fail_are_named(signed: Path, tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(AdapterError, match="and 1 more: second"):
        admit_each(Deaf(engine), {"first": signed, "second": _copy(signed, tmp_path / "second")}, BASE)


def test_differences_of_use_are_told(signed: Path, engine: Engine) -> None:
    encoder = Encoder.load(BASE)
    used = trained_as(load_task("mcq"), encoder, BaseFolder(BASE))
    admission = admit(engine, "rules", signed, BASE, used={**used, "tokenizer": "sha256:other"})
    text = " ".join(admission.differences)
    assert "was trained with task 'rules', and is used with 'mcq'" in text
    assert "tokenizer" in text
    assert " base " not in text


def test_the_fake_engine_proves_nothing_and_is_asked_nothing(signed: Path) -> None:
    assert admit(FakeEngine(), "rules", signed, BASE).proof == "none"


def test_canaries_are_the_probes_that_tell_most_and_are_diverse(engine: Engine, signed: Path) -> None:
    encoder = Encoder.load(BASE)
    probes = shipped_probes(load_task("rules"), encoder, BaseFolder(BASE))
    engine.add_adapter("rules", open_adapter(signed))
    facts = make_canaries(engine, "rules", probes)
    again = make_canaries(_with(signed), "rules", list(probes))
    assert facts == again
    groups = {probe.id: probe.group for probe in probes}
    assert len({groups[item.id] for item in facts.items}) >= 3
    gaps = {
        item.id: max(abs(choice.adapter - choice.base) for choice in item.choices)
        for item in make_canaries(engine, "rules", probes, canary_count=len(probes)).items
    }
    assert facts.gap == max(gaps.values())
    assert run_canaries(engine, "rules", facts).outcome == "reproduced"


def _with(folder: Path) -> Engine:
    made = _engine()
    made.add_adapter("rules", open_adapter(folder))
    return made


def test_the_size_of_an_update_is_that_of_the_product(tmp_path: Path) -> None:
    adapter = open_adapter(make_adapter(tmp_path / "a", alpha=12))
    weights = load_file(adapter.weights)
    sizes = []
    for name, a in weights.items():
        if "lora_A" in name:
            product = 3.0 * weights[name.replace("lora_A", "lora_B")].astype("float64") @ a.astype("float64")
            sizes.append(float(np.sqrt((product**2).mean())))
    assert update_size(adapter) == pytest.approx(max(sizes), rel=1e-6)
