"""Base models by their shapes: a table of public facts, and how base ids name its rows.

The table (`bases.csv`) is built by tools/bases from public configs; `python -m tools.bases` rebuilds and checks it.
"""

from __future__ import annotations

import csv
import functools
import re
from pathlib import Path

import msgspec

from lorica.adapters.module_roles import SCHEMES, Scheme, module_role, scheme_of

TABLE = Path(__file__).with_name("bases.csv")
_NUMBERS = ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocabulary")
COLUMNS = ("name", "family", *_NUMBERS, "tied", "experts", "more", "aliases")


class BaseShape(msgspec.Struct, frozen=True, kw_only=True):
    """One base model's shape, in elements. 0: unknown, or not one number (it then fits anything).

    name: as Hugging Face has it. family: `model_type`. heads, kv_heads, head_dim: of the attention. ffn: width of the
    feed-forward layer ("gate_proj" puts it out). vocabulary: rows of the embedding, padding included. experts: routed
    experts per layer. more: widths that do not follow from these, by name ("expert_ffn"); "hybrid" marks models whose
    layers are of several kinds, so that the highest adapted layer does not tell how many there are.
    """

    name: str
    family: str
    hidden: int
    layers: int
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    ffn: int = 0
    vocabulary: int = 0
    tied: bool | None = None
    experts: int = 0
    more: tuple[tuple[str, int], ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def scheme(self) -> Scheme:
        """What its linear layers are called."""
        return SCHEMES[scheme_of(self.family)]

    @property
    def hybrid(self) -> bool:
        """Whether its layers are of several kinds."""
        return ("hybrid", 1) in self.more

    def width(self, width_name: str) -> int:
        """A width by its name in `module_roles.WIDTHS`; 0 when it is unknown or not one number."""
        for extra_key, extra_value in self.more:
            if extra_key == width_name:
                return extra_value
        query_width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        match width_name:
            case "hidden" | "embedding":
                return self.hidden
            case "query":
                return query_width
            case "context":
                return self.width("query")
            case "kv":
                return kv_width
            case "qkv":
                return query_width + 2 * kv_width if query_width and kv_width else 0
            case "ffn" | "vocabulary" | "experts":
                return int(getattr(self, width_name))
            case "gate_up":
                return 2 * self.ffn
            case "expert_ffn":
                return self.ffn
        return 0

    def widths(self, slot_name: str) -> tuple[tuple[str, int], tuple[str, int]] | None:
        """((name, elements) in, (name, elements) out) of a place in its layers; None when it has no such layer."""
        names = module_role(self.scheme, slot_name)
        return None if names is None else ((names[0], self.width(names[0])), (names[1], self.width(names[1])))


@functools.cache
def all_bases() -> tuple[BaseShape, ...]:
    """The shipped table, in its order. Raises OSError when the package is incomplete."""
    with TABLE.open(encoding="utf-8", newline="") as table_file:
        rows = csv.reader(table_file)
        next(rows)
        return tuple(_parse_row(row) for row in rows)


def _parse_row(row: list[str]) -> BaseShape:
    cells = dict(zip(COLUMNS, row, strict=True))
    numbers = {name: int(cells[name] or 0) for name in (*_NUMBERS, "experts")}
    extra_pairs = (pair.partition("=") for pair in cells["more"].split())
    return BaseShape(
        name=cells["name"],
        family=cells["family"],
        tied={"yes": True, "no": False}.get(cells["tied"]),
        more=tuple((key, int(value)) for key, _, value in extra_pairs),
        aliases=tuple(cells["aliases"].split()),
        **numbers,
    )


def bases_named(base_id: str, *, loosely: bool = True) -> list[BaseShape]:
    """The rows that a base id or path means; empty for a model the table does not know.

    Case, publisher, punctuation and the suffixes of quantised copies (-GPTQ, -AWQ, -bnb-4bit, -GGUF ...) do not
    count. loosely: where no row has that name, the row of the same family and size ("Qwen2.5-7B-Instruct-medical"
    means Qwen2.5-7B): a likely reading, not a certain one.
    """
    wanted = normalise_base_id(base_id)
    if not wanted:
        return []
    base_shapes = _bases_by_name().get(wanted, ())
    if not base_shapes and loosely:
        base_shapes = _loose_index().get(_strip_tuning(wanted)) or longest_prefix_match(wanted)
    return list(base_shapes)


def normalise_base_id(base_id: str) -> str:
    """ "unsloth/Qwen2.5-7B-Instruct-bnb-4bit" -> "qwen2-5-7b-instruct"; "" for what names no model."""
    base_path = base_id.strip().replace("\\", "/").rstrip("/")[-512:]
    if cached := re.search(r"models--[^/]*?--([^/]+)/snapshots", base_path):
        base_path = cached[1]
    base_slug = re.sub(r"[^a-z0-9]+", "-", base_path.rsplit("/", 1)[-1].lower()).strip("-")
    base_slug = base_slug.removeprefix("meta-")
    while (shorter := _QUANTISED.sub("", base_slug)) != base_slug:
        base_slug = shorter
    return base_slug


_QUANTISED = re.compile(
    r"-(?:gptq|awq|gguf|ggml|exl2|hqq|aqlm|bnb|unsloth|mlx|nf4|fp4|fp8|fp16|bf16|fp32|hf|quantized|dynamic"
    r"|marlin|safetensors|w4a16|w8a8|w8a16|[48]bit|int[48]|q[2-8](?:-k)?(?:-[msl0])?|g(?:32|64|128))$"
)
_TUNED = re.compile(r"-(?:instruct|chat|it|base|sft|dpo|rlhf|pt|preview|beta|alpha|1m|thinking|v\d(?:-\d)*|\d{4})$")
_SIZE = re.compile(r"(?:^|-)\d+(?:-\d+)?[bm](?:-|$)")


@functools.cache
def _bases_by_name() -> dict[str, tuple[BaseShape, ...]]:
    bases_by_name: dict[str, list[BaseShape]] = {}
    for base_shape in all_bases():
        for name in dict.fromkeys(normalise_base_id(spelling) for spelling in (base_shape.name, *base_shape.aliases)):
            bases_by_name.setdefault(name, []).append(base_shape)
    return {name: tuple(base_shapes) for name, base_shapes in bases_by_name.items()}


@functools.cache
def _loose_index() -> dict[str, tuple[BaseShape, ...]]:
    """Names without their tuning -> every row that has such a name, tuned or not."""
    bases_by_name: dict[str, dict[str, BaseShape]] = {}
    for exact_name, base_shapes in _bases_by_name().items():
        bases_by_name.setdefault(_strip_tuning(exact_name), {}).update({shape.name: shape for shape in base_shapes})
    return {exact_name: tuple(base_shapes.values()) for exact_name, base_shapes in bases_by_name.items()}


def _strip_tuning(base_name: str) -> str:
    while (shorter := _TUNED.sub("", base_name)) != base_name:
        base_name = shorter
    return base_name


def longest_prefix_match(wanted: str) -> tuple[BaseShape, ...]:
    """The longest name of the table that `wanted` begins with, unless what follows names another size."""
    name_words = wanted.split("-")
    for word_count in range(len(name_words) - 1, 1, -1):
        prefix = "-".join(name_words[:word_count])
        base_shapes = _bases_by_name().get(prefix) or _loose_index().get(prefix)
        if base_shapes and _SIZE.search(prefix):
            return () if _SIZE.search("-".join(name_words[word_count:])) else base_shapes
    return ()
