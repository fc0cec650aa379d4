"""L2: healthy values of every legal kind pass, each kind of broken value is named, measures agree with numpy's SVD."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.vetting.numbers_fixtures import Arrays, change, factors, healthy, specimen, write
from tests.vetting.specimens import codes_between

from lorica.adapters.config import AdapterConfig
from lorica.adapters.header import header_bytes
from lorica.vetting.findings import Finding, causes
from lorica.vetting.numbers.check_numbers import WeightStatistics, check_numbers
from lorica.vetting.numbers.module_updates import ModuleUpdate, module_update, scalings
from lorica.vetting.numbers.scan import scan


def check(
    folder: Path, arrays: Arrays, *, dtype: str = "F32", config: AdapterConfig | None = None
) -> tuple[WeightStatistics, dict[str, Finding]]:
    """Write, read, judge: numbers, and findings by code."""
    numbers, findings = check_numbers(*specimen(write(folder, arrays, dtype=dtype, config=config)))
    assert len({each.code for each in findings}) == len(findings), "one finding for each kind of problem"
    return numbers, {each.code: each for each in findings}


def qv(rank: int = 8, alpha: float = 16, *, rslora: bool = False, dora: bool = False) -> AdapterConfig:
    """A config for the fixtures' adapters."""
    return AdapterConfig(
        r=rank, lora_alpha=alpha, use_rslora=rslora, use_dora=dora, target_modules=["q_proj", "v_proj"]
    )


def module_updates(folder: Path, scale: float) -> dict[str, ModuleUpdate]:
    """What was measured of each module's update."""
    adapter, tensor_map = specimen(folder)
    assert adapter.weights is not None
    updates: dict[str, ModuleUpdate] = {}
    scan(adapter.weights, tensor_map, lambda module, a, b: updates.update({module.path: module_update(a, b, scale)}))
    return updates


