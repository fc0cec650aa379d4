"""Whatever a model's folder says, the native engine computes what transformers computes, or refuses it by name."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tools.config_kinds import CONFIG_EDITS, TENSOR_EDITS, VOCABULARY, draw, write_model  # noqa: E402
from tools.config_parity import TOKENS, compare, native, reference  # noqa: E402

from lorica.errors import ModelError  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.transformers_models import check_config, load_causal  # noqa: E402

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CASE_09 = [
    {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(before)
    transformers.logging.enable_progress_bar()


def edited(folder: Path, family: str, changes: dict[str, Any], **shape: Any) -> Path:
    write_model(folder, family, {**SHAPE, **shape}, seed=1)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")
    return folder


@pytest.mark.parametrize("start", range(0, 40, 10))
def test_generated_folders_are_equal_or_refused(start: int, tmp_path: Path) -> None:
    kinds: Counter[str] = Counter()
    for number in range(start, start + 10):
        folder = tmp_path / str(number)
        result = compare(folder, draw(folder, f"tests:{number}"))
        assert result.kind in ("equal", "refused"), result
        kinds[result.kind] += 1
    assert kinds["equal"]
    assert kinds["refused"]


@pytest.mark.parametrize("edit", [*CONFIG_EDITS, *TENSOR_EDITS])
def test_each_edit_alone_is_equal_or_refused(edit: str, tmp_path: Path) -> None:
    rng = random.Random(edit)
    folder = edited(tmp_path / "model", rng.choice(("llama", "qwen2")), {}, tie_word_embeddings=edit == "own head")
    if edit in TENSOR_EDITS:
        TENSOR_EDITS[edit](rng, folder)
    else:
        raw = json.loads((folder / "config.json").read_text("utf-8"))
        CONFIG_EDITS[edit](rng, raw)
        (folder / "config.json").write_text(json.dumps(raw), "utf-8")
    assert compare(folder, (edit,)).kind in ("equal", "refused")


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("added", CASE_09, ids=["linear", "yarn"])
def test_rope_scaling_beside_default_parameters_is_applied(family: str, added: dict[str, Any], tmp_path: Path) -> None:
    plain = native(edited(tmp_path / "plain", family, {}), tokens())[0]
    folder = edited(tmp_path / "added", family, added)
    result = compare(folder, (family,))
    assert result.kind == "equal", result
    assert float((native(folder, tokens())[0] - plain).abs().max()) > 0.01  # and it is seen


@pytest.mark.parametrize(
    "yarn",
    [
        {"factor": 4.0, "original_max_position_embeddings": 16},
        {"factor": 8},
        {"factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 1.5},
        {"factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 4, "beta_slow": 2, "truncate": False},
        {"factor": 40.0, "original_max_position_embeddings": 16, "mscale": 0.7, "mscale_all_dim": 1.0},
        {"factor": 1.0, "original_max_position_embeddings": 16},
    ],
)
def test_yarn_is_that_of_transformers(yarn: dict[str, Any], tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 500.0, **yarn}
    assert compare(edited(tmp_path / "model", "qwen3", {"rope_parameters": rope}, head_dim=32), ()).kind == "equal"


def test_the_last_row_of_the_engine_is_scored_with_the_attention_factor(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 40.0, "original_max_position_embeddings": 16}
    folder = edited(tmp_path / "model", "llama", {"rope_parameters": rope})
    everywhere, scored = native(folder, tokens())
    assert scored is not None
    assert torch.allclose(scored, reference(folder, tokens())[0][len(everywhere) // 3 - 1], atol=1e-4)


def test_weights_that_transformers_would_make_up_are_refused(tmp_path: Path) -> None:
    folder = edited(tmp_path / "model", "llama", {"tie_word_embeddings": False}, tie_word_embeddings=True)
    with pytest.raises(ModelError, match=r"in no file \(1, the first is lm_head.weight\)") as caught:
        load_causal(folder, {"dtype": "auto"})
    assert "tie_word_embeddings" in caught.value.fix
    edited(folder, "llama", {"tie_word_embeddings": True}, tie_word_embeddings=True)
    load_causal(folder, {"dtype": "auto"})


@pytest.mark.parametrize("changes", [{"is_causal": False}, {"hidden_act": "gelu"}, {"kv_sharing_modes": ["a"]}])
def test_what_only_the_native_decoder_refuses_is_no_broken_config(changes: dict[str, Any], tmp_path: Path) -> None:
    check_config(BaseFolder(edited(tmp_path / "model", "llama", changes)))


def tokens() -> Any:
    return torch.randint(0, VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(0))
