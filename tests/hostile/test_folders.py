"""Files that are missing, misnamed, no files at all, links out of the folder, pickles, and what lies beside."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hostile.folders import CONFIG, WEIGHTS, codes, examine, make_adapter

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


class Evil:
    """Would run a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, ("exit 1",)


def _move(folder: Path, name: str, to: str) -> None:
    (folder / name).rename(folder / to)


def _outside(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")


def _fifo(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def _directory(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


def _bound_socket(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(WEIGHTS)
    os.chdir(here)


def _replace(folder: Path, name: str, raw: bytes) -> None:
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(raw)


CASES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), ["L002"]),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), ["L003"]),
    "config in capitals": (lambda f: _move(f, CONFIG, "Adapter_Config.json"), ["L004"]),
    "weights in capitals": (lambda f: _move(f, WEIGHTS, "Adapter_Model.SafeTensors"), ["L004"]),
    "weights under another name": (lambda f: _move(f, WEIGHTS, "pytorch_lora_weights.safetensors"), ["L005"]),
    "in parts": (lambda f: _move(f, WEIGHTS, "adapter_model-00001-of-00002.safetensors"), ["L006"]),
    "only an index": (lambda f: _move(f, WEIGHTS, WEIGHTS + ".index.json"), ["L006"]),
    "weights are a folder": (lambda f: _directory(f, WEIGHTS), ["L007"]),
    "config is a folder": (lambda f: _directory(f, CONFIG), ["L007"]),
    "weights are a pipe": (lambda f: _fifo(f, WEIGHTS), ["L007"]),
    "config is a pipe": (lambda f: _fifo(f, CONFIG), ["L007"]),
    "weights are a socket": (_bound_socket, ["L007"]),
    "weights are a device": (lambda f: _replace_by_link(f, WEIGHTS, "/dev/zero"), ["L007"]),
    "weights lie elsewhere": (lambda f: _outside(f, WEIGHTS), ["L009"]),
    "config lies elsewhere": (lambda f: _outside(f, CONFIG), ["L009"]),
    "link to nothing": (lambda f: _replace_by_link(f, WEIGHTS, "nowhere"), ["L009"]),
    "link to itself": (lambda f: _replace_by_link(f, CONFIG, CONFIG), ["L009"]),
    "a pickle": (lambda f: _replace(f, "adapter_model.bin", pickle.dumps({"a": 1})), ["L012"]),
    "a pickle of another name": (lambda f: _replace(f, "lora.pt", pickle.dumps({"a": 1})), ["L012"]),
    "a pickle that runs code": (lambda f: _replace(f, "adapter_model.bin", pickle.dumps(Evil())), ["L013"]),
    "an old pickle that runs code": (lambda f: (f / WEIGHTS).write_bytes(pickle.dumps(Evil(), 0)), ["L013"]),
    "code beside good weights": (lambda f: (f / "adapter_model.bin").write_bytes(pickle.dumps(Evil())), ["L013"]),
    "a pointer named .bin": (lambda f: _replace(f, "adapter_model.bin", POINTER), ["L010"]),
    "GGUF": (lambda f: _replace(f, "adapter.gguf", b"GGUF\3\0\0\0" + bytes(50)), ["L011"]),
}


def _replace_by_link(folder: Path, name: str, target: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(target)


@pytest.mark.parametrize("case", CASES)
def test_spoilt_folders(case: str, tmp_path: Path) -> None:
    spoil, expected = CASES[case]
    folder = make_adapter(tmp_path / "adapter")
    spoil(folder)
    specimen, findings = examine(folder)
    assert codes(findings) == expected
    assert specimen is not None


def test_both_missing(tmp_path: Path) -> None:
    from lorica.vetting.files.check_files import examine_files
    from lorica.vetting.files.sources import AdapterSource

    (tmp_path / "notes.txt").write_text("nothing")
    specimen, findings = examine_files(AdapterSource(name="x", user_path=tmp_path, kind="folder", path=tmp_path))
    assert specimen is None
    assert codes(findings) == ["L001"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_unreadable_files(name: str, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    (folder / name).chmod(0)
    assert codes(examine(folder)[1]) == ["L008"]


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    _move(folder, WEIGHTS, "real.dat")
    (folder / WEIGHTS).symlink_to("real.dat")
    assert examine(folder)[1] == []


def test_what_lies_beside_is_listed_and_never_read(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", "x.pkl", "modeling.py", "kernel.so"):
        (folder / name).write_bytes(pickle.dumps(Evil()))
    (folder / "sub").mkdir()
    (folder / "sub" / "deep.py").write_text("raise SystemExit")
    _, (found,) = examine(folder)
    assert (found.code, found.severity) == ("L014", "note")
    assert len(found.facts["files"]) == 7
    assert "sub/deep.py" in found.facts["files"]


def test_weights_that_are_there_twice(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"a": 1}))
    assert [(each.code, each.severity) for each in examine(folder)[1]] == [("L015", "note")]


DOCUMENTS = {
    "broken record": ("training.json", b"{", "L070", "warn"),
    "nested": ("lorica.json", b"[" * 100_000, "L070", "warn"),
    "too large": ("trainer_state.json", b" " * (16 * 2**20 + 1), "L071", "note"),
    "pointer of the tokenizer": ("tokenizer.json", POINTER, "L010", "warn"),
    "pointer of the tokenizer's notes": ("tokenizer_config.json", POINTER, "L010", "warn"),
    "card in another encoding": ("README.md", b"\xff\x00caf\xe9", "L072", "note"),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_broken_document_spoils_nothing_else(case: str, tmp_path: Path) -> None:
    name, raw, code, severity = DOCUMENTS[case]
    folder = make_adapter(tmp_path / "adapter")
    (folder / name).write_bytes(raw)
    (folder / "generation_config.json").write_bytes(b'{"temperature": NaN}')
    specimen, findings = examine(folder)
    assert [(each.code, each.severity, each.file) for each in findings] == [(code, severity, name)]
    assert specimen is not None
    assert specimen.header is not None
    assert list(specimen.documents) == ["generation_config.json"]


def test_a_pipe_among_the_documents_does_not_block(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    for name in ("README.md", "trainer_state.json", "tokenizer.json"):
        os.mkfifo(folder / name)
    specimen, findings = examine(folder)
    assert specimen is not None
    assert all(each.severity != "reject" for each in findings)


def test_the_strict_readers_do_not_block_on_a_pipe_either(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lorica.adapters.folder import open_adapter;"
        "from lorica.errors import AdapterError\n"
        "try: open_adapter(Path(sys.argv[1]))\nexcept AdapterError as error: print(error)"
    )
    for name in (CONFIG, WEIGHTS):
        folder = make_adapter(tmp_path / name)
        _fifo(folder, name)
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60, check=False
        )
        assert "pipe" in done.stdout, done
