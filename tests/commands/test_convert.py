"""`lorica convert` on the command line: what it writes, what it leaves alone, and that its advice leads on."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorica.adapters.folder import open_adapter
from lorica.cli import main
from tests.vetting.numbers_fixtures import healthy, write

WEIGHTS, CONFIG, PICKLE = "adapter_model.safetensors", "adapter_config.json", "adapter_model.bin"
MLX = {"fine_tune_type": "lora", "num_layers": 2, "model": "mlx/B", "lora_parameters": {"rank": 8, "scale": 2.0}}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pickled(folder: Path, arrays: Any = None) -> Path:
    """A sound adapter of PEFT, saved as PEFT once did."""
    torch = pytest.importorskip("torch")
    write(folder, healthy(layers=2))
    (folder / WEIGHTS).unlink()
    arrays = healthy(layers=2) if arrays is None else arrays
    torch.save({name: torch.from_numpy(values) for name, values in arrays.items()}, folder / PICKLE)
    return folder


def mlx(folder: Path, name: str = "adapters.safetensors", config: Any = MLX) -> Path:
    folder.mkdir()
    arrays: dict[str, Any] = {}
    for name_in_peft, values in healthy(layers=2).items():
        stem = name_in_peft.removeprefix("base_model.model.").removesuffix(".weight")
        arrays[stem.replace("lora_A", "lora_a").replace("lora_B", "lora_b")] = np.ascontiguousarray(values.T)
    if name.endswith(".npz"):
        np.savez(folder / name, **arrays)
    else:
        save_file(arrays, folder / name)
    if config is not None:
        (folder / CONFIG).write_text(json.dumps(config))
    return folder


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_a_pickle_becomes_the_folder_that_peft_would_save(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = write(tmp_path / "expected", healthy(layers=2))
    source = pickled(tmp_path / "source")
    for name in ("README.md", "tokenizer.json", "training_args.bin"):
        (source / name).write_text("beside")
    before = contents(source)
    assert main(["convert", str(source), str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tensors"] == 8
    assert said["dtypes"] == {"F32": 8}
    assert (said["config"], said["copied"]) == ("copied", ["README.md", "tokenizer.json"])
    assert contents(source) == before
    made = contents(tmp_path / "out")
    assert made[WEIGHTS] == (expected / WEIGHTS).read_bytes()
    assert made[CONFIG] == before[CONFIG]
    assert set(made) == {WEIGHTS, CONFIG, "README.md", "tokenizer.json"}
    assert main(["check", str(tmp_path / "out")]) in (0, 10)


def test_without_an_output_it_goes_beside_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pickled(tmp_path / "source")
    monkeypatch.chdir(source)
    assert main(["convert", "."]) == 0
    assert open_adapter(tmp_path / "source-peft").config.r == 8


def test_other_faults_are_seen_once_it_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = healthy(layers=2)
    first = next(iter(arrays))
    arrays[first][0, 0] = np.nan
    source = pickled(tmp_path / "source", arrays)
    assert main(["check", str(source), "--json"]) == 11
    (hit,) = [each for each in json.loads(capsys.readouterr().out)["adapters"][0]["findings"] if each["code"] == "L012"]
    assert "lorica convert" in hit["fix"]
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["check", str(tmp_path / "out"), "--json"]) == 11
    assert "NaN" in capsys.readouterr().out


def test_the_advice_of_a_loader_leads_on(tmp_path: Path) -> None:
    from lorica.errors import AdapterError

    source = pickled(tmp_path / "a source")
    with pytest.raises(AdapterError) as caught:
        open_adapter(source)
    command = re.search("`lorica (convert .*?)`", caught.value.fix)
    assert command is not None
    import shlex

    assert main(shlex.split(command[1])) == 0
    assert open_adapter(tmp_path / "a source-peft").config.r == 8


def test_a_pickle_under_the_name_of_safetensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lorica.errors import AdapterError

    source = pickled(tmp_path / "source")
    (source / PICKLE).rename(source / WEIGHTS)
    with pytest.raises(AdapterError) as caught:
        open_adapter(source)
    assert "lorica convert" in caught.value.fix
    assert main(["check", str(source)]) == 11
    assert "lorica convert" in capsys.readouterr().out
    for number, given in enumerate((source, source / WEIGHTS, source / CONFIG)):
        assert main(["convert", str(given), str(tmp_path / str(number))]) == 0
        assert open_adapter(tmp_path / str(number)).config.r == 8


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_what_peft_itself_saves_as_a_pickle(tmp_path: Path) -> None:
    """The two ways in which PEFT saves one model, DoRA, a saved head and an embedding with it, are the same one."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForSequenceClassification

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    base = LlamaForSequenceClassification(LlamaConfig(vocab_size=32, num_hidden_layers=2, **shape))
    config = peft.LoraConfig(r=2, use_dora=True, task_type="SEQ_CLS", target_modules=["q_proj", "embed_tokens"])
    model = peft.get_peft_model(base, config)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "safe", save_embedding_layers=False)
    model.save_pretrained(tmp_path / "source", safe_serialization=False, save_embedding_layers=False)
    assert (tmp_path / "source" / PICKLE).exists()
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "out")]) == 0
    expected, found = (load_file(tmp_path / name / WEIGHTS) for name in ("safe", "out"))
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert len(found) > 6


