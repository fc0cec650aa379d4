from __future__ import annotations

import pytest
from tests.vetting.specimens import header

from lorica.adapters.methods import method_of_config, method_of_names
from lorica.adapters.tensor_map import layer_number, map_tensors, module_path, split_layer
from lorica.adapters.tensor_names import PREFIX

Q = f"{PREFIX}model.layers.2.self_attn.q_proj"


def test_pairs_magnitudes_and_biases_are_placed() -> None:
    names = ("lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector")
    layout = map_tensors(header({f"{Q}.{name}": (4, 4) for name in names}))
    (module,) = layout.modules.values()
    assert (module.path, module.layer, module.target) == ("model.layers.2.self_attn.q_proj", 2, "q_proj")
    assert (module.a, module.b, module.magnitude) == (f"{Q}.lora_A.weight", f"{Q}.lora_B.weight", f"{Q}.{names[3]}")
    assert module.more == (f"{Q}.lora_B.bias",)
    assert set(layout.factors()) == {module.a, module.b}
    assert layout.pairs == [module]
    assert not layout.unprefixed
    assert not layout.adapters


def test_parameters_of_one_module_are_told_apart_by_their_base_layers() -> None:
    # As PEFT saves target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"].
    experts = f"{PREFIX}model.layers.0.mlp.experts"
    shapes = {f"{path}.lora_{half}.weight": (8, 8) for path in (experts, f"{experts}.base_layer") for half in "AB"}
    layout = map_tensors(header(shapes))
    assert [each.target for each in layout.pairs] == ["experts", "experts"]
    assert {module_path(path) for path in layout.modules} == {"model.layers.0.mlp.experts"}


def test_what_is_kept_beside_the_pairs_and_what_is_strange() -> None:
    shapes = {
        f"{PREFIX}lm_head.weight": (8, 4),
        f"{PREFIX}model.embed_tokens.base_layer.weight": (8, 4),
        f"{PREFIX}score.modules_to_save.default.weight": (2, 4),
        "model.layers.0.q_proj.lora_A.mine.weight": (4, 4),
        "notes": (3,),
    }
    layout = map_tensors(header(shapes))
    assert sorted(layout.saved) == ["lm_head", "model.embed_tokens", "score"]
    assert layout.strange == ("notes",)
    assert layout.unprefixed == ("model.layers.0.q_proj.lora_A.mine.weight",)
    assert layout.adapters == ("default", "mine")


@pytest.mark.parametrize(
    ("path", "layer", "container", "template"),
    [
        ("model.layers.3.mlp.up_proj", 3, "model.layers", "model.layers.*.mlp.up_proj"),
        ("transformer.h.0.attn.c_attn", 0, "transformer.h", "transformer.h.*.attn.c_attn"),
        ("encoder.block.1.layer.0.SelfAttention.q", 1, "encoder.block", "encoder.block.*.layer.0.SelfAttention.q"),
        ("model.layers.1.mlp.experts.7.w1", 1, "model.layers", "model.layers.*.mlp.experts.7.w1"),
        ("lm_head", None, "", "lm_head"),
    ],
)
def test_layers(path: str, layer: int | None, container: str, template: str) -> None:
    assert layer_number(path) == layer
    assert split_layer(path) == (container, template)


def test_methods_are_told_by_names_and_configs() -> None:
    assert method_of_names([f"{Q}.lora_A.weight", f"{Q}.lora_B.weight", f"{Q}.lora_magnitude_vector"]) is None
    kohya = method_of_names(["lora_unet_x.lora_up.weight", f"{Q}.lora_A.weight"])
    assert kohya is not None
    assert (kohya[0], kohya[2]) == ("kohya", 1)
    assert method_of_config({"peft_type": "LORA"}) is None
    unknown = method_of_config({"peft_type": "\x1b[2Jnew"})
    assert unknown is not None
    assert unknown[1].title.isprintable()
