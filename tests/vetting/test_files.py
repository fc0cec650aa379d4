"""Healthy adapters give no finding; real configs give their type; random damage never more than findings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hostile.folders import make_adapter
from tests.vetting.specimens import codes_between
from tools.hostile_files import Bench, cases

from lorica.adapters.config import CONFIG_NAME, AdapterConfig
from lorica.vetting.files.check_files import examine_files
from lorica.vetting.files.configs import examine_config
from lorica.vetting.files.sources import find_sources
from lorica.vetting.findings import causes

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "peft_configs"
REAL = sorted(SHARED.rglob("*.json"))


def test_a_healthy_adapter_gives_no_finding_and_all_its_facts(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "mine")
    (folder / "README.md").write_text("# Mine\n")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    (folder / "trainer_state.json").write_text('{"log_history": [{"loss": NaN}]}')
    (folder / "chat_template.jinja").write_text("{{ x }}")
    specimen, findings = examine_files(find_sources([folder])[0])
    assert findings == []
    assert specimen is not None
    assert specimen.config is not None
    assert specimen.config.r == 2
    assert specimen.header is not None
    assert len(specimen.header.tensors) == 2
    assert specimen.raw_config is not None
    assert specimen.raw_config["peft_type"] == "LORA"
    assert specimen.card == "# Mine\n"
    assert sorted(specimen.documents) == ["tokenizer_config.json", "trainer_state.json"]
    assert specimen.files["README.md"] == 7
    assert len(specimen.files) == 6


@pytest.mark.skipif(not REAL, reason="the folder shared/data/peft_configs is not beside the repository")
def test_all_real_configs_are_read_with_their_type(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "mine")
    lora = 0
    for path in REAL:
        (folder / CONFIG_NAME).write_bytes(path.read_bytes())
        specimen, findings = examine_files(find_sources([folder])[0])
        assert specimen is not None
        assert specimen.raw_config is not None
        assert specimen.raw_config == json.loads(path.read_bytes())
        assert (specimen.config is not None) == (specimen.raw_config["peft_type"] == "LORA"), path
        lora += specimen.config is not None
        assert {each.severity for each in findings} <= {"note"}, (path, findings)
    assert (lora, len(REAL)) == (23, 165)


def test_configs_that_peft_writes_today_give_no_finding() -> None:
    from peft import LoraConfig

    for changes in (
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.1.self_attn.q_proj": 2}},
        {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
        {"modules_to_save": ["lm_head"], "use_rslora": True, "lora_dropout": 0.1, "task_type": "CAUSAL_LM"},
    ):
        values = LoraConfig(r=8, target_modules=["q_proj"], **changes).to_dict()
        raw = json.dumps(values, default=lambda each: sorted(each) if isinstance(each, set) else str(each)).encode()
        _, config, findings = examine_config(raw)
        assert config is not None
        assert findings == []


def test_every_cause_is_a_known_one() -> None:
    rows = codes_between("L001", "L099")
    assert all(cause in causes() for code in rows.values() for cause in code.causes)
    assert all(code.causes or code.severity != "reject" or name == "L088" for name, code in rows.items())


def test_five_hundred_mutations(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for kind, raw in cases(seed=7, count=500):
        bench.run(kind, raw)
    assert bench.counts["cases"] >= 550
    assert (bench.counts["crashes"], bench.counts["lenient"], bench.counts["differing"]) == (0, 0, 0)
    assert len(bench.codes) > 25


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*AdapterConfig.__struct_fields__, "auto_mapping", "auto_map", "megatron_config", "strange"])


@settings(max_examples=300, deadline=None)
@given(values=st.dictionaries(KEYS, JSON, max_size=6), lora=st.booleans())
def test_any_config_ends_in_findings(values: dict[str, object], lora: bool) -> None:
    if lora:
        values["peft_type"] = "LORA"
    raw_config, config, findings = examine_config(json.dumps(values).encode())
    rejected = any(each.severity == "reject" for each in findings)
    assert config is None or raw_config is not None
    if lora:
        assert (config is not None) != any(each.code in ("L059", "L060") for each in findings) or rejected
    assert all(each.seen.isprintable() for each in findings)


def test_reading_files_needs_no_heavy_package() -> None:
    heavy = {"numpy", "torch", "transformers", "scipy", "hydra"}
    code = f"import sys, lorica.vetting.files.check_files; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