@pytest.mark.parametrize("name", ["adapters.safetensors", "adapters.npz", WEIGHTS, "0000100_adapters.safetensors"])
def test_mlx_is_converted_and_checked(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = mlx(tmp_path / "mlx", name)
    assert main(["check", str(source)]) == 11
    assert "lorica convert" in capsys.readouterr().out
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    config = open_adapter(tmp_path / "out").config
    assert (config.r, config.lora_alpha, config.base_model_name_or_path) == (8, 16, "mlx/B")
    expected = write(tmp_path / "expected", healthy(layers=2))
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (expected / WEIGHTS).read_bytes()
    assert main(["check", str(tmp_path / "out")]) in (0, 10)


def test_mlx_without_a_config_says_what_to_write_and_that_leads_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = mlx(tmp_path / "mlx", config=None)
    assert main(["convert", str(source)]) == 4
    advice = re.search(r"write one: (\{.*\}\})", told(capsys))
    assert advice is not None
    (source / CONFIG).write_text(advice[1])
    assert main(["convert", str(source)]) == 0
    assert open_adapter(tmp_path / "mlx-peft").config.scaling("model.layers.0.self_attn.q_proj") == 20.0


@pytest.mark.parametrize("make", [pickled, mlx, lambda folder: mlx(folder, "adapters.npz")])
def test_an_archive_that_check_takes_is_taken(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make(tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in source.iterdir():
            packed.write(path, f"x/{path.name}")
    assert main(["check", str(archive)]) == 11
    assert "lorica convert" in capsys.readouterr().out
    assert main(["convert", str(archive)]) == 0
    assert "tokenizer.json was not copied" in capsys.readouterr().out
    assert open_adapter(tmp_path / "a-peft").config.r == 8
    archive.write_bytes(archive.read_bytes()[:200])
    assert main(["convert", str(archive), str(tmp_path / "out")]) == 4
    assert str(archive) in told(capsys)


def test_an_entry_of_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pickled(tmp_path / "source")
    entry = tmp_path / "models--org--name"
    snapshot = entry / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("0123")
    (entry / "blobs").mkdir()
    for path in source.iterdir():
        path.rename(entry / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", path.name))
    assert main(["check", str(entry)]) == 11
    for given in (entry, snapshot):
        assert main(["convert", str(given)]) == 2  # the cache is not ours to fill
        assert "OUTPUT" in told(capsys)
        assert main(["convert", str(given), str(tmp_path / f"out-{given.name}")]) == 0
        assert open_adapter(tmp_path / f"out-{given.name}").config.r == 8


def test_a_folder_of_many_is_not_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        pickled(tmp_path / "all" / name)
    assert main(["convert", str(tmp_path / "all"), str(tmp_path / "out")]) == 4
    message = told(capsys)
    assert "holds 2 adapters" in message
    assert str(tmp_path / "all" / "b") in message
    assert main(["convert", str(tmp_path / "all" / "b"), str(tmp_path / "out")]) == 0


def several(folder: Path) -> Path:
    mlx(folder, "0000100_adapters.safetensors")
    (folder / "0000200_adapters.safetensors").write_bytes((folder / "0000100_adapters.safetensors").read_bytes())
    return folder


def test_of_several_files_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = several(tmp_path / "mlx")
    assert main(["convert", str(source), str(tmp_path / "out")]) == 4
    advice = re.search("lorica (convert .*) OUTPUT", told(capsys))
    assert advice is not None
    assert main([*advice[1].split(), str(tmp_path / "out")]) == 0
    assert open_adapter(tmp_path / "out").config.lora_alpha == 16


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def named(*names: str, **files: bytes) -> Any:
    """A folder of safetensors with these tensors, or of these files."""

    def make(folder: Path) -> Path:
        folder.mkdir()
        if names:
            save_file({name: np.ones((2, 2), np.float32) for name in names}, folder / "adapters.safetensors")
        for name, raw in files.items():
            (folder / name.replace("__", ".")).write_bytes(raw)
        return folder

    return make


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing there": (lambda folder: folder, "no such file"),
    "an empty folder": (named(notes__txt=b"x"), "no adapter"),
    "a config alone": (named(adapter_config__json=b"{}"), "holds no weights"),
    "a loose array": (named(adapters__npz=npz(x=np.ones(2))), "no factor of LoRA"),
    "another loose array": (named(x__npz=npz(x=np.ones(2))), "no factor of LoRA"),
    "MLX's of images": (named("language_model.model.layers.0.self_attn.q_proj.A"), "no factor of LoRA"),
    "PEFT's already": (lambda folder: write(folder, healthy(layers=1)), "nothing is to be converted"),
    "a GGUF": (named(lora__gguf=b"GGUF\x03\0\0\0" + bytes(99)), "a GGUF file"),
    "a Git LFS pointer": (named(adapter_model__bin=b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "diffusers": (named("unet.down_blocks.0.attn1.to_q.lora.down.weight"), "diffusers' format"),
    "kohya": (named("lora_unet_down_0_to_q.lora_down.weight"), "kohya's"),
    "torchtune": (named("layers.0.attn.q_proj.lora_a.weight"), "torchtune's format"),
    "AdapterHub": (named("bert.encoder.layer.0.output.adapters.sst.adapter_down.0.weight"), "AdapterHub's format"),
    "AdapterHub's pickles": (named(pytorch_adapter__bin=b"x", pytorch_model_head__bin=b"x"), "AdapterHub's format"),
    "parts": (named(**{f"adapter_model-0000{n}-of-00002__bin": b"x" for n in (1, 2)}), "2 files of weights"),
    "a damaged file": (named(adapter_model__bin=b"\x80\x02}q\x00"), "no whole pickle"),
    "a text": (named(adapter_model__bin=b"hello world, I am a text"), "no whole pickle"),
    "an empty file": (named(adapter_model__bin=b""), "no whole pickle"),
    "safetensors, cut": (named(adapters__safetensors=b"\x10\0\0\0\0\0\0\0{"), "cut short"),
    "an archive": (named(adapter_model__bin=b"PK\x05\x06" + bytes(18)), ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_by_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, said = REFUSED[name]
    source = make(tmp_path / "source")
    assert main(["convert", str(source), str(tmp_path / "out")]) == 4
    message = told(capsys)
    assert said in message
    assert "->" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["pytorch_lora_weights.bin", "pytorch_adapter.bin", "lora.pt"])
def test_a_pickle_of_another_name_is_known_by_its_tensors(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    source = pickled(tmp_path / "source")
    (source / PICKLE).rename(source / kind)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    assert open_adapter(tmp_path / "out").config.r == 8
    torch.save({"unet.down_blocks.0.attn1.processor.to_q_lora.down.weight": torch.ones(2, 2)}, source / kind)
    assert main(["convert", str(source), str(tmp_path / "other")]) == 4
    assert "diffusers" in told(capsys)


def test_outputs_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pickled(tmp_path / "source")
    before = contents(source)
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for output in (source, source / "inner", tmp_path / "file", tmp_path / "full"):
        assert main(["convert", str(source), str(output)]) == 2
        assert "->" in told(capsys)
    assert contents(source) == before
    (tmp_path / "empty").mkdir()
    assert main(["convert", str(source), str(tmp_path / "empty")]) == 0
    assert main(["convert", str(source), str(tmp_path / "deep" / "er")]) == 0
    assert contents(tmp_path / "empty") == contents(tmp_path / "deep" / "er")


def test_nothing_is_left_of_a_conversion_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = pickled(tmp_path / "source")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 4
    assert "No space left" in told(capsys)
    assert sorted(tmp_path.iterdir()) == [source]


def test_a_file_that_is_another_one_meanwhile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lorica.adapters.convert import read_foreign, write_converted
    from lorica.errors import AdapterError

    source = pickled(tmp_path / "source")
    raw = (source / PICKLE).read_bytes()
    for other in (raw[:2000], bytes(len(raw))):
        (source / PICKLE).write_bytes(raw)
        conversion = read_foreign(source / PICKLE, None)
        (source / PICKLE).unlink()
        (source / PICKLE).write_bytes(other)
        with pytest.raises(AdapterError, match="changed while it was read"):
            write_converted(conversion, tmp_path / "out", {})
        assert sorted(tmp_path.iterdir()) == [source]


def test_links_that_lead_out_are_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pickled(tmp_path / "source")
    (tmp_path / "secret").write_text("secret")
    (source / "tokenizer.json").symlink_to(tmp_path / "secret")
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    assert "tokenizer.json was not copied" in capsys.readouterr().out
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    (source / CONFIG).unlink()
    (source / CONFIG).symlink_to(tmp_path / "secret")
    assert main(["convert", str(source), str(tmp_path / "other")]) == 4
    assert "leads" in told(capsys)
    os.mkfifo(tmp_path / "pipe.bin")
    assert main(["convert", str(tmp_path / "pipe.bin"), str(tmp_path / "other")]) == 4
    assert "pipe" in told(capsys)


def test_help_and_words_that_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    assert "lorica convert downloads/news" in capsys.readouterr().out
    assert main(["convert"]) == 2
    assert main(["convert", "a", "b", "c"]) == 2
