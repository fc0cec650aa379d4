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
from lorica.vetting.numbers.factor_pairing import GramMatrices, check_factor_pairing
from lorica.vetting.numbers.scan import FactorProducts, TensorFacts, scan
from lorica.vetting.numbers.sizes import check_sizes
from lorica.vetting.numbers.sketch import Sketcher, unit
from lorica.vetting.numbers.sparse import check_sparse
from lorica.vetting.numbers.spectra import GramPair, UpdateSpectrum, scalings, update_spectra
from lorica.vetting.numbers.tensor_values import check_values

# So many values of waiting Gram matrices are measured together.
_BATCH_VALUES = 1024 * 1024


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an adapter's values; small, and it can be pickled.

    measures: by module path, for pairs that fit together. scaled: whether alpha and rank are known for all of them.
    weights_digest: of every tensor's name, type, shape and bytes, whatever their order in the file. content_digest: of
    these and the config's values that decide the result. signature, sketch, start: see `numbers.sketch`; sketch
    is the direction of the update, start that of A's rows, 256 float32 each, b"" where there is none. empty: whether no
    update has a number in it (all NaN or infinite): such adapters do not equal one another.
    """

    tensors: int
    values: int
    weights_digest: str
    content_digest: str
    scaled: bool
    norm: float
    signature: str
    sketch: bytes
    start: bytes
    measures: dict[str, UpdateSpectrum]
    empty: bool = False

    @property
    def norms(self) -> dict[str, float]:
        """The Frobenius norm of every module's update, scaling included."""
        return {path: measure_of_module.norm for path, measure_of_module in self.measures.items()}

    def slim(self) -> Numbers:
        """The same without the modules: all that `check_duplicates` needs of a thousand adapters."""
        return msgspec.structs.replace(self, measures={})


# NaN and infinity are what is looked for; numpy need not warn of them.
@np.errstate(all="ignore")
def check_numbers(specimen: RawAdapter, layout: TensorMap) -> tuple[Numbers, list[Finding]]:
    """Read every tensor once and judge what is in it. The specimen must have weights."""
    assert specimen.weights is not None, "only an adapter with weights has numbers"
    scales, scaled = scalings(specimen.config, layout.modules)
    collector = _Collector(scales)
    try:
        facts = scan(specimen.weights, layout, collector.add)
    except AdapterError as error:
        broken = finding("L221", error.message, fix=error.fix, file=specimen.weights.name)
        return Numbers(
            tensors=len(layout.tensors), values=0, weights_digest="", content_digest="", scaled=scaled, norm=0.0,
            signature="", sketch=b"", start=b"", measures={},
        ), [broken]  # fmt: skip
    measures = collector.finish(layout)
    weights = _digest(facts)
    numbers = Numbers(
        tensors=len(facts),
        values=sum(tensor.count for tensor in facts.values()),
        weights_digest=weights,
        content_digest=_content(weights, specimen.config),
        scaled=scaled,
        norm=float(np.sqrt(sum(module.norm**2 for module in measures.values()))),
        signature=collector.sketcher.signature(),
        sketch=unit(collector.sketcher.update),
        start=unit(collector.sketcher.start),
        measures=measures,
        empty=bool(layout.pairs) and all(_no_number(facts[p.a]) or _no_number(facts[p.b]) for p in layout.pairs),
    )
    findings = check_values(specimen, layout, facts, measures)
    findings += check_sizes(specimen.config, layout, facts, measures, scaled=scaled)
    findings += check_factor_pairing(collector.grams.pairing()) + check_alphas(specimen, layout)
    findings += check_sparse(specimen.weights, layout, facts)
    return numbers, [msgspec.structs.replace(problem, file=specimen.weights.name) for problem in findings]


class _Collector:
    """Pairs as the scan brings them, measured in batches of equal rank."""

    def __init__(self, scales: dict[str, float]) -> None:
        self.sketcher = Sketcher()
        self.grams = GramMatrices()
        self._scales = scales
        self._waiting: dict[int, list[GramPair]] = {}
        self._held = 0
        self._measures: dict[str, UpdateSpectrum] = {}

    def add(self, module: LoraModule, a: FactorProducts, b: FactorProducts) -> None:
        """A pair of halves; one whose ranks differ is left to the structure's checks."""
        rank = len(a.gram)
        if len(b.gram) != rank:
            return
        self.grams.add(module.path, a.gram, b.gram)
        scale = self._scales[module.path]
        shape = (b.width, a.width)
        self.sketcher.add(module.path, scale, a.image, b.image, shape)
        flat = sum(_flat(half) for half in (a, b))
        self._waiting.setdefault(rank, []).append(GramPair(module.path, a.gram, b.gram, shape, scale, flat))
        self._held += 2 * rank * rank
        if self._held > _BATCH_VALUES:
            self._measure()

    def finish(self, layout: TensorMap) -> dict[str, UpdateSpectrum]:
        """All measures, in the layout's order."""
        self._measure()
        return {path: self._measures[path] for path in layout.modules if path in self._measures}

    def _measure(self) -> None:
        for pairs in self._waiting.values():
            self._measures.update(update_spectra(pairs))
        self._waiting.clear()
        self._held = 0


def _no_number(facts: TensorFacts) -> bool:
    return facts.count > 0 and facts.nans + facts.infinities == facts.count


def _flat(half: FactorProducts) -> int:
    """How many components are one value over and over: there the square of the sum is as large as it can be."""
    squares = half.gram.diagonal()
    largest = squares * half.width
    return int(np.count_nonzero((half.sums**2 > largest * (1 - 1e-5)) & (squares > 0))) if half.width >= 16 else 0


def _digest(facts: dict[str, TensorFacts]) -> str:
    digest = hashlib.sha256()
    for name in sorted(facts):
        digest.update(hashlib.sha256(name.encode("utf-8", "replace")).digest() + facts[name].digest)
    return f"sha256:{digest.hexdigest()}"


def _content(weights: str, config: AdapterConfig | None) -> str:
    """The tensors together with what decides how they are applied; not names of bases, nor what only training used."""
    meaning: dict[str, object] = {}
    if config is not None:
        listed = config.target_modules
        meaning = {
            "alpha": float(config.lora_alpha),
            "alpha_pattern": [[key, float(value)] for key, value in config.alpha_pattern.items()],
            "bias": config.bias,
            "dora": config.use_dora,
            "fan_in_fan_out": bool(config.other.get("fan_in_fan_out")),
            "r": config.r,
            "rank_pattern": [list(pair) for pair in config.rank_pattern.items()],
            "rslora": config.use_rslora,
            "saved": sorted(config.saved_modules),
            "targets": sorted(listed) if isinstance(listed, list) else listed,
        }
    text = json.dumps([weights, meaning], sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
