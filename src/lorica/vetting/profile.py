"""What an adapter is, in one line of a table: read from its files, not judged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from lorica.adapters.config import AdapterConfig
from lorica.adapters.header import TensorInfo
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.errors import AdapterError
from lorica.vetting.files.tools import tool_of

# Where PEFT's config, MLX's and AdapterHub's name the base.
_BASES = ("base_model_name_or_path", "model", "model_name")

CLASSIFIER = "classifier"
"""The method of an encoder classifier of its own, which is none of PEFT's."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """name, path, kind: see `RawAdapter`. method: PEFT's name for it. base, revision: as the config claims.

    ranks, alphas, scalings: the distinct values, sorted; from the tensors and the config. targets: kinds of adapted
    modules. layers: numbers of adapted layers, sorted. modules: adapted modules. parameters: elements of all tensors.
    bytes: size of the weights file. dtypes: element types in the file.
    """

    name: str
    path: str
    kind: str
    method: str = ""
    base: str = ""
    revision: str = ""
    ranks: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    scalings: tuple[float, ...] = ()
    rslora: bool = False
    dora: bool = False
    targets: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    modules: int = 0
    dropout: float | None = None
    saved: tuple[str, ...] = ()
    parameters: int = 0
    bytes: int = 0
    dtypes: tuple[str, ...] = ()

    def with_tensors(self, tensors: Mapping[str, TensorInfo]) -> Profile:
        """This profile with what a file's header says of all tensors."""
        return msgspec.structs.replace(
            self,
            parameters=sum(math.prod(tensor_info.shape) for tensor_info in tensors.values()),
            bytes=max((tensor_info.stop for tensor_info in tensors.values()), default=0),
            dtypes=tuple(sorted({tensor_info.dtype for tensor_info in tensors.values()})),
        )


def profile(specimen: RawAdapter, layout: TensorMap | None) -> Profile:
    """The profile of what could be read; everything else keeps its empty value."""
    config, raw_config = specimen.config, specimen.raw_config or {}
    own_files = [file_name for file_name in specimen.files if "/" not in file_name]
    training_tool = tool_of(raw_config, specimen.header, own_files)
    partial = Profile(
        name=specimen.name,
        path=str(specimen.given),
        kind=specimen.kind,
        method=_text(raw_config.get("peft_type")) if training_tool is None else training_tool.title,
        base=next(filter(None, (_text(raw_config.get(config_key)) for config_key in _BASES)), ""),
        revision=_text(raw_config.get("revision")),
        rslora=config is not None and config.use_rslora,
        dora=config is not None and config.use_dora,
        dropout=float(config.lora_dropout) if config is not None else None,
    )
    if layout is None or training_tool is not None:
        return partial
    modules = layout.modules.values()
    alphas, scalings = _scalings(config, (factors.path for factors in layout.pairs))
    return msgspec.structs.replace(
        partial,
        ranks=tuple(sorted({layout.shape(factors.a)[0] for factors in layout.pairs if layout.shape(factors.a)})),
        alphas=alphas,
        scalings=scalings,
        targets=tuple(sorted({module.target for module in modules})),
        layers=tuple(sorted({module.layer for module in modules if module.layer is not None})),
        modules=len(modules),
        saved=tuple(sorted(layout.saved)),
    ).with_tensors(layout.tensors)


def _scalings(config: AdapterConfig | None, modules: Iterable[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Distinct alphas and scalings of the modules; empty where a pattern is a regular expression."""
    if config is None:
        return (), ()
    alphas, scalings = set(), set()
    try:
        for module_path in modules:
            scalings.add(round(config.scaling(module_path), 9))
            alphas.add(round(config.alpha(module_path), 6))
    except AdapterError:
        return (float(config.lora_alpha),), ()
    return tuple(sorted(alphas)), tuple(sorted(scalings))


def _text(config_value: object) -> str:
    return config_value if isinstance(config_value, str) else ""
