"""The fingerprint of an adapter: which base models its tensors fit, from their shapes alone.

A pair (A: rank x in, B: out x rank) states two widths of the base's layer. Each base of the table is held against all
of them at once, by the names that its family gives to its layers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import msgspec

from lorica.adapters.bases import BaseShape, all_bases
from lorica.adapters.config import AdapterConfig
from lorica.adapters.module_roles import SCHEMES, WIDTHS, Scheme, known_to_any, module_role
from lorica.adapters.tensor_map import LoraModule, TensorMap

# A saved embedding may be cut to the tokenizer's size, padded, or grown by the user's own tokens.
_PADDING = 512
_GROWTH = 1.8

# Widths that users change, judged apart.
_FREE = ("vocabulary", "labels")

# What would settle a width that the adapted modules leave open.
_TELLS = {
    "query": "a query projection",
    "kv": "a key or value projection",
    "context": "an output projection",
    "ffn": "a feed-forward projection (gate, up or down)",
    "layers": "the number of layers",
    "experts": "the number of experts",
    "names": "the modules' names",
}
# What families call the list of their repeated layers.
_CONTAINERS = frozenset(("layers", "layer", "h", "blocks", "block"))
# Parts of a path that lead out of the language model.
_OTHER_PARTS = frozenset(
    (
        *("visual", "vision", "vision_model", "vision_tower", "vision_encoder", "image_encoder", "embed_vision"),
        *("audio", "audio_tower", "speech_encoder", "embed_audio"),
        *("multi_modal_projector", "mm_projector", "connector", "unet", "text_encoder"),
    )
)


# No model has so many kinds of linear layers; a crafted file may name a hundred thousand.
_MOST_SLOTS = 1000


class Slot(msgspec.Struct, frozen=True):
    """One place in the layers. name: its path within a layer, without numbers ("self_attn.q_proj", "lm_head").
    widths: the (in, out) found there, sorted; 0 for a half that is missing. count: modules. first: the first's path.
    """

    name: str
    widths: tuple[tuple[int, int], ...]
    count: int
    first: str


class ModuleLocation(msgspec.Struct, frozen=True):
    """Where a module is in a model. layer: None outside layers. slot: its path within its layer, without numbers.
    in_modality_tower: in a vision or audio tower. tail: its path from the layer's number on, the same whatever wrappers
    stand before the layers.
    """

    layer: int | None
    slot: str
    in_modality_tower: bool
    tail: str


class AdapterShapes(msgspec.Struct, frozen=True, kw_only=True):
    """What tensors' shapes state about the base. layers_at_least: highest adapted layer + 1; layers: the same when
    the config leaves no layer out, so that it is the base's number. vocabulary: rows of a saved or adapted embedding
    or output head. decided: widths by name (`module_roles.WIDTHS`). contradictions: widths that no one base can have.
    modality_modules: adapted modules of a vision or audio tower, which are left out. unknown: slots that no family of
    the table has.
    """

    slots: tuple[Slot, ...]
    layers_at_least: int = 0
    layers: int | None = None
    experts_at_least: int = 0
    vocabulary: int | None = None
    decided: tuple[tuple[str, int], ...] = ()
    contradictions: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    modality_modules: int = 0

    def width(self, name: str) -> int | None:
        """A decided width by its name, or None."""
        return dict(self.decided).get(name)


class BaseMatch(msgspec.Struct, frozen=True, kw_only=True):
    """Which bases fit. candidates: their names, by shape, in the table's order. shapes: how many shapes of linear
    layers these have. open: what the candidates differ in. would_decide: what would settle that, in words. nearest:
    when none fits, the closest (name, reasons). nothing_decided: no adapted module has a name that tells anything.
    """

    shapes: int
    candidates: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    would_decide: tuple[str, ...] = ()
    nearest: tuple[tuple[str, tuple[str, ...]], ...] = ()
    nothing_decided: bool = False

    @property
    def text(self) -> str:
        """For people: "fits Qwen/Qwen3-4B and 3 others"."""
        if self.nothing_decided:
            return "its modules' names tell nothing about its base"
        if self.candidates:
            return f"fits {_and_others(self.candidates)}"
        near = "".join(f"; nearest: {name} ({', '.join(reasons)})" for name, reasons in self.nearest[:1])
        return f"fits none of the {len(all_bases())} base models known by shape{near}"


def shapes_of(layout: TensorMap, config: AdapterConfig | None) -> AdapterShapes:
    """What the shapes of an adapter's tensors decide. Never raises, whatever the shapes and names are."""
    widths: dict[str, dict[tuple[int, int], int]] = {}
    first_module: dict[str, str] = {}
    layers, experts, modality_modules = 0, 0, 0
    for module in layout.modules.values():
        location = locate_module(module.path)
        if location.in_modality_tower:
            modality_modules += 1
            continue
        pair = pair_widths(layout, module, config)
        slot, path_parts = location.slot, module.path.split(".")
        if any(pair) and (slot in widths or len(widths) < _MOST_SLOTS):
            pair_counts = widths.setdefault(slot, {})
            pair_counts[pair] = pair_counts.get(pair, 0) + 1
            first_module.setdefault(slot, module.path)
        layers = max(layers, 0 if location.layer is None else location.layer + 1)
        if "experts" in path_parts:
            behind = path_parts[path_parts.index("experts") + 1 :][:1]
            experts = max(experts, *(int(number) + 1 for number in behind if _is_number(number)), 0)
    slots = tuple(
        Slot(name, tuple(sorted(pairs)), sum(pairs.values()), first_module[name])
        for name, pairs in sorted(widths.items())
    )
    repeated = config is not None and bool(config.other.get("layer_replication"))
    decided, contradictions = _decide_widths(slots)
    return AdapterShapes(
        slots=slots,
        layers_at_least=0 if repeated else layers,
        layers=layers if layers and not repeated and leaves_no_layer_out(config) else None,
        experts_at_least=experts,
        vocabulary=_vocabulary_rows(layout, slots),
        decided=decided,
        contradictions=contradictions,
        unknown=tuple(slot.name for slot in slots if not known_to_any(slot.name)),
        modality_modules=modality_modules,
    )


