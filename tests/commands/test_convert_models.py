"""`lorica convert` of a model whose weights are a pickle, as DeBERTa v3 is published."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lorica.cli import main


def test_a_model_whose_weights_are_a_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As DeBERTa v3 is published. What a loader says of it leads to a folder that loads, with the same values."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from safetensors.torch import load_file as load_tensors

    from lorica.errors import ModelError
    from lorica.models.base_folder import BaseFolder
    from lorica.models.classifiers import new_classifier
    from tests.encoders import save_base

    source = save_base("deberta-v3", tmp_path / "a base")
    state = load_tensors(source / "model.safetensors")
    torch.save({name: tensor.half() for name, tensor in state.items()}, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    (source / "spm.model").write_bytes(b"sentences")
    with pytest.raises(ModelError, match="never loaded") as caught:
        new_classifier(BaseFolder(source), ["No", "Yes"], torch.float32, seed=0)
    command = re.search("`lorica (convert .*?) OUTPUT`", caught.value.fix)
    assert command is not None
    assert main(shlex.split(command[1])) == 0
    output = tmp_path / "a base-safetensors"
    assert "next: lorica train task=rules model.path=" in capsys.readouterr().out
    assert set({path.name for path in output.iterdir()}) >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "spm.model",
    }
    stored = load_tensors(output / "model.safetensors")
    assert all(torch.equal(stored[name], tensor.half()) for name, tensor in state.items())
    model = new_classifier(BaseFolder(output), ["No", "Yes"], torch.float32, seed=0).model
    loaded = model.deberta.state_dict()
    assert all(torch.equal(loaded[name], tensor.half().float()) for name, tensor in state.items() if name in loaded)


def test_a_model_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "deberta-v2"}')
    (source / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'echo'\ntR.")
    assert main(["convert", str(source), str(tmp_path / "out")]) == 4
    assert "posix.system" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
