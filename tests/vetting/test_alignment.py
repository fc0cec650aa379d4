"""The alignment test on bases small enough for a test: bench/alignment.py measures it on pretrained ones."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from tests.shapes import TINY  # noqa: E402

from lorica.adapters.config import AdapterConfig, read_adapter_config  # noqa: E402
from lorica.adapters.header import read_header  # noqa: E402
from lorica.adapters.raw_adapter import RawAdapter  # noqa: E402
from lorica.adapters.tensor_map import map_tensors  # noqa: E402
from lorica.config.schema import TrainingConfig  # noqa: E402
from lorica.errors import PromptError  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.decoder import Decoder  # noqa: E402
from lorica.models.locate import locate_model  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402
from lorica.prompts.encoder import Encoder  # noqa: E402
from lorica.records import Message  # noqa: E402
from lorica.training.listeners import SilentListener  # noqa: E402
from lorica.training.loop import train  # noqa: E402
from lorica.training.lora_decoder import LoraDecoder  # noqa: E402
from lorica.training.types import Example  # noqa: E402
from lorica.vetting.base import collect_subspaces as seeing  # noqa: E402
from lorica.vetting.base.activation_subspaces import principal_subspace  # noqa: E402
from lorica.vetting.base.alignment import Alignment, Decision, align, collect_subspaces  # noqa: E402
from lorica.vetting.base.alignment_findings import check_alignment  # noqa: E402
from lorica.vetting.base.halves import Halves  # noqa: E402
from lorica.vetting.base.module_agreement import SideDirections, module_agreement  # noqa: E402
from lorica.vetting.base.permutation_null import PermutationNull  # noqa: E402

SHAPE = replace(
    TINY,
    family="llama",
    qk_norm=False,
    hidden_size=64,
    intermediate_size=128,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab_size=6144,
    max_positions=512,
    windows=(None,) * 3,
)
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 6144,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
WORDS = "red blue cat dog house tree river sun moon bread stone boat bird king queen road".split()  # noqa: SIM905


def make_base(folder: Path, seed: int) -> Path:
    """Random weights, scaled so that every layer changes what passes through it."""
    torch.manual_seed(seed)
    decoder = Decoder(SHAPE)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
    folder.mkdir()
    weights = {name: tensor.clone() for name, tensor in decoder.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(locate_model("embedded:lorica_tiny", environ={}) / name, folder / name)
    return folder


def examples(base: Path, count: int) -> list[Example]:
    """Posts of random words; the answer says whether the cat is in it."""
    encoder, chance = Encoder.load(base), random.Random(0)
    found = []
    for index in range(count):
        words = chance.sample(WORDS, 8)
        answer = "Yes" if "cat" in words else "No"
        encoded = encoder.encode(
            [Message("user", "Is a cat here? " + " ".join(words))], answer=answer, max_tokens=100, truncate="error"
        )
        found.append(Example(str(index), encoded))
    return found


def make_adapter(folder: Path, base: Path, *, epochs: int = 3, **lora: object) -> Path:
    config = AdapterConfig(**{"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"]} | lora)  # type: ignore[arg-type]
    settings = TrainingConfig(epochs=epochs, batch_size=16, gradient_accumulation_steps=1, learning_rate=2e-3)
    decoder = load_decoder(BaseFolder(base), dtype=torch.float32)
    trainable = LoraDecoder.create("test", decoder, config, settings)
    train(trainable, examples(base, 128), [], settings, folder, adapter_name="test", listener=SilentListener())
    return folder


def specimen(folder: Path) -> RawAdapter:
    weights = folder / "adapter_model.safetensors"
    return RawAdapter(
        name=folder.name,
        given=folder,
        kind="folder",
        folder=folder,
        weights=weights,
        config=read_adapter_config(folder),
        header=read_header(weights),
    )


def aligned(folder: Path, base: Path) -> Alignment:
    found = specimen(folder)
    assert found.header is not None
    return align(found, map_tensors(found.header), collect_subspaces(base))


def changed(folder: Path, to: Path, change: object) -> Path:
    """A copy of an adapter or a base with its tensors changed."""
    shutil.copytree(folder, to)
    name = "adapter_model.safetensors" if (to / "adapter_model.safetensors").is_file() else "model.safetensors"
    save_file(change(load_file(to / name)), to / name, metadata={"format": "pt"})  # type: ignore[operator]
    return to


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("bases")
    return make_base(place / "one", 1), make_base(place / "two", 2)


@pytest.fixture(scope="module")
def adapters(bases: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("adapters")
    return make_adapter(place / "one", bases[0]), make_adapter(place / "two", bases[1])


def test_an_adapter_is_matched_with_its_own_base_and_no_other(
    bases: tuple[Path, Path], adapters: tuple[Path, Path]
) -> None:
    for mine, adapter in enumerate(adapters):
        own, other = aligned(adapter, bases[mine]), aligned(adapter, bases[1 - mine])
        assert (own.decided, other.decided) == ("match", "mismatch"), (own, other)
        assert own.p_true > 0.999
        assert other.p_true < 0.05
        assert own.tested == other.tested == own.pairs == 9
        assert [each.code for each in check_alignment(own)] == ["L320", "L332"]
        (found, _) = check_alignment(other)
        assert (found.code, found.severity) == ("L321", "reject")
        assert found.facts["score"] == round(other.score, 4)


def test_a_fine_tuned_or_rounded_descendant_is_no_other_base(
    bases: tuple[Path, Path], adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    moved = changed(
        bases[0], tmp_path / "moved", lambda all_: {k: v + 0.1 * v.std() * torch.randn_like(v) for k, v in all_.items()}
    )
    rounded = changed(
        bases[0],
        tmp_path / "rounded",
        lambda all_: {k: (v / v.abs().max() * 15).round() / 15 * v.abs().max() for k, v in all_.items()},
    )
    assert aligned(adapters[0], moved).decided == "match"
    assert aligned(adapters[0], rounded).decided == "match"


def test_an_untrained_adapter_is_not_judged(
    adapters: tuple[Path, Path], bases: tuple[Path, Path], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    noise = changed(adapters[0], tmp_path / "noise", lambda all_: {k: torch.randn_like(v) for k, v in all_.items()})
    found = aligned(noise, bases[0])
    assert found.decided == "undecided"
    assert abs(found.score) < 4
    assert abs(found.information) < 4
    zero = changed(
        adapters[0], tmp_path / "zero", lambda all_: {k: v * 0 if "lora_B" in k else v for k, v in all_.items()}
    )
    found = aligned(zero, bases[0])
    assert (found.decided, found.tested, found.p_true) == ("undecided", 0, 0.5)
    assert [each.code for each in check_alignment(found)] == ["L322"]


def test_an_all_zero_layer_and_a_broken_one_are_left_out(
    adapters: tuple[Path, Path], bases: tuple[Path, Path], tmp_path: Path
) -> None:
    def spoil(tensors: dict[str, Any]) -> dict[str, Any]:
        first, second = (
            name for name in list(tensors) if "lora_B" in name and "down_proj" in name and "layers.2" not in name
        )
        tensors[first] = tensors[first] * 0
        tensors[second][0, 0] = float("nan")
        return tensors

    found = aligned(changed(adapters[0], tmp_path / "spoilt", spoil), bases[0])
    assert (found.tested, found.pairs, found.decided) == (7, 9, "match")


def test_bf16_changes_nothing(adapters: tuple[Path, Path], bases: tuple[Path, Path], tmp_path: Path) -> None:
    stored = changed(adapters[0], tmp_path / "bf16", lambda all_: {k: v.bfloat16() for k, v in all_.items()})
    assert aligned(stored, bases[0]).score == pytest.approx(aligned(adapters[0], bases[0]).score, rel=0.05)


def test_sizes_are_those_of_the_scaled_update(adapters: tuple[Path, Path], bases: tuple[Path, Path]) -> None:
    tensors = load_file(adapters[0] / "adapter_model.safetensors")
    weights = load_file(bases[0] / "model.safetensors")
    found = aligned(adapters[0], bases[0])
    for path, size in found.sizes.items():
        a, b = (tensors[f"base_model.model.{path}.lora_{half}.weight"] for half in "AB")
        assert size == pytest.approx(float(2 * (b @ a).norm() / weights[f"{path}.weight"].norm()), rel=1e-4)


@pytest.mark.parametrize(("factor", "code"), [(1e4, "L330"), (1e-6, "L331")])
def test_updates_of_absurd_size_are_named(
    adapters: tuple[Path, Path], bases: tuple[Path, Path], tmp_path: Path, factor: float, code: str
) -> None:
    scaled = changed(
        adapters[0],
        tmp_path / "scaled",
        lambda all_: {k: v * factor if "lora_B" in k else v for k, v in all_.items()},
    )
    found = aligned(scaled, bases[0])
    assert [each.code for each in check_alignment(found)] == ["L320", code]


def test_transformers_sees_what_the_native_decoder_sees(
    bases: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    texts = ["The cat sat on the red boat.", "A king and a queen went down the long road to the river."]
    native = collect_subspaces(bases[0], texts)
    monkeypatch.setattr(seeing, "FAMILIES", {})
    seeing._CACHE.clear()
    foreign = collect_subspaces(bases[0], texts)
    seeing._CACHE.clear()
    assert foreign.inputs.keys() == native.inputs.keys()
    assert foreign.weights == pytest.approx(native.weights)
    for side in ("inputs", "outputs"):
        for path, mine in getattr(native, side).items():
            other = getattr(foreign, side)[path]
            if side == "inputs":  # the drawn targets may differ by a rounding, inputs may not
                np.testing.assert_allclose(other.energies[:8], mine.energies[:8], rtol=1e-3)
            assert other.width == mine.width


def test_principal_directions_are_those_of_a_singular_value_decomposition() -> None:
    rng = np.random.default_rng(0)
    for count, width in ((40, 12), (9, 30)):
        x = rng.normal(size=(count, width)) * np.linspace(3, 0.1, width)
        found = principal_subspace(torch.tensor(x), max_directions=5)
        assert found is not None
        _, values, right = np.linalg.svd(x / np.sqrt(np.square(x).mean()), full_matrices=False)
        np.testing.assert_allclose(found.energies, values[:5] ** 2 / count, rtol=1e-4)
        np.testing.assert_allclose(np.abs(found.vectors @ right[:5].T), np.eye(5), atol=1e-3)
        assert found.energies.sum() + found.rest_energy * (width - 5) == pytest.approx(width, rel=1e-4)
    assert principal_subspace(torch.zeros(3, 4)) is None
    assert principal_subspace(torch.tensor([[1.0, float("nan")]])) is None


def test_surrogates_keep_heads_together_and_share_an_axis() -> None:
    made = PermutationNull(hidden=8, head_dim=4, count=5)
    orders = made.orders("out", "model.layers.0.self_attn.v_proj", 16)
    assert orders is not None
    assert orders.shape == (6, 16)
    assert (orders[0] == np.arange(16)).all()
    assert not (orders[1:] == np.arange(16)).all(1).any()
    assert all(len({value // 4 for value in head}) == 1 for order in orders for head in order.reshape(4, 4))
    assert made.orders("out", "model.layers.0.self_attn.q_proj", 16) is None
    reads = made.orders("in", "model.layers.0.mlp.up_proj", 8)
    writes = made.orders("out", "model.layers.1.mlp.down_proj", 8)
    assert reads is not None
    assert writes is not None
    assert np.array_equal(reads, writes)
    wide = made.orders("in", "model.layers.0.mlp.down_proj", 20)
    other = made.orders("in", "model.layers.1.mlp.down_proj", 20)
    assert wide is not None
    assert other is not None
    assert not np.array_equal(wide, other)


def test_copied_rows_are_no_agreement() -> None:
    rng = np.random.default_rng(0)
    same = rng.normal(size=(4, 64)).astype(np.float32)
    near = [same + 0.7 * rng.normal(size=same.shape).astype(np.float32) for _ in range(4)]
    assert module_agreement([SideDirections("in", "", same) for _ in range(4)]) == 0.0
    assert module_agreement([SideDirections("in", "", rows) for rows in near]) > 6
    apart = [rng.normal(size=same.shape).astype(np.float32) for _ in range(4)]
    assert abs(module_agreement([SideDirections("in", "", rows) for rows in apart])) < 4


def test_a_base_is_run_once_until_it_changes(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base = shutil.copytree(bases[0], tmp_path / "base")
    first = collect_subspaces(base, ["The cat sat on the boat."])
    assert collect_subspaces(base, ["The cat sat on the boat."]) is first
    changed_weights = load_file(base / "model.safetensors")
    changed_weights["model.norm.weight"] *= 2
    save_file(changed_weights, base / "model.safetensors", metadata={"format": "pt"})
    assert collect_subspaces(base, ["The cat sat on the boat."]) is not first
    with pytest.raises(PromptError, match="no text"):
        collect_subspaces(base, ["", "  "])


def test_a_family_that_only_transformers_knows_is_seen_too(bases: tuple[Path, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=6144, n_embd=32, n_layer=1, n_head=2, n_positions=256, eos_token_id=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(bases[0] / name, tmp_path / "gpt2" / name)
    found = collect_subspaces(tmp_path / "gpt2", ["The cat sat on the red boat, and the boat went down the river."])
    assert {path.removeprefix("transformer.h.0."): seen.width for path, seen in found.inputs.items()} == {
        "attn.c_attn": 32,
        "attn.c_proj": 32,
        "mlp.c_fc": 32,
        "mlp.c_proj": 128,
    }
    assert found.outputs["transformer.h.0.attn.c_attn"].width == 96


def test_layers_from_another_base_are_named() -> None:
    def judged(*layers: float, information: float = 10.0, decided: Decision = "match") -> list[str]:
        modules = {
            f"model.layers.{number}.self_attn.{kind}": score / 2**0.5
            for number, score in enumerate(layers)
            for kind in ("q_proj", "v_proj")
        }
        alignment = Alignment(
            score=9.0, p_true=1.0, information=information, effect=0.1, modules=modules, sizes={}, tested=len(modules),
            pairs=len(modules), base="base", decided=decided,
        )  # fmt: skip
        return [each.code for each in check_alignment(alignment)]

    assert judged(9, 0.3, -0.5, 0.8) == ["L320", "L323"]
    assert judged(9, 7, 8, 6) == ["L320"]
    assert judged(9, 7, 8, 6, 7, 8, 1.5, 9) == ["L320"], "one of many may be at chance"
    assert judged(3, 3, 1, 0.5) == ["L320"], "a weak adapter's layers say little one by one"
    assert judged(9, 0.3, -0.5, 0.8, information=1.0) == ["L320"]
    assert judged(0.3, -0.4, 0.8, 7, decided="undecided") == ["L322", "L323"], "too few layers belong for a match"
    assert judged(0.3, -0.4, 0.8, 7, decided="mismatch") == ["L321"], "the base is to blame"


@pytest.mark.parametrize(
    ("score", "bound", "free", "size", "severity"),
    [
        (0.9, 1.2, 0.4, 1e-3, "warn"),  # neither side knows this base
        (0.9, 12.0, 5.0, 1e-3, "note"),  # its halves do
        (0.9, 3.6, 5.0, 1e-3, "warn"),  # its halves go together, and by this base's inputs no better than by none
        (1.1, 1.9, 0.2, 1e-3, "note"),  # of few pairs of a small rank, by this base's inputs
        (0.9, 1.2, 0.4, 1e-6, "note"),  # it does nothing
        (3.4, 1.2, 0.4, 1e-3, "note"),  # between
    ],
)
def test_a_weakly_trained_adapter_at_chance_is_warned_of(
    score: float, bound: float, free: float, size: float, severity: str
) -> None:
    alignment = Alignment(
        score=score,
        p_true=0.5,
        information=2.6,
        effect=0.0,
        modules={"a": score},
        sizes={"a": size},
        tested=1,
        pairs=1,
        base="base",
        decided="undecided",
        halves=Halves(correlation=bound, null_correlation=free, correlated_pairs=8),
    )
    undecided = check_alignment(alignment)[0]
    assert (undecided.code, undecided.severity) == ("L322", severity)