def misfit_reasons(shapes: AdapterShapes, base: BaseShape) -> list[str]:
    """Why an adapter of these shapes does not fit a base, in a few words each ("hidden 2560, not 1536"); empty
    when it does."""
    reasons: dict[str, str] = {}
    for name, reason in _shape_differences(shapes, base):
        reasons.setdefault(name, reason)
    if shapes.vocabulary is not None and (reason := vocabulary_reason(shapes.vocabulary, base.vocabulary)):
        reasons["vocabulary"] = reason
    if "query" in reasons and "context" in reasons:
        del reasons["context"]  # the same number twice in nearly all families
    order = ["hidden", "layers", "names", "query", "kv", "context", "qkv", "ffn"]
    order += [name for name in reasons if name not in order]
    return [reasons[name] for name in order if name in reasons]


@functools.lru_cache(maxsize=64)
def match_bases(shapes: AdapterShapes) -> BaseMatch:
    """The bases of the table that shapes fit. An adapter for an unknown base fits none, which is legal."""
    if not any(known_to_any(slot.name) for slot in shapes.slots):
        return BaseMatch(shapes=0, nothing_decided=True)
    fitting = [
        base
        for bases in _bases_by_shape()
        if next(_shape_differences(shapes, bases[0]), None) is None
        for base in bases
    ]
    if shapes.vocabulary is not None:
        # The nearest vocabulary decides only among bases that fit otherwise: users add tokens of their own.
        tight = [base for base in fitting if abs(base.vocabulary - shapes.vocabulary) <= _PADDING]
        fitting = tight or [base for base in fitting if not vocabulary_reason(shapes.vocabulary, base.vocabulary)]
    if not fitting:
        heads = [bases[0] for bases in _bases_by_shape()]
        near = sorted(heads, key=lambda base: (len(misfit_reasons(shapes, base)), _width_distance(shapes, base)))[:3]
        return BaseMatch(shapes=0, nearest=tuple((base.name, tuple(misfit_reasons(shapes, base))) for base in near))
    keys = {_shape_key(base) for base in fitting}
    open_widths = _open_widths(fitting) if len(keys) > 1 else ()
    return BaseMatch(
        candidates=tuple(base.name for base in fitting),
        shapes=len(keys),
        open=open_widths,
        would_decide=tuple(_TELLS[name] for name in open_widths),
    )


