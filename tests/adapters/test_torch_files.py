"""The reader of PyTorch's files against torch.load(weights_only=True): equal tensors of equal types in equal order."""

from __future__ import annotations

import collections
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lorica.adapters.convert import read_foreign, write_converted
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.torch_files import read_torch_file
from lorica.errors import AdapterError

torch = pytest.importorskip("torch")

KINDS = (
    "float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
)  # fmt: skip
NEW_KINDS = ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32")  # torch itself cannot load them from an old file


def values(kind: str, *shape: int) -> Any:
    generator = torch.Generator().manual_seed(len(kind) + sum(shape))
    raw = torch.randint(0, 100, shape, generator=generator)
    return raw.to(getattr(torch, kind)) if kind != "float16" else raw.to(torch.float32).div(7).to(torch.float16)


def views(kind: str) -> dict[str, Any]:
    """One storage seen in many ways."""
    whole = values(kind, 6, 8)
    flat = whole.reshape(-1)
    return {
        "whole": whole, "transposed": whole.t(), "rows": whole[2:5], "columns": whole[:, 1:7:2], "offset": flat[5:],
        "expanded": flat[:8].expand(3, 8), "scalar": flat[7], "empty": whole[:0], "three": whole.reshape(2, 3, 8),
        "permuted": whole.reshape(2, 3, 8).permute(2, 0, 1), "one": flat[3:4], "no columns": whole[:, 8:],
    }  # fmt: skip


def converted(path: Path) -> dict[str, Any]:
    output = path.parent / f"{path.name}-out"
    write_converted(read_foreign(path, b"{}"), output, {})
    found: dict[str, Any] = load_file(output / WEIGHTS_NAME)
    return found


def require_equal(path: Path) -> None:
    """The oracle."""
    expected = torch.load(path, weights_only=True)
    found = converted(path)
    assert list(read_torch_file(path).tensors) == list(expected)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert as_bytes(found[name]) == as_bytes(tensor)


def as_bytes(tensor: Any) -> Any:
    return tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8).tolist()


@pytest.mark.parametrize(
    ("kind", "zipped"), [*((kind, True) for kind in KINDS + NEW_KINDS), *((kind, False) for kind in KINDS)]
)
def test_every_type_in_every_view(kind: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save(views(kind), path, _use_new_zipfile_serialization=zipped)
    require_equal(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", range(1, 6))  # torch cannot load protocol 0 itself
def test_every_protocol(protocol: int, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    state = {"a": values("float32", 3, 4), "b": torch.nn.Parameter(values("bfloat16", 3).float())}
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = converted(path)  # torch's own restricted reader knows protocol 2 only
    assert {name: tensor.tolist() for name, tensor in found.items()} == {k: v.tolist() for k, v in state.items()}


def of_module() -> Any:
    """state_dict() keeps an attribute, which is pickled as the state of an OrderedDict."""
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)).state_dict()


def shared() -> Any:
    one = values("float32", 4)
    return {"a": one, "b": one, "c": one[1:]}


def trained() -> Any:
    parameter = torch.nn.Parameter(values("float32", 2, 3))
    return collections.OrderedDict(a=parameter, b=torch.nn.Parameter(parameter.detach(), requires_grad=False))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("make", [of_module, shared, trained, lambda: {"a": torch.zeros(0)}])
def test_what_models_save(make: Any, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save(make(), path, _use_new_zipfile_serialization=zipped)
    require_equal(path)


def test_random_views(tmp_path: Path) -> None:
    draw = random.Random(5)
    state = {}
    for number in range(120):
        dims = [draw.randint(1, 5) for _ in range(draw.randint(0, 4))]
        tensor = values(draw.choice(("float32", "bfloat16", "int8")), *dims)
        for _ in range(draw.randint(0, 3)):
            if tensor.dim():
                axis = draw.randrange(tensor.dim())
                tensor = tensor.narrow(axis, start := draw.randint(0, tensor.size(axis)), tensor.size(axis) - start)
                tensor = tensor.permute(draw.sample(range(tensor.dim()), tensor.dim()))
        if draw.random() < 0.3:
            tensor = tensor.unsqueeze(0).expand(draw.randint(1, 3), *tensor.shape)
        state[f"t{number}"] = tensor
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.bin"
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        require_equal(path)


def test_tensors_of_a_gpu_and_a_name_beyond_ascii(tmp_path: Path) -> None:
    """What is on the GPU says so in each storage; the name of the file stands in all names of the archive."""
    path = tmp_path / "ünï 適.bin"
    torch.save(views("float32"), path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "gpu.bin", "w") as new:
        for info in old.infolist():
            raw = old.read(info).replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
            new.writestr(info.filename, raw)
    require_equal(path)
    expected = torch.load(tmp_path / "gpu.bin", weights_only=True, map_location="cpu")
    found = converted(tmp_path / "gpu.bin")
    assert {name: value.tolist() for name, value in found.items()} == {k: v.tolist() for k, v in expected.items()}


def test_the_headers_own_name_is_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({"__metadata__": torch.ones(2)}, path)
    with pytest.raises(AdapterError, match="__metadata__"):
        converted(path)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "complex64", "int8"])
