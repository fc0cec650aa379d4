"""The numbers of an adapter (L2): one pass over its tensors, without torch, in memory that does not grow with it."""

from __future__ import annotations

import hashlib
import json

import msgspec
import numpy as np

from lorica.adapters.config import AdapterConfig
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import LoraModule, TensorMap
from lorica.errors import AdapterError
from lorica.vetting.findings import Finding, finding
from lorica.vetting.numbers.alphas import check_alphas
from lorica.vetting.numbers.factor_pairing import FactorPairing, GramMatrices, check_factor_pairing
from lorica.vetting.numbers.module_updates import ModuleUpdate, module_update, scalings
from lorica.vetting.numbers.scan import FactorProducts, TensorFacts, scan
from lorica.vetting.numbers.sizes import check_sizes
from lorica.vetting.numbers.sketch import Sketcher, unit
from lorica.vetting.numbers.sparse import check_sparse
from lorica.vetting.numbers.tensor_values import check_values


class WeightStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an adapter's values; small, and it can be pickled.

    norm: of all updates together. weights_digest: of every tensor's name, type, shape and bytes, whatever their order
    in the file. content_digest: of these and the config's values that decide the result. signature, sketch, start: see
    `numbers.sketch`; sketch is the direction of the update, start that of A's rows, 256 float32 each, b"" where there
    is none. empty: whether no update has a number in it (all NaN or infinite): such adapters do not equal one another.
    pairing: which A belongs to which B.
    """

    weights_digest: str = ""
    content_digest: str = ""
    norm: float = 0.0
    signature: str = ""
    sketch: bytes = b""
    start: bytes = b""
    empty: bool = False
    pairing: FactorPairing | None = None


# NaN and infinity are what is looked for; numpy need not warn of them.
@np.errstate(all="ignore")
def check_numbers(adapter: RawAdapter, tensor_map: TensorMap) -> tuple[WeightStatistics, list[Finding]]:
    """Read every tensor once and judge what is in it. The adapter must have weights."""
    assert adapter.weights is not None, "only an adapter with weights has numbers"
    scales, scaled = scalings(adapter.config, tensor_map.modules)
    sketcher, gram_matrices = Sketcher(), GramMatrices()
    scanned: dict[str, ModuleUpdate] = {}

    def on_pair(module: LoraModule, a_products: FactorProducts, b_products: FactorProducts) -> None:
        if len(a_products.gram) != len(b_products.gram):
            return  # left to the structure's checks
        gram_matrices.add(module.path, a_products, b_products)
        shape = (b_products.width, a_products.width)
        sketcher.add(module.path, scales[module.path], a_products.image, b_products.image, shape)
        scanned[module.path] = module_update(a_products, b_products, scales[module.path])

    try:
        tensor_facts = scan(adapter.weights, tensor_map, on_pair)
    except AdapterError as error:
        return WeightStatistics(), [finding("L221", error.message, fix=error.fix, file=adapter.weights.name)]
    updates = {module_path: scanned[module_path] for module_path in tensor_map.modules if module_path in scanned}
    weights_digest, pairing = _digest(tensor_facts), gram_matrices.pairing()
    silent = (_no_number(tensor_facts[pair.a]) or _no_number(tensor_facts[pair.b]) for pair in tensor_map.pairs)
    statistics = WeightStatistics(
        weights_digest=weights_digest,
        content_digest=_content(weights_digest, adapter.config),
        norm=float(np.sqrt(sum(update.norm**2 for update in updates.values()))),
        signature=sketcher.signature(),
        sketch=unit(sketcher.update),
        start=unit(sketcher.start),
        empty=bool(tensor_map.pairs) and all(silent),
        pairing=pairing,
    )
    findings = check_values(adapter, tensor_map, tensor_facts, updates)
    findings += check_sizes(adapter.config, tensor_map, tensor_facts, updates, scaled=scaled)
    findings += check_factor_pairing(pairing) + check_alphas(adapter, tensor_map)
    findings += check_sparse(adapter.weights, tensor_map, tensor_facts)
    return statistics, [msgspec.structs.replace(problem, file=adapter.weights.name) for problem in findings]


def _no_number(tensor_facts: TensorFacts) -> bool:
    return tensor_facts.count > 0 and tensor_facts.nans + tensor_facts.infinities == tensor_facts.count


def _digest(tensor_facts: dict[str, TensorFacts]) -> str:
    digest = hashlib.sha256()
    for tensor_name in sorted(tensor_facts):
        name_digest = hashlib.sha256(tensor_name.encode("utf-8", "replace"))
        digest.update(name_digest.digest() + tensor_facts[tensor_name].digest)
    return f"sha256:{digest.hexdigest()}"


def _content(weights: str, config: AdapterConfig | None) -> str:
    """The tensors together with what decides how they are applied; not names of bases, nor what only training used."""
    meaning: dict[str, object] = {}
    if config is not None:
        listed = config.target_modules
        meaning = {
            "alpha": float(config.lora_alpha),
            "alpha_pattern": [[module_pattern, float(value)] for module_pattern, value in config.alpha_pattern.items()],
            "bias": config.bias,
            "dora": config.use_dora,
            "fan_in_fan_out": bool(config.other.get("fan_in_fan_out")),
            "r": config.r,
            "rank_pattern": [list(rank_entry) for rank_entry in config.rank_pattern.items()],
            "rslora": config.use_rslora,
            "saved": sorted(config.saved_modules),
            "targets": sorted(listed) if isinstance(listed, list) else listed,
        }
    content_json = json.dumps([weights, meaning], sort_keys=True)
    return f"sha256:{hashlib.sha256(content_json.encode()).hexdigest()}"