def describe_match(shapes: AdapterShapes, match: BaseMatch, claimed: Iterable[BaseShape] = ()) -> str:
    """One line: what fits, and why a claimed base does not ("fits Qwen/Qwen3-4B and 3 others; does not fit
    Qwen/Qwen2.5-1.5B: hidden 2560, not 1536")."""
    bases = list(claimed)
    misfits = [(base, misfit_reasons(shapes, base)) for base in bases]
    fitting = tuple(base.name for base, reasons in misfits if not reasons)
    if fitting and match.candidates:
        return f"fits {_and_others(tuple(dict.fromkeys(fitting + match.candidates)))}"
    if not bases or fitting:
        return match.text
    base, reasons = min(misfits, key=lambda item: len(item[1]))
    return f"{match.text}; does not fit {base.name}: {', '.join(reasons)}"


def pair_widths(layout: TensorMap, module: LoraModule, config: AdapterConfig | None) -> tuple[int, int]:
    """(in, out) of the base's layer by a pair's shapes; 0 for a half that is missing or does not tell."""
    shape_a, shape_b = layout.shape(module.a), layout.shape(module.b)
    # QALoRA pools the inputs, and BD-LoRA's factors are blocks of the whole.
    pooled = config is not None and bool(config.other.get("use_qalora") or config.other.get("use_bdlora"))
    in_blocks = pooled and config is not None and bool(config.other.get("use_bdlora"))
    input_width = shape_a[1] if len(shape_a) in (2, 4) and not pooled else 0
    return input_width, shape_b[0] if len(shape_b) in (2, 4) and not in_blocks else 0


@functools.lru_cache(maxsize=32_768)
def locate_module(path: str) -> ModuleLocation:
    """Where a module stands: in which layer, at which place in it, and whether in the language model at all."""
    path_parts = [name for name in path.split(".") if name != "base_layer"]
    in_modality_tower = not _OTHER_PARTS.isdisjoint(path_parts)
    for index in range(1, len(path_parts)):
        if path_parts[index - 1] in _CONTAINERS and _is_number(path_parts[index]):
            inside = [name for name in path_parts[index + 1 :] if not _is_number(name)] or [path_parts[index - 1]]
            return ModuleLocation(
                int(path_parts[index]),
                ".".join(inside),
                in_modality_tower,
                ".".join((str(int(path_parts[index])), *path_parts[index + 1 :])),
            )
    inside = [name for name in path_parts if not _is_number(name)][-2:] or path_parts[-1:] or [""]
    return ModuleLocation(None, ".".join(inside), in_modality_tower, inside[-1])


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= 4


def leaves_no_layer_out(config: AdapterConfig | None) -> bool:
    """Whether PEFT adapts every layer that has the targets: the highest adapted layer is then the base's last."""
    if config is None or config.layers_to_transform not in (None, []) or config.exclude_modules:
        return False
    if not isinstance(config.target_modules, list) or not config.target_modules:
        return False
    return not any(_is_number(name_part) for name in config.target_modules for name_part in name.split("."))


def _vocabulary_rows(layout: TensorMap, slots: tuple[Slot, ...]) -> int | None:
    """Rows of the embedding or the output head, where the file holds either."""
    rows = []
    for path, names in layout.saved.items():
        if path.rsplit(".", 1)[-1] in ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"):
            rows += [layout.shape(name)[0] for name in names if len(layout.shape(name)) == 2]
    for slot in slots:
        roles = {module_role(scheme, slot.name) for scheme in SCHEMES.values()} - {None}
        sides = [side for names in roles if names for side in (0, 1) if names[side] == "vocabulary"]
        rows += [widths[side] for widths in slot.widths for side in sides]
    return max((row for row in rows if row), default=None)


def _decide_widths(slots: tuple[Slot, ...]) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """(widths by name, contradictions) under the naming that explains most."""
    best: tuple[tuple[int, int], dict[str, dict[int, str]]] | None = None
    for scheme in SCHEMES.values():
        read, missed = _read_widths(slots, scheme)
        worth = (missed, sum(len(values) > 1 for values in read.values()))
        if best is None or worth < best[0]:
            best = worth, read
    values_by_width = best[1] if best else {}
    decided = tuple((name, next(iter(values))) for name, values in values_by_width.items() if len(values) == 1)
    contradictions = tuple(
        f"{WIDTHS.get(name, name)} " + ", ".join(f"{value} ({path})" for value, path in sorted(values.items())[:4])
        for name, values in values_by_width.items()
        if len(values) > 1
    )
    return decided, contradictions


