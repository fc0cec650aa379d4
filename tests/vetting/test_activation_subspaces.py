"""How directions are collected fast: each short way against its long one, and what is kept on disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from tests.shapes import TINY  # noqa: E402
from torch import Tensor  # noqa: E402

from lorica.models.decoder import Decoder  # noqa: E402
from lorica.models.locate import locate_model  # noqa: E402
from lorica.models.packed_attention import PackedAttention  # noqa: E402
from lorica.models.upcast import multiply_in_float32  # noqa: E402
from lorica.vetting.base import (  # noqa: E402
    collect_subspaces,
    subspace_cache,
)
from lorica.vetting.base.activation_subspaces import (  # noqa: E402
    ActivationSubspaces,
    Array,
    Subspace,
    empty_subspace,
    principal_subspace,
)
from lorica.vetting.base.layer_consistency import outlier_layers  # noqa: E402


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORICA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(collect_subspaces, "LARGE_FILES", 0)
    return tmp_path / "cache" / "directions"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return shutil.copytree(locate_model("embedded:lorica_tiny", environ={}), tmp_path / "base")


def _energy(rows: Array, subspace: Subspace) -> Array:
    energy: Array = (np.square(rows @ subspace.vectors.T) * np.sqrt(subspace.energies)).sum(1)
    return energy


def test_subspace_iteration_finds_the_leading_directions_of_a_large_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, 801).float() ** -0.7  # falls slowly, as activations' spectra do
    turned = torch.linalg.qr(torch.randn(800, 800, generator=generator)).Q
    x = torch.randn(900, 800, generator=generator) * spectrum @ turned
    fast = principal_subspace(x, max_directions=256)
    _, values, axes = torch.linalg.svd(x / x.square().mean().sqrt(), full_matrices=False)
    exact = Subspace(axes[:256].numpy(), (values[:256].square() / len(x)).numpy(), 0.0)
    assert fast is not None
    assert fast.energies[:100] == pytest.approx(exact.energies[:100], rel=0.01)
    assert fast.vectors @ fast.vectors.T == pytest.approx(np.eye(256), abs=1e-3)
    rows = np.random.default_rng(1).normal(size=(20, 800)).astype(np.float32)
    assert _energy(rows, fast) == pytest.approx(_energy(rows, exact), rel=0.03)


def test_layers_are_linked_alike_by_rows_and_by_second_moments() -> None:
    rng = np.random.default_rng(0)
    own, other = rng.normal(size=(2, 40, 64)).astype(np.float32) * 3
    for rows in (20, 90):  # fewer than columns, and more

        def node(shared: Array, rows: int = rows) -> Array:
            mixed = rng.normal(size=(rows, 40)).astype(np.float32) @ shared
            return np.asarray(mixed / np.linalg.norm(mixed), np.float32)

        parts = {layer: node(other if layer == 2 else own) for layer in range(-1, 6)}
        assert outlier_layers(parts) == (2,)


def test_a_bfloat16_decoder_is_multiplied_in_float32_with_its_gradients() -> None:
    torch.manual_seed(0)
    config = replace(TINY, layers=2, windows=(None,) * 2)
    exact = Decoder(config).bfloat16().requires_grad_(False)
    upcast = multiply_in_float32(Decoder(config).bfloat16().requires_grad_(False))
    upcast.load_state_dict(exact.state_dict())
    exact.float()
    tokens, positions = torch.arange(7) + 1, torch.arange(7)
    found = []
    for decoder in (exact, upcast):
        handle = decoder.model.embed_tokens.register_forward_hook(lambda _, __, out: out.requires_grad_())
        gradients: list[Tensor] = []

        def watch(_: object, __: object, out: Tensor, gradients: list[Tensor] = gradients) -> None:
            out.register_hook(gradients.append)  # type: ignore[no-untyped-call]

        decoder.get_submodule("model.layers.0.self_attn.v_proj").register_forward_hook(watch)
        logits = decoder.logits(decoder.hidden(tokens, positions, PackedAttention([7], config)))
        logits.square().sum().backward()  # type: ignore[no-untyped-call]
        handle.remove()
        found.append((logits.detach(), gradients[0]))
    assert found[1][0].dtype == torch.float32
    assert upcast.get_parameter("model.layers.0.mlp.up_proj.weight").dtype == torch.bfloat16
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def _same(one: ActivationSubspaces, two: ActivationSubspaces) -> bool:
    sides = ((one.inputs, two.inputs), (one.outputs, two.outputs))
    return all(
        first.keys() == second.keys()
        and all(np.array_equal(first[path].vectors, second[path].vectors) for path in first)
        and all(np.array_equal(first[path].energies, second[path].energies) for path in first)
        for first, second in sides
    ) and repr(replace(one, inputs={}, outputs={})) == repr(replace(two, inputs={}, outputs={}))  # NaN equals no NaN


def test_directions_of_a_large_base_are_kept_on_disk_under_its_digest(base: Path, cache: Path) -> None:
    first = collect_subspaces.collect_subspaces(base)
    assert len(list(cache.iterdir())) == 1
    stored = subspace_cache.load(subspace_cache.base_key(base), base)
    assert stored is not None
    assert _same(first, stored)
    weights = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][5, 5] += 1  # one value in the middle of the file
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert not _same(first, collect_subspaces.collect_subspaces(base))
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("name", ["config.json", "special_tokens_map.json"])
def test_directions_are_collected_again_when_a_file_beside_the_weights_changes(name: str, base: Path) -> None:
    first, key = collect_subspaces.collect_subspaces(base), subspace_cache.base_key(base)
    assert collect_subspaces.collect_subspaces(base) is first
    raw = json.loads((base / name).read_text("utf-8")) if (base / name).is_file() else {}
    raw |= {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0}}
    (base / name).write_text(json.dumps(raw), "utf-8")
    assert collect_subspaces.collect_subspaces(base) is not first
    assert subspace_cache.base_key(base) != key


def test_a_user_without_a_home_folder_keeps_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LORICA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    small = ActivationSubspaces(base, {"a": empty_subspace(4)}, {"b": empty_subspace(6)}, {"a": 1.0}, 4, 2)
    subspace_cache.save("key", small)
    assert subspace_cache.load("key", base) is None


def test_vectors_that_are_no_numbers_have_no_directions_and_tiny_ones_have() -> None:
    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    usual = principal_subspace(x)
    assert usual is not None
    for factor in (1e-30, 1e30):
        scaled = principal_subspace(x * factor)
        assert scaled is not None
        assert scaled.energies == pytest.approx(usual.energies, rel=1e-3)
    x[3, 4] = torch.nan
    assert principal_subspace(x) is None


def test_a_damaged_or_unwritable_cache_is_no_error(base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = subspace_cache.base_key(base)
    small = ActivationSubspaces(base, {"a": empty_subspace(4)}, {"b": empty_subspace(6)}, {"a": 1.0}, 4, 2)
    subspace_cache.save(key, small)
    (file,) = cache.iterdir()
    for damaged in (b"", b"\0" * 100, file.read_bytes()[:-1] if file.stat().st_size else b""):
        file.write_bytes(damaged)
        assert subspace_cache.load(key, base) is None
    monkeypatch.setenv("LORICA_CACHE_DIR", str(file))  # a file where a folder is meant
    subspace_cache.save(key, small)
    assert subspace_cache.load(key, base) is None


def test_the_least_recently_used_go_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subspace_cache, "MAX_BYTES", 3000)
    subspace = Subspace(np.zeros((2, 200), np.float32), np.ones(2, np.float32), 0.5)
    for key in ("one", "two", "three", "four"):
        subspace_cache.save(key, ActivationSubspaces(Path(), {"a": subspace}, {}, {}, 4, 2))
        if key != "one":
            assert subspace_cache.load("one", Path()) is not None  # in use
    kept = {path.stem for path in cache.iterdir()}
    assert "one" in kept
    assert "four" in kept
    assert len(kept) < 4
