"""What findings say about causes: the table of weights by code, and why.

A finding without a line here speaks for the causes that its code names, by its severity (`checks.py`). A line is there
where that says too little or too much. Weights are natural-log likelihood ratios; see `evidence.py`:
8 settles it · 5 to 7 only a rare accident looks so too · 2 to 4 usual with this cause, and with few others · 1 a hint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lorica.vetting.base.levels import FEW
from lorica.vetting.diagnosis.numeric import ratio_weights

Weights = dict[str, float]

# What makes an adapter useless as it is refutes both causes that say nothing is wrong with it.
_UNSOUND: Weights = {"healthy": -6.0, "hard_task": -6.0}
_DOUBTFUL: Weights = {"healthy": -2.0, "hard_task": -2.0}
# What a spoilt adapter or base seems to suffer from besides.
_POORER: Weights = {"under_scaled": -4.0, "over_scaled": -2.0, "prompt_mismatch": -3.0, "altered": -2.0}

# What a base that reads its prompts as others, or is hardly itself, makes a sound adapter seem to suffer from.
_MISREAD: Weights = {"inverted": -4.0, "wrong_revision": -1.0, "broken_weights": -3.0, "ignores_input": -2.0, **_POORER}


def _sure(cause: str, weight: float = 7.0, **others: float) -> Weights:
    return {cause: weight, **others, **_UNSOUND}


def _doubt(cause: str, weight: float, **others: float) -> Weights:
    return {cause: weight, **others, **_DOUBTFUL}


SPECIFIC: dict[str, Weights] = {
    # --- files: notes and warnings about documents say nothing about the weights
    "L061": {"altered": 0.3},
    "L063": {"altered": 0.5, "healthy": -0.3},
    "L070": {"altered": 0.5},
    # which of two values counts differs among loaders: whatever else contradicts the tensors comes from that
    "L055": _sure("altered", 9.0, unreadable=8.0),
    # a number out of range or of the wrong type was never written by a trainer: somebody edited the config
    "L059": _sure("unreadable", 4.0, altered=3.5),
    "L060": _sure("altered", 5.0, unreadable=2.0, over_scaled=1.0, under_scaled=1.0),
    # --- structure
    "L100": _sure("unsupported", 6.0, not_applied=3.0, unreadable=2.0),
    "L101": _sure("unsupported", 8.0),
    "L102": _sure("unsupported", 8.0),
    "L103": _sure("unsupported", 7.0, altered=2.0, not_applied=2.0),
    "L104": _sure("not_applied"),
    "L105": _sure("not_applied"),
    "L107": _sure("not_applied"),
    "L108": _sure("not_applied"),
    "L109": {"not_applied": 1.5, "unsupported": 1.0, "altered": 0.5, "healthy": -1.0, "hard_task": -1.0},
    # half a pair is lost in copying or conversion; names alone do not lose halves
    "L110": _sure("incomplete"),
    # the file can be read, so these are no damaged files: the values stand in the wrong shape
    "L111": _sure("broken_weights", 5.0, incomplete=2.0, unreadable=1.0),
    # factors the other way round are how other tools write them, or a conversion that went wrong
    "L113": _sure("unsupported", 5.5, unreadable=4.5, broken_weights=3.5),
    "L117": _sure("broken_weights", 4.0, wrong_size=3.5),
    "L121": _sure("broken_weights", 5.0, incomplete=1.0),
    # ranks in the config that the tensors do not have: r or rank_pattern was edited or lost
    "L112": _sure("altered", 6.0, incomplete=1.0),
    "L119": _sure("altered", 6.0, incomplete=2.0),
    "L120": _sure("incomplete", 6.0, altered=2.0),
    "L122": _sure("altered", 4.0, incomplete=3.5),
    "L123": _sure("not_applied", 7.0, altered=2.0),
    "L125": _sure("incomplete", 6.0, wrong_size=1.0),
    "L131": _sure("incomplete", 6.0, altered=2.0),
    # the tensors are there and the config does not ask for them: for loaders they are not applied
    "L132": _sure("altered", 5.0, not_applied=4.0, incomplete=1.0),
    "L134": _sure("incomplete", 4.0, altered=3.5),
    "L135": _sure("altered", 5.0, not_applied=4.0),
    # what only other engines apply is no fault of the adapter
    "L136": {},
    "L137": {"unsupported": 1.0, "over_scaled": 0.8, "healthy": -0.3},
    "L142": {},
    # --- claims: what people write about bases is often wrong, so words weigh little and contradicting tensors much
    "L150": {"wrong_size": 1.5, "wrong_base": 1.5, "wrong_revision": 0.5, "healthy": -0.7},
    "L153": {"wrong_revision": 1.5, "healthy": -0.3},
    "L154": {"wrong_revision": 1.5},
    "L155": {"wrong_revision": 1.0},
    "L156": {"wrong_size": 0.3, "wrong_base": 0.3},
    # the record experiment says by how much the scale changed, and in which direction
    "L160": _sure("altered", 4.0, over_scaled=2.0, under_scaled=2.0, not_applied=1.0),
    "L161": {"altered": 2.0, "over_scaled": 1.5, "under_scaled": 1.5, "healthy": -1.0},
    # tensors do not lie: it was made for another model than the one it names
    "L163": _sure("wrong_size", 7.0, wrong_base=1.0),
    "L164": _sure("incomplete", 3.5, wrong_size=3.0),
    "L165": _sure("not_applied", 3.0, wrong_base=2.5, wrong_size=1.0),
    "L166": {"tokenizer_mismatch": 2.5, "wrong_base": 1.0, "healthy": -1.0},
    "L167": _doubt("tokenizer_mismatch", 3.5),
    "L168": {"prompt_mismatch": 1.5},
    "L169": _doubt("tokenizer_mismatch", 4.0, wrong_size=0.5),
    "L170": {"broken_weights": 1.5, "healthy": -0.7},
    "L171": {"no_effect": 1.0, "hard_task": 0.5, "under_scaled": 0.5, "healthy": -0.5},
    "L172": {"broken_weights": 0.7, "healthy": -0.5},
    "L177": {"no_effect": 3.0, "healthy": -2.0},
    "L179": {"hard_task": 1.5, "no_effect": 0.5, "healthy": -1.0},
    # --- numbers: these are seen in the values themselves
    "L200": _sure("broken_weights", 8.0),
    "L201": _sure("broken_weights"),
    "L202": _sure("broken_weights", 5.0, unreadable=3.5, incomplete=1.0),
    "L203": _sure("broken_weights"),
    "L204": _sure("broken_weights"),
    "L208": _sure("broken_weights", 6.0, incomplete=1.0),
    "L209": {},
    "L210": _sure("no_effect", 9.0, broken_weights=-3.0),
    "L212": _doubt("under_scaled", 2.5, no_effect=2.0),
    "L214": _doubt("over_scaled", 3.0, broken_weights=0.5),
    # a layer that stands out is the trace of a lost alpha_pattern as well as of damage
    "L215": {"broken_weights": 2.5, "over_scaled": 1.5, "altered": 0.5, "healthy": -1.5, "hard_task": -1.0},
    "L216": {"broken_weights": 0.3},
    "L220": _sure("broken_weights", 6.0),
    "L145": {"altered": 1.5, "unsupported": 1.5, "healthy": -1.0, "hard_task": -0.5},
    "L222": _sure("broken_weights", 7.0, wrong_base=-3.0, wrong_size=-1.0),
    # what is left of it lies in fewer directions of its base, and does little
    "L224": _doubt("broken_weights", 7.0, under_scaled=4.0, no_effect=1.0, wrong_base=-6.0, wrong_revision=-3.0),
    "L221": _sure("unreadable", 7.0),
    # --- fit: other widths leave no doubt; other paths may be a wrapper's or another family's
    "L300": _sure("not_applied", 3.5, wrong_base=2.0, wrong_size=2.0),
    "L301": _sure("wrong_size", 9.0),
    "L302": _sure("wrong_size", 7.0),
    # what an adapter with lost layers does says nothing of prompts, scale or labels
    "L303": _sure("wrong_size", 4.0, incomplete=3.5, inverted=-4.0, **{**_POORER, "prompt_mismatch": -7.0}),
    "L304": _sure("not_applied"),
    "L305": _doubt("tokenizer_mismatch", 4.0, wrong_base=0.5),
    # names of bases are often wrong and say nothing about weights; the alignment decides
    "L306": {"wrong_revision": 1.5, "wrong_base": 1.0, "healthy": -0.5},
    "L307": {"wrong_base": 2.5, "wrong_size": 1.0, "healthy": -1.0},
    "L308": {"wrong_revision": 0.5},
    "L311": {"prompt_mismatch": 2.5, "healthy": -1.0},
    "L312": _doubt("tokenizer_mismatch", 5.0),
    "L313": _doubt("tokenizer_mismatch", 5.0, wrong_base=0.5),
    "L314": {"tokenizer_mismatch": 1.0},
    # what such a tokenizer makes of every prompt looks like any other fault of behaviour
    "L318": _doubt("tokenizer_mismatch", 9.0, **_MISREAD),
    # the adapter's layers that fit no more are then the base's fault, and so is what it does
    "L317": _doubt("wrong_base", 6.5, wrong_revision=4.0, broken_weights=-2.0, **_POORER),
    "L329": _sure("wrong_revision", 7.0, wrong_base=5.0, broken_weights=-2.0, **_POORER),
    "L319": _doubt("wrong_revision", 6.0, wrong_base=5.0, tokenizer_mismatch=2.0, broken_weights=-2.0, **_POORER),
    # an update that is like the weight it is added to comes from an initialisation that changes the base
    "L327": _sure("wrong_revision", 8.0, over_scaled=6.0, wrong_base=1.0, under_scaled=-4.0, prompt_mismatch=-3.0),
    # --- damage inside: what is left of such an adapter does little, and then another scale or format may seem to help
    "L323": _doubt("broken_weights", 3.0, wrong_base=2.0, wrong_revision=-1.0),
    "L325": _sure("broken_weights", 7.5, wrong_base=1.0, wrong_revision=-2.0, **_POORER),
    "L326": _doubt("broken_weights", 6.0, wrong_base=-1.0, wrong_revision=-1.0, **_POORER),
    "L328": _sure("wrong_revision", 7.0, wrong_base=5.0, broken_weights=-2.0, **_POORER),
    # --- size beside the base
    "L330": _doubt("over_scaled", 3.0, broken_weights=1.0),
    "L331": {"under_scaled": 1.5, "no_effect": 1.0, "healthy": -0.5},
    # --- passport and training record
    "L343": _sure("altered", 4.5, broken_weights=1.5),
    "L345": _doubt("wrong_revision", 4.0, wrong_base=3.5, wrong_size=1.0),
    "L346": _doubt("tokenizer_mismatch", 5.0),
    "L347": {"prompt_mismatch": 3.5, "healthy": -1.5},
    "L350": {"altered": 2.0, "wrong_base": 1.0, "wrong_revision": 1.0, "wrong_size": 1.0, "healthy": -1.0},
    # canaries are weighed as an experiment, with their figures
    **{code: {} for code in ("L370", "L371", "L372", "L373", "L374", "L375", "L376", "L377")},
    # --- behaviour
    # whatever is wrong with a file can keep an engine from loading it; the findings of files say what
    "L400": {"not_applied": 0.5, **_UNSOUND},
    "L401": _sure("broken_weights", 4.0, over_scaled=2.0),
    "L402": _sure("no_effect", 4.0, not_applied=3.5),
    "L404": {"over_scaled": 1.5, "broken_weights": 1.0, "wrong_base": 0.5, "healthy": -0.5},
    # no ranking can be seen in two values; a scale far too large looks so, too
    "L407": {"hard_labels": 2.5, "over_scaled": 1.2, "healthy": -1.5},
    "L410": _doubt("prompt_mismatch", 3.5),
    "L412": _doubt("over_scaled", 3.5),
    "L413": _doubt("under_scaled", 3.5),
    "L414": {"over_scaled": 0.8},
    "L415": {"under_scaled": 0.8},
    "L420": {"healthy": 1.5, "hard_task": -1.0},
    "L421": {"wrong_base": 1.5, "prompt_mismatch": 1.2, "broken_weights": 1.0, "healthy": -3.0, "hard_task": -1.0},
    "L422": _sure("inverted", 7.0),
    "L423": {"hard_task": 0.2, "healthy": -0.5},
    "L426": {},  # it says what the rows are worth, not the adapter
    # an adapter that is used by probabilities need not be able to write a number
    "L430": {"parser_fallbacks": 1.0},
    "L431": {"generation_settings": 1.0},
    "L432": {"generation_settings": 0.5},
    "L434": {},  # the likelihood of the same answers is weighed, on more rows
    # --- scores that were given
    # one score everywhere: the answers ignore the input, or a parser put a constant in their place
    "L450": _sure("ignores_input", 4.0, parser_fallbacks=2.5, no_effect=1.5, hard_labels=-3.0),
    "L451": _doubt("ignores_input", 3.0, parser_fallbacks=1.0, no_effect=1.0, under_scaled=1.0),
    "L452": _doubt("hard_labels", 5.0, ignores_input=-1.0),
    "L453": _sure("broken_weights", 3.0, parser_fallbacks=2.0),
    "L454": _doubt("generation_settings", 3.0, parser_fallbacks=3.0),
    "L456": _doubt("hard_labels", 3.5, over_scaled=1.5),
    "L457": _doubt("parser_fallbacks", 5.0),
    "L458": _doubt("parser_fallbacks", 6.0),
    "L460": {"hard_labels": 1.0, "parser_fallbacks": 1.0},
    "L461": _sure("inverted", 6.0),
    "L465": _doubt("not_applied", 5.0),
    "L466": _doubt("parser_fallbacks", 3.0, ignores_input=2.0),
    "L469": {"hard_task": 1.0, "not_applied": 0.5, "prompt_mismatch": 0.5, "healthy": -1.5},
    "L468": _sure("parser_fallbacks", 4.0, generation_settings=2.0),
    "L470": _doubt("prompt_mismatch", 3.0, wrong_base=1.0),
}


def shapeless(facts: dict[str, Any]) -> Weights:
    """L114: values that a sharded trainer did not gather are lost; halves of other shapes were spoilt."""
    if facts.get("empty") or facts.get("flat"):
        return _sure("incomplete", 7.0, unreadable=4.0, broken_weights=2.0)
    return _sure("broken_weights", 4.0, incomplete=3.5)


def other_alpha(facts: dict[str, Any]) -> Weights:
    """L223: the tensors say how it was trained, and by how much the config's scale is another."""
    ratio = facts.get("scale_factor")
    towards = ratio_weights(ratio) if isinstance(ratio, float) else {"over_scaled": 3.0, "under_scaled": 3.0}
    return {"altered": 5.0, **_UNSOUND, **towards, "unsupported": 2.0}


