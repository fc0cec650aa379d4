"""L200-L249: the values of the tensors. L250-L299: adapters that equal one another."""

from __future__ import annotations

from lorica.vetting.codes.base import Code

_AGAIN = "fetch the adapter again, or save it again where it was trained"

NUMBERS: dict[str, Code] = {
    "L200": Code(
        "reject",
        "values that are no numbers (NaN or infinite)",
        "train again; the run diverged or the file is damaged",
        ("broken_weights",),
    ),
    "L201": Code("reject", "garbled values: no training leaves such sizes", _AGAIN, ("broken_weights",)),
    "L202": Code(
        "reject",
        "the file ends in zeros that begin inside a tensor: a download or copy that stopped",
        _AGAIN,
        ("broken_weights", "unreadable"),
    ),
    "L203": Code("reject", "a block of one value inside a tensor", _AGAIN, ("broken_weights",)),
    "L204": Code("reject", "tensors whose values are all the same", _AGAIN, ("broken_weights",)),
    "L205": Code(
        "warn",
        "rank components that are constant or equal to one another",
        "ask its maker how it was saved",
        ("broken_weights",),
    ),
    "L206": Code(
        "warn", "values at the limit of their type", "save it again in a wider type", ("broken_weights", "over_scaled")
    ),
    "L207": Code("warn", "single values far beyond all others", _AGAIN, ("broken_weights",)),
    "L208": Code("reject", "layers that are copies of one another", _AGAIN, ("broken_weights", "incomplete")),
    "L209": Code("note", "modules that share lora_A", "nothing, where the layers were trained fused", ()),
    "L210": Code(
        "reject",
        "no effect: the update is zero",
        "train it, or save it after training; the base model alone would answer",
        ("no_effect",),
    ),
    "L211": Code(
        "warn", "modules without an effect", "ask its maker whether they were trained", ("no_effect", "incomplete")
    ),
    "L212": Code(
        "warn",
        "hardly any effect: the update is far too small",
        "check alpha and rank, and whether it was trained at all",
        ("no_effect", "under_scaled"),
    ),
    "L213": Code("note", "a large update", "check alpha, rank and the rsLoRA flag against training", ("over_scaled",)),
    "L214": Code(
        "warn",
        "the update is far too large",
        "check alpha, rank and the rsLoRA flag against training",
        ("over_scaled",),
    ),
    "L215": Code(
        "warn",
        "a layer whose update stands out from its peers",
        "ask its maker; it may be damaged or rescaled",
        ("broken_weights",),
    ),
    "L216": Code(
        "note",
        "lora_A is far from the size it starts with",
        "nothing, where it was rescaled on purpose",
        ("broken_weights",),
    ),
    "L217": Code("note", "small values were lost in a coarse type", "save it again in BF16 or F32", ("under_scaled",)),
    "L218": Code("note", "rank components without an effect", "nothing, where ranks were padded", ()),
    "L219": Code(
        "warn", "values in a type that cannot be judged", "save it again as F32, BF16 or F16", ("unsupported",)
    ),
    "L220": Code("reject", "DoRA magnitudes that cannot be right", _AGAIN, ("broken_weights",)),
    "L221": Code("reject", "the weights cannot be read to their end", _AGAIN, ("unreadable",)),
    "L222": Code(
        "reject",
        "halves of pairs stand in each other's places",
        "fetch the adapter again, or save it again where it was trained: names and contents were mixed up",
        ("broken_weights",),
    ),
    "L223": Code(
        "reject",
        "tensors of alpha contradict the config: loaders go by the config, at another scale than in training",
        "set lora_alpha (or alpha_pattern) to what the tensors say, and save the adapter without them",
        ("altered", "over_scaled", "under_scaled", "unsupported"),
    ),
    "L224": Code(
        "warn",
        "most numbers of the factors were dropped, and the others were not scaled up",
        "use the adapter as it was before it was pruned, or have the others scaled by 1 / (1 - share of zeros)",
        ("under_scaled", "broken_weights", "no_effect"),
    ),
    "L250": Code("warn", "a copy of another adapter", "keep one of them", ("altered",)),
    "L251": Code("note", "nearly the same update as another adapter", "in a blend, count them as one", ()),
    "L252": Code(
        "warn",
        "another adapter's update at another scale or under another config",
        "find out which config is the one it was trained with",
        ("altered", "over_scaled", "under_scaled"),
    ),
    "L253": Code(
        "warn",
        "the same weights as another adapter, for another base model",
        "find out which base it was trained on",
        ("wrong_base", "altered"),
    ),
    "L254": Code(
        "note", "started from the same initial values as others", "nothing; runs of one seed and folds do", ()
    ),
    "L255": Code("note", "folds of one run", "nothing; blend them, or choose by their validation", ()),
    "L256": Code("note", "checkpoints of one training run", "nothing; choose by validation", ()),
}
