"""L320-L339: do the adapter's directions belong to this base model, and how large is its update beside the base?"""

from __future__ import annotations

from lorica.vetting.codes.base import Code

ALIGNMENT: dict[str, Code] = {
    "L320": Code("note", "its directions are this base's: it was trained on it or on a relative"),
    "L321": Code(
        "reject",
        "it was trained on another base model of equal shape",
        "use the base model that the adapter was trained on; its config, card or passport may name it",
        ("wrong_base",),
    ),
    "L322": Code("note", "its directions do not say whether it belongs to this base"),
    "L323": Code(
        "warn",
        "Some of its layers were not trained on this base model, though the others were",
        "look for a merge of adapters of two bases, or for files that were put together",
        ("wrong_base", "broken_weights"),
    ),
    "L324": Code(
        "reject",
        "its layers stand in another order than they were trained in",
        "fetch the adapter again, or ask whoever converted it for the order of its layers",
        ("broken_weights", "not_applied"),
    ),
    "L325": Code(
        "warn",
        "one half of it belongs to this base model, the other does not",
        "fetch the adapter again; lora_A and lora_B may come from two runs, or one was drawn anew, reordered or spoilt",
        ("broken_weights",),
    ),
    "L326": Code(
        "warn",
        "its halves were not trained together",
        "fetch the adapter again; lora_A and lora_B may come from two runs",
        ("broken_weights",),
    ),
    "L327": Code(
        "warn",
        "its update is a part of the base's own weights, which then counts twice",
        "convert it with save_pretrained(path_initial_model_for_weight_conversion=...), or load it on the residual "
        "model that PiSSA or OLoRA left",
        ("wrong_revision", "over_scaled", "wrong_base"),
    ),
    "L328": Code(
        "reject",
        "between its layers the base model's space is turned: it answers as the adapter's base, and the update is lost",
        "use the base model as it was before it was rotated for quantisation",
        ("wrong_revision", "wrong_base"),
    ),
    "L329": Code(
        "reject",
        "the base model's weights are in another form than its config says: it was converted wrongly",
        "convert it again, or fetch the base model as its maker published it",
        ("wrong_revision", "wrong_base"),
    ),
    "L330": Code(
        "warn",
        "its update is larger than the base weights it is added to",
        "compare alpha, rank and the rsLoRA flag with the training configuration, and try it at half its scale",
        ("over_scaled", "broken_weights"),
    ),
    "L331": Code(
        "note",
        "its update is negligible beside the base weights",
        "compare alpha, rank and the rsLoRA flag with the training configuration",
        ("under_scaled", "no_effect"),
    ),
    "L332": Code("note", "how large its update is beside the base weights"),
    "L333": Code(
        "warn",
        "the base's weights have few levels: it was rounded to 3 bits or fewer (4 are a note) and stored as before",
        "use the base model as it was before it was quantised, or in 4 bits or more",
        ("wrong_revision", "wrong_base"),
    ),
}
