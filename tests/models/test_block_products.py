"""Products with weights in ggml's blocks: beside the restored weights on every target, and their bits."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tools.gguf_files import random_blocks  # noqa: E402

from lorica.gguf.block_types import BLOCK_TYPES  # noqa: E402
from lorica.models.compiled import bindings, block_products, library  # noqa: E402
from lorica.models.cpu import weight_only  # noqa: E402
from lorica.models.cpu.weight_only import WeightOnlyLinear, gated_product  # noqa: E402
from lorica.models.gguf_layers import GgufWeight  # noqa: E402

pytestmark = pytest.mark.usefixtures("target")

QUANTIZED = [block_type for block_type in BLOCK_TYPES.values() if block_type.quantized]
PLAIN = (torch.float32, torch.float16, torch.bfloat16)


def some(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blocks_of(block_type: Any, outputs: int, inputs: int) -> GgufWeight:
    blocks = random_blocks(block_type, outputs, inputs, seed=outputs)
    return GgufWeight(torch.from_numpy(blocks), block_type)


def check(weights: list[GgufWeight], bias: Any, rows: int = 29) -> None:
    """The linear layer is the product in float64, but for the rounding of its inputs and sums."""
    x = some(rows, weights[0].shape[1], seed=1)
    inputs = weights[0].shape[1]
    dtype = block_products.input_dtype() if block_products.can_multiply(inputs) else torch.float32
    whole = torch.cat([weight.whole() for weight in weights]).to(dtype).double()
    expected = x.to(dtype).double() @ whole.t()
    expected += 0 if bias is None else bias.double()
    product = WeightOnlyLinear(weights, bias, torch.float32)(x)
    assert product.dtype == torch.float32
    assert (product - expected).abs().max() <= 3e-6 * (x.abs().double() @ whole.abs().t()).max()


@pytest.mark.parametrize("block_type", QUANTIZED, ids=lambda block_type: block_type.name)
def test_a_product_is_that_of_the_restored_weights(block_type: Any) -> None:
    """Inputs of whole and of half-filled steps, outputs of whole panels and of remainders."""
    for outputs, inputs in ((64, 512), (77, block_type.weights * 11), (5, block_type.weights)):
        check([blocks_of(block_type, outputs, inputs)], some(outputs, seed=2))


def test_several_weights_of_one_input_lie_side_by_side() -> None:
    by_name = {block_type.name: block_type for block_type in QUANTIZED}
    weights = [blocks_of(by_name[name], outputs, 256) for name, outputs in (("Q4_1", 40), ("Q6_K", 3), ("Q8_0", 64))]
    check(weights, some(107, seed=2))
    check(weights, None, rows=300)


@pytest.mark.parametrize("dtype", PLAIN)
@pytest.mark.parametrize("inputs", [96, 50])
def test_plain_numbers_are_a_type_of_block(dtype: Any, inputs: int) -> None:
    """An adapter was merged into them, or the file has them so; 50 inputs are multiplied by torch."""
    check([GgufWeight.plain(some(37, inputs).to(dtype))], None)


def test_the_bits_of_a_row_are_its_own(target: str) -> None:
    if target == library.NO_TARGET:
        pytest.skip("torch's operators round by the number of rows")
    layer, x = WeightOnlyLinear([blocks_of(QUANTIZED[1], 200, 544)], None, torch.float32), some(300, 544, seed=1)
    expected = layer(x)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for first, rows in ((0, 1), (3, 2), (10, 5), (17, 16), (40, 31), (0, 299)):
                assert torch.equal(layer(x[first : first + rows]), expected[first : first + rows])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("width", [500, 40])
def test_gate_and_up_by_columns_have_the_bits_of_the_whole(
    width: int, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target == library.NO_TARGET:
        pytest.skip("columns are taken by the kernels")
    gate = WeightOnlyLinear([blocks_of(QUANTIZED[0], width, 544)], some(width, seed=2), torch.float32)
    up = WeightOnlyLinear([GgufWeight.plain(some(width, 544, seed=3))], None, torch.float32)
    x = some(70, 544, seed=1)
    expected = bindings.silu_and_mul(gate(x), up(x)).to(block_products.input_dtype())
    monkeypatch.setattr(weight_only, "_GATED_ELEMENTS", 70 * 200 // torch.get_num_threads())
    activated = gated_product(gate, up, x)
    assert activated.shape == (70, width)
    assert torch.equal(activated.to(expected.dtype), expected)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_is_no_number_stays_in_its_row(poison: float) -> None:
    x = some(4, 64, seed=1)
    x[2, 5] = poison
    product = WeightOnlyLinear([blocks_of(QUANTIZED[0], 64, 64)], None, torch.float32)(x)
    assert not product[2].isfinite().any()
    assert product[[0, 1, 3]].isfinite().all()