def changed_config(facts: dict[str, Any]) -> Weights:
    """L342: what was changed since training or the passport tells what it does."""
    changed = facts.get("changed")
    keys = set(changed) if isinstance(changed, dict) else set()
    weights: Weights = {"altered": 4.5, **_UNSOUND}
    if isinstance(facts.get("scale_factor"), float) and facts["scale_factor"] > 0:
        weights |= ratio_weights(facts["scale_factor"])
    elif keys & {"lora_alpha", "use_rslora", "alpha_pattern", "r"}:
        # The record experiment says by how much, and in which direction.
        weights |= {"altered": 2.5, "over_scaled": 2.0, "under_scaled": 2.0}
        if keys & {"lora_alpha", "use_rslora", "alpha_pattern", "r"} == {"use_rslora"}:
            # alpha/sqrt(r) is never smaller than alpha/r.
            weights["under_scaled" if changed["use_rslora"][1] else "over_scaled"] = -6.0  # type: ignore[index]
    if keys & {"target_modules", "exclude_modules", "layers_to_transform"}:
        weights |= {"not_applied": 4.0, "altered": 2.5}
    if "modules_to_save" in keys:
        weights |= {"incomplete": 2.0, "not_applied": 2.0}
    return weights


def failed_rows(facts: dict[str, Any]) -> Weights:
    """L464: rows that were cut off speak of length limits, invalid ones of the parser, errors of neither."""
    cut, invalid = float(facts.get("cut_off_share", 0.0)), float(facts.get("invalid_share", 0.0))
    weights: Weights = {}
    if cut > 0.01:
        weights |= {"generation_settings": 5.5 if cut >= 0.1 else 2.5, "healthy": -1.5, "hard_task": -1.5}
    if invalid > 0.01:
        weights["parser_fallbacks"] = 2.0 if cut >= invalid / 2 else 4.0
        weights |= {"healthy": -1.5, "hard_task": -1.5}
    return weights