def _read_widths(slots: tuple[Slot, ...], scheme: Scheme) -> tuple[dict[str, dict[int, str]], int]:
    """Width's name -> value -> a module that states it; and how many places the scheme does not have."""
    values_by_width: dict[str, dict[int, str]] = {}
    missed = 0
    for slot in slots:
        names = module_role(scheme, slot.name)
        if names is None:
            missed += 1
            continue
        for pair in slot.widths:
            for name, value in zip(names, pair, strict=True):
                if value and name not in _FREE:
                    values_by_width.setdefault(name, {}).setdefault(value, slot.first)
    return values_by_width, missed


def _shape_differences(shapes: AdapterShapes, base: BaseShape) -> Iterator[tuple[str, str]]:
    """(what differs, in words), one by one: the first alone decides whether a base fits."""
    if base.layers:
        if shapes.layers_at_least > base.layers:
            number = f"{shapes.layers_at_least} layers"
            yield "layers", f"{'' if shapes.layers else 'at least '}{number}, not {base.layers}"
        elif shapes.layers is not None and shapes.layers < base.layers and not base.hybrid:
            yield "layers", f"{shapes.layers} layers, not {base.layers}"
    for slot in shapes.slots:
        expected = base.widths(slot.name)
        if expected is None:
            if known_to_any(slot.name):
                yield "names", f"no {slot.name.rsplit('.', 1)[-1]} in {base.family} models"
            continue
        for pair in slot.widths:
            for (name, wanted), width in zip(expected, pair, strict=True):
                if width and wanted and width != wanted and name not in _FREE:
                    yield name, f"{WIDTHS.get(name, name)} {width}, not {wanted}"
    if shapes.experts_at_least > base.experts > 0:
        yield "experts", f"at least {shapes.experts_at_least} experts, not {base.experts}"


def vocabulary_reason(rows: int, vocabulary: int) -> str:
    """Why rows of a saved embedding do not belong to a vocabulary, "" when they may: cut to the tokenizer, padded, or
    grown by tokens of the user's own. 0: an unknown vocabulary."""
    highest = max(vocabulary + _PADDING, int(vocabulary * _GROWTH))
    if not vocabulary or vocabulary - _PADDING <= rows <= highest:
        return ""
    return f"vocabulary {rows}, not {vocabulary}"


@functools.cache
def _bases_by_shape() -> tuple[tuple[BaseShape, ...], ...]:
    """The table's bases by shape."""
    bases_by_shape: dict[tuple[object, ...], list[BaseShape]] = {}
    for base in all_bases():
        bases_by_shape.setdefault((*_shape_key(base), base.hybrid), []).append(base)
    return tuple(map(tuple, bases_by_shape.values()))


def _shape_key(base: BaseShape) -> tuple[object, ...]:
    """Equal for bases that no linear layer's shape tells apart."""
    widths = {name for pair in base.scheme.values() for name in pair} - {"vocabulary", "labels", "embedding"}
    return (tuple(sorted(base.scheme)), base.layers, base.experts, *((w, base.width(w)) for w in sorted(widths)))


def _open_widths(bases: list[BaseShape]) -> tuple[str, ...]:
    differs = [name for name in ("query", "kv", "context", "ffn") if len({base.width(name) for base in bases}) > 1]
    differs += ["layers"] if len({base.layers for base in bases}) > 1 else []
    differs += ["experts"] if len({base.experts for base in bases}) > 1 else []
    if "query" in differs and "context" in differs:
        differs.remove("context")  # the same number in nearly all families
    return tuple(differs) or ("names",)


def _width_distance(shapes: AdapterShapes, base: BaseShape) -> float:
    """How far a base's widths are from those decided, as a sum of relative differences."""
    pairs = [(value, base.width(name)) for name, value in shapes.decided if base.width(name)]
    pairs += [(shapes.layers_at_least, base.layers)] if shapes.layers_at_least and base.layers else []
    return sum(abs(width - wanted) / max(width, wanted) for width, wanted in pairs)


def _and_others(names: tuple[str, ...]) -> str:
    more = len(names) - 1
    return names[0] + (f" and {more} other{'s' if more > 1 else ''}" if more else "")
