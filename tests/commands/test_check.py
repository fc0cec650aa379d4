"""`lorica check`, as a person or CI would call it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import WEIGHTS_NAME, save_adapter
from lorica.cli import main
from lorica.commands.base_trial import locate
from lorica.config.schema import Config
from lorica.engines import load_engine
from lorica.engines.base import EngineSettings
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model
from tests.passports import give_passport, make_adapter

BASE = "embedded:lorica_tiny"
SHAPES = {"q_proj": (256, 256), "v_proj": (128, 256)}


def adapter(place: Path, *, seed: int = 0, scale: float = 0.01) -> Path:
    """A small adapter of plausible values for the embedded base, as PEFT would save it."""
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer in range(6):
        for kind, (out, into) in SHAPES.items():
            path = f"base_model.model.model.layers.{layer}.self_attn.{kind}"
            for half, shape in (("lora_A", (4, into)), ("lora_B", (out, 4))):
                bound = 1 / np.sqrt(into) if half == "lora_A" else scale
                values = draw.normal(0, bound, shape).astype("<f4")
                tensors[f"{path}.{half}.weight"] = ("F32", shape, values.tobytes())
    config = AdapterConfig(r=4, lora_alpha=8, target_modules=sorted(SHAPES), base_model_name_or_path=BASE)
    save_adapter(place, config, tensors)
    return place


def change_config(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


def check(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main(["check", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_sound_adapter_is_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = check(capsys, adapter(tmp_path / "sound"))
    assert code == 0, result
    (one,) = result["adapters"]
    assert one["status"] == "trusted"
    assert [one["levels"][f"L{level}"] for level in (0, 2, 4)] == ["passed", "passed", "skipped"]
    assert one["profile"]["ranks"] == [4]
    assert one["profile"]["scalings"] == [2.0]
    assert one["profile"]["parameters"] == 6 * 4 * (256 + 256 + 256 + 128)
    assert "lorica/lorica-tiny" in one["fits"]["text"]


def test_a_broken_one_is_rejected_and_a_missing_one_could_not_be_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = adapter(tmp_path / "broken")
    weights = broken / WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["check", str(broken)]) == 11
    text = capsys.readouterr().out
    assert "REJECTED" in text
    assert "L023" in text
    assert main(["check", str(tmp_path / "brokn")]) == 12
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["--nonsense"], 2),
        (["DIR", "--level", "9"], 2),
        (["DIR", "--rows", "rows.csv", "--base", BASE], 2),
        (["DIR", "--base", "no"], 12),
        (["DIR", "--csv", "-"], 2),
    ],
    ids=["nothing", "unknown option", "unknown level", "rows without a task", "no such base", "no file"],
)
def test_a_mistaken_command_line_never_ends_like_a_rejection(
    arguments: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = adapter(tmp_path / "sound")
    assert main(["check", *(str(sound) if each == "DIR" else each for each in arguments)]) == code
    assert capsys.readouterr().err.startswith("lorica: ")


def test_many_are_compared_and_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "adapters"
    adapter(folder / "fold_0", seed=1)
    adapter(folder / "fold_1", seed=2)
    shutil.copytree(folder / "fold_0", folder / "copy")
    change_config(adapter(folder / "dropped", seed=3), target_modules=["q_proj"])
    pages = {suffix: tmp_path / f"compare{suffix}" for suffix in (".html", ".csv", ".yaml")}
    code, result = check(
        capsys, folder, "--html", pages[".html"], "--csv", pages[".csv"], "--keep-working", pages[".yaml"]
    )
    assert code == 11
    ranking = result["ranking"]
    assert [each["place"] for each in ranking] == [1, 2, 3, 4]
    assert ranking[-1]["name"] == "dropped"
    assert all(each["above"] for each in ranking[:-1])
    found = {each["name"]: each for each in result["adapters"]}
    assert found["dropped"]["status"] == "rejected"
    assert any(each["code"].startswith("L25") for each in found["copy"]["findings"])

    with pages[".csv"].open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["adapter"] for row in table] == [each["name"] for each in ranking]
    kept = yaml.safe_load(pages[".yaml"].read_text("utf-8"))["adapters"]["paths"]
    assert sorted(kept) == ["copy", "fold_0", "fold_1"]
    assert all(Path(path).is_dir() for path in kept.values())
    assert "dropped" in pages[".html"].read_text("utf-8")


def test_no_cell_is_a_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter(tmp_path / "adapters" / "=HYPERLINK(1)", seed=1)
    adapter(tmp_path / "adapters" / "@sum", seed=2)
    table = tmp_path / "compare.csv"
    check(capsys, tmp_path / "adapters", "--csv", table)
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["adapter"] for row in rows) == ["'=HYPERLINK(1)", "'@sum"]
    assert all(row["levels"] == "+++--" for row in rows)
    assert not [
        cell for row in rows for column, cell in row.items() if column != "levels" and cell[:1] in tuple("=+-@")
    ]


def test_the_kept_ones_are_read_as_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter(tmp_path / "adapters" / "fold: 0 # odd", seed=1)
    kept = tmp_path / "kept.yaml"
    main(["check", str(tmp_path / "adapters"), "--keep-working", str(kept)])
    capsys.readouterr()
    assert main(["config", f"config={kept}", "task=rules", "--json"]) == 0
    assert "fold: 0 # odd" in capsys.readouterr().out


def test_on_its_base_it_is_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = check(capsys, adapter(tmp_path / "sound", scale=0.05), "--base", BASE, "--level", "4")
    (one,) = result["adapters"]
    assert code in (0, 10), one["findings"]
    assert one["levels"]["L3"] != "skipped"
    assert one["levels"]["L4"] != "skipped"
    assert one["behaviour"]["measured"]["divergence"]["kl"] > 0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_attention_heads": "four"}, "num_attention_heads"),
        ({"rope_theta": "large"}, "unusable value"),
        ({"hidden_size": None}, "hidden_size"),
        ({"quantization_config": "4 bits"}, "transformers refuses it"),
        ({"model_type": "gpt2", "bos_token_id": "x"}, "transformers refuses it"),
        ({"rope_theta": None, "rope_scaling": {"type": "linear", "factor": 4}}, "rope_theta is None"),
        (
            {"rope_parameters": {"rope_theta": 500.0}, "rope_scaling": {"rope_type": "linear", "factor": 4}},
            "rope_theta 500.0 would be lost",
        ),
        ({"attention_multiplier": 0.1}, "no qwen3 model computes with it"),
    ],
)
@pytest.mark.parametrize("command", ["check", "diagnose"])
def test_a_base_that_no_engine_could_load_is_one_clear_error(
    command: str, values: dict[str, object], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    base = tmp_path / "base"
    base.mkdir()
    config = json.loads((locate_model(BASE, environ={}) / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps(config | values), "utf-8")
    (base / "model.safetensors").write_bytes(b"never read")
    assert main([command, str(adapter(tmp_path / "sound")), "--base", str(base)]) == 12
    said = capsys.readouterr().err
    assert "config.json" in said
    assert says in said
    assert "Traceback" not in said


def test_an_adapter_is_asked_the_task_that_its_passport_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_adapter(tmp_path / "answers", b=0.005)
    base = BaseFolder(locate_model(BASE, environ={}))
    give_passport(folder, load_engine("native", base, EngineSettings(dtype="float32", device="cpu")), task="qa")
    _, result = check(capsys, folder, "--base", BASE)
    behaviour = result["adapters"][0]["behaviour"]["measured"]
    assert (behaviour["task"], behaviour["foreign"]) == ("qa", False)


def test_a_key_that_nothing_heeds_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = Path(shutil.copytree(locate_model(BASE, environ={}), tmp_path / "base"))
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps(config | {"rope_scalling": {"factor": 4}}), "utf-8")
    assert locate(str(base), Config()).path == base
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(told) == 1
    assert "rope_scalling (did you mean rope_scaling?)" in told[0]


def test_an_update_of_zero_is_named_before_a_base_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = check(capsys, adapter(tmp_path / "zero", scale=0.0))
    (one,) = result["adapters"]
    assert code == 11
    assert any(each["severity"] == "reject" and each["code"].startswith("L2") for each in one["findings"])


def test_scores_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = tmp_path / "scores.csv"
    scores.write_text("id,score\n" + "".join(f"{row},0.0\n" for row in range(50)), "utf-8")
    code, result = check(capsys, "--scores", scores)
    assert code == 11
    assert result["status"] == "rejected"
    scores.write_text("id,score\n" + "".join(f"{row},{row / 50:.3f}\n" for row in range(50)), "utf-8")
    code, result = check(capsys, "--scores", scores)
    assert code == 0, result
    assert result["health"]["unique"] == 50


def test_the_levels_on_files_load_no_torch(tmp_path: Path) -> None:
    """A cold process, so that what other tests import does not count."""
    place = adapter(tmp_path / "sound")
    program = (
        "import sys; from lorica.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'hydra', 'omegaconf', 'transformers', 'peft', 'scipy', 'tokenizers'} & set(sys.modules);"
        "print(sorted(heavy), file=sys.stderr); sys.exit(code or bool(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "check", str(place)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_archive_and_a_single_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = adapter(tmp_path / "sound")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "sound")
    code, result = check(capsys, packed)
    assert code == 0, result
    assert result["adapters"][0]["profile"]["kind"] == "archive"
    code, result = check(capsys, packed, place)
    assert len(result["adapters"]) == 2
    header = struct.unpack("<Q", (place / WEIGHTS_NAME).read_bytes()[:8])[0]
    assert header > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["DIR", "--level", "3"],
        ["DIR", "--task", "rules"],
        ["DIR", "--jobs", "-1"],
        ["DIR", "--column", "score"],
        ["DIR", "lora.rr=3"],
        ["--scores", "DIR", "--html", "page.html"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_an_option_without_effect_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = adapter(tmp_path / "sound")
    assert main(["check", *(str(sound) if each == "DIR" else each for each in arguments)]) == 2
    assert "has no effect here" in capsys.readouterr().err


def test_nothing_is_kept_where_nothing_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file without adapters would be read as "ask the base model alone"."""
    kept = tmp_path / "kept.yaml"
    assert main(["check", str(adapter(tmp_path / "zero", scale=0.0)), "--keep-working", str(kept)]) == 11
    assert "was not written" in capsys.readouterr().err
    assert not kept.exists()


def test_scores_and_gold_of_different_rows_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = tmp_path / "scores.csv"
    scores.write_text("id,score\n" + "".join(f"x{row},{row / 50:.3f}\n" for row in range(50)), "utf-8")
    gold = Path(__file__).resolve().parents[2] / "examples" / "rules" / "posts.csv"
    assert main(["check", "--scores", str(scores), "--gold", str(gold)]) == 12
    assert "none of its 50 ids" in capsys.readouterr().err


def test_configuration_may_follow_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = adapter(tmp_path / "sound", scale=0.05)
    code, _ = check(capsys, sound, "--base", BASE, "--level", "3", "task=rules", "task.style=structured")
    assert code in (0, 10)