def few_levels(facts: dict[str, Any]) -> Weights:
    """L333: rounded to 4 bits, a base is nearly what it was; to 2 or 3, whatever is asked of it goes wrong."""
    if facts.get("levels", 0) > FEW:
        return {"wrong_revision": 0.7}
    return {**_MISREAD, **_doubt("wrong_revision", 9.0, wrong_base=4.0, tokenizer_mismatch=-3.0, hard_labels=-3.0)}


def misplaced(facts: dict[str, Any]) -> Weights:
    """L324: layers that all stand as many places too low or too high were renumbered. Those at one end were lost, and
    the layer whose own place is beyond what is looked at takes the one that is left."""
    places = facts.get("places")
    moved = {int(old): int(new) for old, new in places.items()} if isinstance(places, dict) else {}
    if len(moved) > 2 and len({(new - old) % len(moved) for old, new in moved.items()}) == 1:
        return _sure("not_applied", 8.5, incomplete=5.0, broken_weights=3.0, wrong_base=-3.0, **_POORER)
    return _sure("broken_weights", 7.5, not_applied=2.0, wrong_base=-3.0, **_POORER)


# Codes whose weights depend on their facts.
BY_FACTS: dict[str, Callable[[dict[str, Any]], Weights]] = {
    "L114": shapeless,
    "L223": other_alpha,
    "L333": few_levels,
    "L324": misplaced,
    "L342": changed_config,
    "L464": failed_rows,
}

