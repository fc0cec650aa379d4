"""L340-L369: the passport. L370-L379: its canaries in an engine."""

from __future__ import annotations

from lorica.vetting.codes.base import Code

_ANEW = "restore the files of the passport; if the change is meant: `lorica passport DIR --base BASE --force`"
_MAKE = "make it anew with `lorica passport DIR --base BASE --force`"
_BASE = "use the base of the passport; if this one is meant: `lorica passport DIR --base BASE --force`"

PASSPORT: dict[str, Code] = {
    "L340": Code("note", "no passport", "make one with `lorica passport DIR --base BASE`"),
    "L341": Code("warn", "the passport cannot be read", _MAKE, ("altered",)),
    "L342": Code(
        "reject",
        "the config was changed since the passport was made",
        _ANEW,
        ("altered", "over_scaled", "under_scaled", "not_applied"),
    ),
    "L343": Code(
        "reject", "the weights were changed since the passport was made", _ANEW, ("altered", "broken_weights")
    ),
    "L344": Code("note", "the files were written anew, and mean the same"),
    "L345": Code(
        "warn", "the base is another than the passport's", _BASE, ("wrong_revision", "wrong_base", "wrong_size")
    ),
    "L346": Code("warn", "the tokenizer is another than the passport's", _BASE, ("tokenizer_mismatch",)),
    "L347": Code("warn", "the chat template is another than the passport's", _BASE, ("prompt_mismatch",)),
    "L348": Code("warn", "the passport contradicts itself or the tensors", _ANEW, ("altered",)),
    "L349": Code("warn", "the passport's canaries prove little", _ANEW, ("no_effect",)),
    "L350": Code(
        "warn",
        "the config names another base model than when the passport was made",
        _ANEW,
        ("wrong_base", "wrong_size", "wrong_revision"),
    ),
    "L370": Code(
        "reject",
        "the engine answers as the base alone: the adapter is not applied",
        "look at names, targets and lora_B with `lorica check`; try another engine",
        ("not_applied", "no_effect"),
    ),
    "L371": Code(
        "reject",
        "the base itself does not reproduce the canaries",
        _BASE,
        ("wrong_revision", "wrong_base"),
    ),
    "L372": Code(
        "reject",
        "the base reproduces the canaries, the adapter does not",
        _ANEW,
        ("altered", "over_scaled", "under_scaled", "broken_weights"),
    ),
    "L373": Code(
        "reject",
        "the canaries give no numbers",
        "see what `lorica check` says of its values",
        ("broken_weights", "wrong_size"),
    ),
    "L374": Code("note", "the canaries are reproduced", "", ("healthy", "hard_task")),
    "L375": Code("note", "the adapter's effect is too small to be proved in this precision", "", ("no_effect",)),
    "L376": Code("warn", "the canaries could not be run", "look at what the engine says of this adapter"),
    "L377": Code(
        "note",
        "the canaries were not asked: digests alone do not show that an engine applies it",
        "`lorica passport DIR --base BASE --check` asks them",
    ),
}
