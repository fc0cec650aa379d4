"""What is stored beside the pairs, where names leave it open."""

from __future__ import annotations

from tests.vetting.specimens import Shapes, codes, specimen
from tests.vetting.test_structure import PLAIN

from lorica.adapters.names import PREFIX
from lorica.vetting.structure.check import check_structure


def test_the_module_that_an_ending_meant_is_missed() -> None:
    """PEFT goes by endings, so that ["norm"] stores every input_layernorm; here model.norm itself was lost."""
    kept: Shapes = {f"{PREFIX}model.layers.0.input_layernorm.weight": (32,)}
    found = check_structure(*specimen(PLAIN | kept, {"modules_to_save": ["norm"]}))
    assert [each.severity for each in found if each.code == "L131"] == ["warn"]
    whole: Shapes = kept | {f"{PREFIX}model.norm.weight": (32,)}
    assert "L131" not in codes(check_structure(*specimen(PLAIN | whole, {"modules_to_save": ["norm"]})))