def test_numbers_with_their_high_bytes_first(kind: str, tmp_path: Path) -> None:
    state = {"a": values(kind, 3, 4), "t": values(kind, 3, 4).t()}
    torch.save(state, tmp_path / "little.bin")
    size = torch.empty(0, dtype=getattr(torch, kind)).element_size() // (2 if kind == "complex64" else 1)
    with zipfile.ZipFile(tmp_path / "little.bin") as old, zipfile.ZipFile(tmp_path / "big.bin", "w") as new:
        for info in old.infolist():
            raw = old.read(info)
            if info.filename.endswith("/byteorder"):
                raw = b"big"
            elif "/data/" in info.filename:
                raw = b"".join(raw[at : at + size][::-1] for at in range(0, len(raw), size))
            new.writestr(info.filename, raw)
    require_equal(tmp_path / "big.bin")
    assert all(converted(tmp_path / "little.bin")[name].tolist() == state[name].tolist() for name in state)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module"])
def test_tensors_under_a_key_are_taken_and_told(key: str, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({key: {"a": torch.ones(2)}, "epoch": 3, "losses": [1.5, None, "text"]}, path)
    conversion = read_foreign(path, b"{}")
    assert list(conversion.tensors) == ["a"]
    (note,) = conversion.notes
    assert key in note
    assert "epoch, losses" in note


NOT_STATES: dict[str, Any] = {
    "a list": [1, 2],
    "one tensor": lambda: torch.ones(2),
    "two groups": lambda: {"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}},
    "a number between tensors": lambda: {"a": torch.ones(1), "epoch": 3},
    "tensors without names": lambda: {0: torch.ones(1)},
    "nothing": {},
    "a sparse tensor": lambda: {"a": torch.ones(2).to_sparse()},
    "a quantised tensor": lambda: {"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
    "a tensor without values": lambda: {"a": torch.ones(2, device="meta")},
    "a conjugated view": lambda: {"a": torch.ones(2, dtype=torch.complex64).conj()},
    "wide complex numbers": lambda: {"a": torch.ones(2, dtype=torch.complex128)},
    "a set": {"a": {1, 2}},
}


@pytest.mark.parametrize("name", NOT_STATES)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_dict_of_plain_tensors_is_refused_by_name(name: str, tmp_path: Path) -> None:
    made = NOT_STATES[name]
    path = tmp_path / "adapter_model.bin"
    torch.save(made() if callable(made) else made, path)
    with pytest.raises(AdapterError) as caught:
        read_foreign(path, b"{}")
    assert str(path) in caught.value.message
    assert caught.value.fix


def test_what_torch_save_did_not_write(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(AdapterError, match=r"torch\.save did not write"):
        read_foreign(path, b"{}")


def test_views_that_unfold_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({"a": torch.ones(1).expand(2**40)}, path)
    with pytest.raises(AdapterError, match="unfold to more than"):
        read_foreign(path, b"{}")
    torch.save({f"a{n}": torch.ones(1).expand(2**22) for n in range(8)}, path)
    with pytest.raises(AdapterError, match="unfold to more than"):
        read_foreign(path, b"{}")


def test_a_compressed_or_damaged_archive(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({"a": torch.ones(300)}, path)
    packed = tmp_path / "packed.bin"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with pytest.raises(AdapterError, match="is compressed"):
        read_foreign(packed, b"{}")
    raw = bytearray(path.read_bytes())
    at = raw.find(b"\0\0\x80?" * 8)
    raw[at + 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(AdapterError, match="damaged zip archive"):
        read_foreign(path, b"{}")