# Findings and experiments that look at one and the same thing count once: code -> the experiments' group.
GROUPS: dict[str, str] = {
    **dict.fromkeys(("L166", "L167", "L169", "L305", "L312", "L313", "L318", "L346"), "tokenizer"),
    **dict.fromkeys(("L168", "L311", "L347"), "template"),
    **dict.fromkeys(("L306", "L307", "L345", "L350"), "base.identity"),
    **dict.fromkeys(("L150", "L153", "L154", "L155", "L156"), "base.claims"),
    **dict.fromkeys(("L212", "L214", "L330", "L331", "L412", "L413", "L414", "L415"), "scale"),
    **dict.fromkeys(("L410", "L411"), "format"),
    **dict.fromkeys(("L420", "L421", "L422", "L423"), "skill"),
    **dict.fromkeys(("L402", "L403"), "change"),
    **dict.fromkeys(("L405", "L406", "L424"), "input"),
    "L222": "partners",
    "L323": "strangers",
    "L324": "layer_order",
    **dict.fromkeys(("L325", "L326"), "halves"),
    "L407": "spread",
    **dict.fromkeys(("L160", "L161", "L342"), "record.config"),
}

# Findings that follow from another one, and then say nothing themselves.
EXPLAINED: dict[str, tuple[str, ...]] = {
    # transposed or swapped factors have the widths of no base
    "L113": ("L111", "L117", "L163", "L301", "L302"),
    # zeros everywhere have no directions and no size
    "L210": ("L211", "L212", "L322", "L331", "L402"),
    # a base in another form predicts text badly for that reason
    "L329": ("L316", "base_text"),
    "L319": ("base_text",),
    # broken values make their layers stand out
    "L200": ("L206", "L207", "L214", "L215"),
}
