"""Do the widths of all modules belong to one model? What layers add to the residual stream is as wide as it is."""

from __future__ import annotations

from collections import Counter

from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.layout import Factors, Layout, split_layer
from lorica.vetting.findings import Finding, finding
from lorica.vetting.structure.pairs import usable_pairs
from lorica.vetting.structure.targets import Asked
from lorica.vetting.wording import listed, numbers, shown

# Of the modules of one layer in families that name them so: which read the residual stream, which write to it.
_READ = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"}
_WRITE = {"self_attn.o_proj", "mlp.down_proj"}


def check_widths(asked: Asked | None, layout: Layout) -> list[Finding]:
    """Findings about widths that contradict each other, and about layers that differ from the others."""
    pairs = [
        each
        for each in usable_pairs(asked, layout)
        if each.layer is not None and len(layout.shape(each.a)) == 2 and not (asked and asked.of_parameters(each.path))
    ]
    found = _residual(layout, pairs) + _feed_forward(layout, pairs)
    return found[:1] or _odd_layers(layout, pairs)


def _residual(layout: Layout, pairs: list[Factors]) -> list[Finding]:
    for container in dict.fromkeys(split_layer(each.path)[0] for each in pairs):
        widths: dict[int, list[str]] = {}
        for each in pairs:
            place, template = split_layer(each.path)
            if place != container:
                continue
            inner = template.removeprefix(f"{container}.*.")
            if inner in _READ:
                widths.setdefault(layout.shape(each.a)[1], []).append(each.path)
            elif inner in _WRITE:
                widths.setdefault(layout.shape(each.b)[0], []).append(each.path)
        if len(widths) > 1:
            by_count = sorted(widths.items(), key=lambda item: -len(item[1]))
            seen = " and ".join(f"hidden size {width} in {len(paths)} modules" for width, paths in by_count[:3])
            odd = by_count[-1]
            return [
                finding(
                    "L117",
                    f"{seen}; {odd[0]} in {shown(odd[1][0])}",
                    expected="one hidden size",
                    file=WEIGHTS_NAME,
                    facts={"widths": {str(width): len(paths) for width, paths in by_count}},
                )
            ]
    return []


def _feed_forward(layout: Layout, pairs: list[Factors]) -> list[Finding]:
    """gate and up give what down takes, in each layer and each expert."""
    inner: dict[str, dict[str, int]] = {}
    for each in pairs:
        parent, _, kind = each.path.rpartition(".")
        if kind in ("gate_proj", "up_proj"):
            inner.setdefault(parent, {})[kind] = layout.shape(each.b)[0]
        elif kind == "down_proj":
            inner.setdefault(parent, {})[kind] = layout.shape(each.a)[1]
    wrong = {parent: widths for parent, widths in inner.items() if len(set(widths.values())) > 1}
    if not wrong:
        return []
    parent, widths = next(iter(wrong.items()))
    seen = f"feed-forward of {len(wrong)} of {len(inner)} layers, {shown(parent)}: " + ", ".join(
        f"{kind} {width}" for kind, width in sorted(widths.items())
    )
    facts = {"layers": len(wrong), "of": len(inner), **widths}
    return [finding("L117", seen, expected="one inner width", file=WEIGHTS_NAME, facts=facts)]


def _odd_layers(layout: Layout, pairs: list[Factors]) -> list[Finding]:
    """Kinds of modules whose shape differs in a single layer or two; bases of mixed layers differ in many."""
    shapes: dict[str, dict[int, tuple[int, int]]] = {}
    for each in pairs:
        _, template = split_layer(each.path)
        shape = layout.shape(each.a)[1], layout.shape(each.b)[0]
        shapes.setdefault(template, {})[each.layer or 0] = shape
    odd: dict[str, list[int]] = {}
    for template, layers in shapes.items():
        counts = Counter(layers.values())
        usual, often = counts.most_common(1)[0]
        few = sorted(layer for layer, shape in layers.items() if shape != usual)
        if few and len(few) <= max(1, len(layers) // 16) and often > len(few):
            odd[template] = few
    if not odd:
        return []
    template, few = next(iter(odd.items()))
    usual = Counter(shapes[template].values()).most_common(1)[0][0]
    return [
        finding(
            "L118",
            f"{listed(odd, 3)}: layers {numbers(few)} have (inputs, outputs) {list(shapes[template][few[0]])}",
            expected=f"{list(usual)}, as in the other layers",
            file=WEIGHTS_NAME,
            facts={"templates": dict(list(odd.items())[:16])},
        )
    ]
