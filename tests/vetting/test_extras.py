"""What is stored beside the pairs, where names leave it open."""

from __future__ import annotations

import pytest
from tests.vetting.specimens import Shapes, codes, specimen
from tests.vetting.test_structure import PLAIN

from lorica.adapters.tensor_names import PREFIX
from lorica.vetting.structure.check_structure import check_structure


def test_the_module_that_an_ending_meant_is_missed() -> None:
    """PEFT goes by endings, so that ["norm"] stores every input_layernorm; here model.norm itself was lost."""
    kept: Shapes = {f"{PREFIX}model.layers.0.input_layernorm.weight": (32,)}
    found = check_structure(*specimen(PLAIN | kept, {"modules_to_save": ["norm"]}))
    assert [each.severity for each in found if each.code == "L131"] == ["warn"]
    whole: Shapes = kept | {f"{PREFIX}model.norm.weight": (32,)}
    assert "L131" not in codes(check_structure(*specimen(PLAIN | whole, {"modules_to_save": ["norm"]})))


@pytest.mark.parametrize(
    ("asked", "stored", "severity"),
    [
        (["lm_head", "embed_tokens"], ["lm_head"], "reject"),  # every such base has it, so it was lost
        (["lm_head", "norm"], ["lm_head"], "reject"),
        (["decode_head"], [], "reject"),  # nothing was stored at all
        (["lm_head", "decode_head"], ["lm_head"], "warn"),  # PEFT passes over names that mean no module
        (["lm_head", "wte"], ["lm_head"], "warn"),
    ],
)
def test_a_kept_module_that_the_base_may_not_have(asked: list[str], stored: list[str], severity: str) -> None:
    kept: Shapes = {f"{PREFIX}{name}.weight": (64, 32) for name in stored}
    found = check_structure(*specimen(PLAIN | kept, {"modules_to_save": asked}))
    assert [each.severity for each in found if each.code == "L131"] == [severity]


def test_names_of_another_family_were_not_lost() -> None:
    """modules_to_save=["embed_tokens", "lm_head"] on GPT-2, whose embedding is "wte": PEFT stores and loads lm_head."""
    path = f"{PREFIX}transformer.h.0.attn.c_attn"
    shapes: Shapes = {f"{path}.lora_A.weight": (4, 32), f"{path}.lora_B.weight": (96, 4)}
    shapes |= {f"{PREFIX}lm_head.weight": (64, 32)}
    raw = {"target_modules": ["c_attn"], "modules_to_save": ["embed_tokens", "lm_head"], "fan_in_fan_out": True}
    found = check_structure(*specimen(shapes, raw))
    assert [each.severity for each in found if each.code == "L131"] == ["warn"]


@pytest.mark.parametrize("text", ["q_proj, v_proj", "q_proj,v_proj", "['q_proj', 'v_proj']", "q_proj v_proj"])
def test_a_list_of_targets_that_became_one_text_targets_nothing(text: str) -> None:
    """PEFT takes a text as an expression, and this one can only match itself."""
    found = check_structure(*specimen(PLAIN, {"target_modules": text}))
    assert "L123" in codes(found, "reject")


@pytest.mark.parametrize("text", [r".*layers\.\d{1,2}\..*_proj", "model.layers.[0-3].self_attn.[q,v]_proj"])
def test_an_expression_with_a_comma_of_its_own_is_left_alone(text: str) -> None:
    found = check_structure(*specimen(PLAIN, {"target_modules": text}))
    assert "L123" not in codes(found)