def test_measures_agree_with_numpy(tmp_path: Path) -> None:
    arrays = healthy(rank=5)
    numbers, found = check(tmp_path, arrays, config=qv(5, 20))
    assert not found
    updates = module_updates(tmp_path, 4.0)
    assert len(updates) == 12
    for name in factors(arrays, "A"):
        a, b = arrays[name].astype(np.float64), arrays[name.replace("lora_A", "lora_B")].astype(np.float64)
        update = updates[name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")]
        assert update.norm == pytest.approx(np.linalg.norm(4.0 * b @ a), rel=1e-4)
        inputs = np.random.default_rng(1).standard_normal((64, 4000))
        assert update.gain == pytest.approx((4.0 * b @ a @ inputs).std(), rel=0.05)
    assert numbers.norm == pytest.approx(sum(update.norm**2 for update in updates.values()) ** 0.5)


HEALTHY: dict[str, Callable[[], tuple[Arrays, str, AdapterConfig | None]]] = {
    "rank 1": lambda: (healthy(rank=1), "F32", None),
    "rank 64": lambda: (healthy(rank=64), "F32", None),
    "bf16": lambda: (healthy(), "BF16", None),
    "f16": lambda: (healthy(), "F16", None),
    "fp8 e4m3": lambda: (change(healthy(), "B", lambda x: x * 4), "F8_E4M3", None),
    "fp8 e5m2": lambda: (healthy(), "F8_E5M2", None),
    "pruned": lambda: (
        change(
            change(healthy(inputs=640), "A", lambda x: x * (abs(x) > np.quantile(abs(x), 0.9))),
            "B", lambda x: x * (abs(x) > np.quantile(abs(x), 0.98)),
        ), "BF16", None,  # the largest are kept; of numbers dropped at random the others must grow (test_sparse.py)
    ),
    "ranks padded": lambda: (
        change(change(healthy(inputs=640), "A", lambda x: x * (np.arange(8) < 5)[:, None]), "B",
               lambda x: x * (np.arange(8) < 5)), "F32", None,
    ),
    "one layer": lambda: (healthy(layers=1), "F32", None),
    "tiny but real B": lambda: (change(healthy(), "B", lambda x: x * 2e-3), "F32", None),
    "tiny but real B in f16": lambda: (change(healthy(), "B", lambda x: x * 4e-3), "F16", None),
    "one step of Adam": lambda: (change(healthy(), "B", lambda x: np.sign(x) * 1e-4), "BF16", None),
    "alpha 512": lambda: (healthy(), "F32", qv(8, 512)),
    "rslora": lambda: (healthy(), "F32", qv(8, 64, rslora=True)),
    "gaussian start, rank 1": lambda: (change(healthy(rank=1), "A", lambda x: x * 14), "F32", None),
    "heavy tails": lambda: (
        change(healthy(), "B", lambda x: x * np.exp(3 * np.sin(np.arange(96)))[:, None]), "F32", None,
    ),
    "outputs without an update": lambda: (
        change(healthy(outputs=512), "B", lambda x: x * (np.arange(512) < 300)[:, None]), "F32", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_values_pass(kind: str, tmp_path: Path) -> None:
    arrays, dtype, config = HEALTHY[kind]()
    arrays = {name: x.astype(np.float32) for name, x in arrays.items()}
    _, found = check(tmp_path, arrays, dtype=dtype, config=config)
    assert not [each for each in found.values() if each.severity != "note"], found


def one(arrays: Arrays, half: str, how: Callable[[np.ndarray], np.ndarray]) -> Arrays:
    """The same with the third A or B changed."""
    name = factors(arrays, half)[2]
    return {**arrays, name: np.ascontiguousarray(how(arrays[name].copy()), np.float32)}


def put(value: float, *places: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """A change that sets single values."""

    def change_it(x: np.ndarray) -> np.ndarray:
        for place in places:
            x[place] = value
        return x

    return change_it


def test_a_slight_update_under_a_scale_that_nobody_trains_with_is_a_warning(tmp_path: Path) -> None:
    slight = change(healthy(), "B", lambda x: x * 2e-3)
    _, found = check(tmp_path / "as it was", slight)
    assert "L212" not in found or found["L212"].severity == "note"
    _, found = check(tmp_path / "alpha", change(slight, "B", lambda x: x * 1000), config=qv(8, 0.01))
    assert found["L212"].severity == "warn", found
    _, found = check(tmp_path / "made up for", change(slight, "B", lambda x: x * 1e5), config=qv(8, 0.01))
    assert "L212" not in found


def overwrite(x: np.ndarray, raw: bytes) -> np.ndarray:
    """The same with bytes put into its middle."""
    whole = bytearray(x.tobytes())
    start = len(whole) // 3
    whole[start : start + len(raw)] = raw
    return np.frombuffer(bytes(whole[: x.nbytes]), np.float32).reshape(x.shape)


def copied(arrays: Arrays, halves: str) -> Arrays:
    """Layer 1's q_proj in layer 4's place."""
    found = dict(arrays)
    for half in halves:
        found[factors(arrays, half)[8]] = arrays[factors(arrays, half)[2]]
    return found


BROKEN: dict[str, tuple[Callable[[], Arrays], str, str]] = {
    "one NaN": (lambda: one(healthy(), "A", put(np.nan, (1, 2))), "L200", "reject"),
    "one infinity": (lambda: one(healthy(), "B", put(np.inf, (1, 2))), "L200", "reject"),
    "bytes swapped": (lambda: change(healthy(), "B", lambda x: x.byteswap()), "L201", "reject"),
    "shifted by a byte": (
        lambda: change(healthy(), "A", lambda x: np.roll(x.view(np.uint8), 1).view(np.float32)), "L201", "reject",
    ),
    "constant A": (lambda: one(healthy(), "A", lambda x: x * 0 + 0.01), "L204", "reject"),
    "one constant row": (lambda: one(healthy(), "A", put(0.01, *((3, i) for i in range(64)))), "L205", "warn"),
    "rows repeated": (lambda: one(healthy(), "A", lambda x: x[[0, 1, 2, 3, 0, 1, 2, 3]]), "L205", "warn"),
    "a flipped bit": (lambda: one(healthy(), "A", put(1e30, (0, 0))), "L207", "reject"),
    "one value far out": (lambda: one(healthy(), "B", put(200.0, (7, 1))), "L207", "reject"),
    "one value out": (lambda: one(healthy(), "B", put(1.5, (7, 1))), "L207", "warn"),
    "a layer copied": (lambda: copied(healthy(), "AB"), "L208", "reject"),
    "A copied to another layer": (lambda: copied(healthy(), "A"), "L209", "warn"),
    "B zero": (lambda: change(healthy(), "B", lambda x: x * 0), "L210", "reject"),
    "A zero": (lambda: change(healthy(), "A", lambda x: x * 0), "L210", "reject"),
    "B next to zero": (lambda: change(healthy(), "B", lambda x: x * 1e-8), "L210", "reject"),
    "one B zero": (lambda: one(healthy(), "B", lambda x: x * 0), "L211", "warn"),
    "B very small": (lambda: change(healthy(), "B", lambda x: x * 1e-5), "L212", "warn"),
    "B very large": (lambda: change(healthy(), "B", lambda x: x * 2e3), "L214", "warn"),
    "B absurdly large": (lambda: change(healthy(), "B", lambda x: x * 3e5), "L214", "reject"),
    "one layer large": (lambda: one(healthy(), "B", lambda x: x * 200), "L215", "warn"),
    "A tiny": (lambda: change(healthy(), "A", lambda x: x * 1e-6), "L216", "warn"),
    "bytes of one value": (
        lambda: one(healthy(inputs=640), "A", lambda x: overwrite(x, b"\xcc" * 2048)), "L203", "reject",
    ),
    "a page of text": (
        lambda: one(healthy(inputs=640), "A", lambda x: overwrite(x, b"<html>504 Gateway Time-out</html>\n" * 60)),
        "L201", "reject",
    ),
    "random bytes": (
        lambda: one(healthy(inputs=640), "B", lambda x: overwrite(x, np.random.default_rng(0).bytes(512))),
        "L201", "reject",
    ),
    "a hole": (lambda: one(healthy(inputs=640), "A", put(0.0, *((2, i) for i in range(50, 400)))), "L203", "reject"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_values_are_named(kind: str, tmp_path: Path) -> None:
    make, code, severity = BROKEN[kind]
    _, found = check(tmp_path, make())
    assert code in found, found
    assert found[code].severity == severity
    assert found[code].file == "adapter_model.safetensors"
    assert found[code].seen.isprintable()


def test_16_bit_types_read_as_one_another(tmp_path: Path) -> None:
    for right, wrong in (("BF16", "F16"), ("F16", "BF16")):
        folder = write(tmp_path / wrong, healthy(), dtype=right)
        weights = folder / "adapter_model.safetensors"
        renamed = f'"{wrong}"'.encode(), f'"{right}"'.encode()
        shapes = {name: (wrong, x.shape) for name, x in healthy().items()}
        old = header_bytes({name: (right, x.shape) for name, x in healthy().items()}, {"format": "pt"})[0]
        weights.write_bytes(header_bytes(shapes, {"format": "pt"})[0] + weights.read_bytes()[len(old) :])
        assert renamed[0] in weights.read_bytes()
        _, found = check_numbers(*specimen(folder))
        assert "reject" in {each.severity for each in found}, (wrong, found)


@pytest.mark.parametrize("share", [0.95, 0.6, 0.3])
def test_a_file_that_ends_in_zeros(share: float, tmp_path: Path) -> None:
    folder = write(tmp_path, healthy(inputs=256, outputs=256))
    weights = folder / "adapter_model.safetensors"
    raw = weights.read_bytes()
    cut = int(len(raw) * share) // 4096 * 4096 + 4  # off the rows' boundaries
    weights.write_bytes(raw[:cut] + bytes(len(raw) - cut))
    _, findings = check_numbers(*specimen(folder))
    assert "L202" in {each.code for each in findings}


def test_values_clipped_at_the_type(tmp_path: Path) -> None:
    _, found = check(tmp_path, one(healthy(), "B", put(65504.0, (1, 1), (2, 2))), dtype="F16")
    assert found["L206"].facts["values"] == 2


def test_small_values_lost_in_fp8(tmp_path: Path) -> None:
    _, found = check(tmp_path, change(healthy(), "B", lambda x: x * 0.15), dtype="F8_E4M3")
    assert found["L217"].severity in ("note", "warn")
    _, found = check(tmp_path, change(healthy(), "B", lambda x: x * 1e-3), dtype="F8_E4M3")
    assert found["L210"].severity == "reject"


def test_saved_modules_act_without_an_update(tmp_path: Path) -> None:
    arrays = change(healthy(), "B", lambda x: x * 0)
    arrays["base_model.model.lm_head.modules_to_save.weight"] = np.ones((4, 4), np.float32)
    _, found = check(tmp_path, arrays)
    assert found["L210"].severity == "warn"


def test_a_saved_head_of_zeros(tmp_path: Path) -> None:
    arrays = healthy()
    arrays["base_model.model.score.modules_to_save.weight"] = np.zeros((2, 64), np.float32)
    _, found = check(tmp_path, arrays)
    assert found["L204"].severity == "reject"


def test_experts_that_no_token_reached(tmp_path: Path) -> None:
    arrays = {name.replace("self_attn", "mlp.experts.3"): x for name, x in healthy().items()}
    _, found = check(tmp_path, one(arrays, "B", lambda x: x * 0))
    assert found["L211"].severity == "note"


def test_an_embedding_adapted_for_few_tokens(tmp_path: Path) -> None:
    arrays = healthy()
    a = np.zeros((8, 5000), np.float32)
    a[:, 70:90] = 1e-4
    a[::2, 70:90] *= -3
    arrays["base_model.model.model.embed_tokens.lora_embedding_A"] = a
    arrays["base_model.model.model.embed_tokens.lora_embedding_B"] = (
        np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    )
    _, found = check(tmp_path, arrays)
    assert not [each for each in found.values() if each.severity != "note"], found
    assert "model.embed_tokens" in module_updates(tmp_path, 1.0)


def test_dora_magnitudes(tmp_path: Path) -> None:
    arrays = healthy()
    names = [name.replace("lora_A.weight", "lora_magnitude_vector") for name in factors(arrays, "A")]
    draw = np.random.default_rng(0)
    right: Arrays = {name: draw.uniform(0.5, 2, 96).astype(np.float32) for name in names}
    assert not check(tmp_path, arrays | right, config=qv(dora=True))[1]
    zero: Arrays = {name: np.zeros(96, np.float32) for name in names}
    assert check(tmp_path, arrays | zero, config=qv(dora=True))[1]["L220"].severity == "reject"
    ones: Arrays = {name: np.ones(96, np.float32) for name in names}
    assert check(tmp_path, arrays | ones, config=qv(dora=True))[1]["L220"].severity == "warn"


def test_the_digest_does_not_depend_on_the_order_in_the_file(tmp_path: Path) -> None:
    arrays = healthy()
    first, _ = check(tmp_path / "a", arrays)
    folder = write(tmp_path / "b", arrays)
    # Another writer: no alignment, other metadata, tensors in the opposite order.
    import json
    import struct

    entries, body = {}, b""
    for name in reversed(arrays):
        raw = arrays[name].tobytes()
        entries[name] = {
            "dtype": "F32",
            "shape": list(arrays[name].shape),
            "data_offsets": [len(body), len(body + raw)],
        }
        body += raw
    text = json.dumps(entries).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    second, _ = check_numbers(*specimen(folder))
    assert (first.weights_digest, first.content_digest) == (second.weights_digest, second.content_digest)
    np.testing.assert_allclose(np.frombuffer(first.sketch, "<f4"), np.frombuffer(second.sketch, "<f4"), atol=1e-6)
    other, _ = check(tmp_path / "c", arrays, config=qv(8, 17))
    assert other.weights_digest == first.weights_digest
    assert other.content_digest != first.content_digest


def test_numbers_travel_between_processes(tmp_path: Path) -> None:
    numbers, _ = check(tmp_path, healthy())
    assert pickle.loads(pickle.dumps(numbers)) == numbers
    assert len(pickle.dumps(numbers)) < 4000


def test_scalings_are_those_of_the_config() -> None:
    modules = [f"model.layers.{i}.{part}" for i in range(12) for part in ("self_attn.q_proj", "mlp.up_proj")]
    config = AdapterConfig(
        r=8, lora_alpha=16,
        rank_pattern={"^model.layers.1.mlp.up_proj": 4, "layers.1.mlp.up_proj": 2, "q_proj": 16},
        alpha_pattern={"layers.11.self_attn.q_proj": 3, "q_proj": 5.5},
    )  # fmt: skip
    for chosen in (config, qv(), qv(8, 4, rslora=True)):
        found, known = scalings(chosen, modules)
        assert known
        assert found == pytest.approx({module: chosen.scaling(module) for module in modules})
    assert scalings(AdapterConfig(alpha_pattern={"q_(proj|x)+": 3}), modules)[1] is False
    assert scalings(None, modules) == (dict.fromkeys(modules, 1.0), False)


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    found, layout = specimen(write(tmp_path, healthy()))
    assert found.weights is not None
    found.weights.write_bytes(found.weights.read_bytes()[:-100])
    _, findings = check_numbers(found, layout)
    assert [each.code for each in findings] == ["L221"]


def test_no_torch_is_needed() -> None:
    code = "import sys, lorica.vetting.numbers.duplicates; print(sorted({'torch', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_codes_name_known_causes() -> None:
    assert {cause for code in codes_between("L200", "L299").values() for cause in code.causes} <= set(causes())


def test_one_module_of_four_layers_stands_out(tmp_path: Path) -> None:
    """Of so few layers, the largest must not hide in the spread it makes itself."""
    arrays = healthy(layers=4)
    # Layers that differ much from one another, as some trainings leave them.
    for layer, factor in enumerate((0.1, 1.0, 3.0, 3.0)):
        arrays[f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_B.weight"] *= factor
    assert "L215" not in check(tmp_path / "varied", arrays)[1]
    arrays["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"] *= 300
    assert "L215" in check(tmp_path / "one", arrays)[1]
