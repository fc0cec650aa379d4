"""L150-L199: what names, cards and records claim, against each other and against the tensors."""

from __future__ import annotations

from lorica.vetting.codes.base import Code

_WHICH = "find out which base it was trained on, and write that into adapter_config.json"
_SIZE = ("wrong_size", "wrong_base")

CLAIMS: dict[str, Code] = {
    "L150": Code("warn", "different base models are named", _WHICH, _SIZE),
    "L153": Code("warn", "a base and its instruction-tuned variant are both named", _WHICH, ("wrong_revision",)),
    "L154": Code("note", "a quantised base is named", "load the base as it was in training", ("wrong_revision",)),
    "L155": Code("note", "a revision of the base is named", "load that revision of the base", ("wrong_revision",)),
    "L156": Code("warn", "no base model is named", _WHICH, _SIZE),
    "L157": Code(
        "note", "the base is named by a path of another machine", "write the base's public name into the config"
    ),
    "L158": Code("note", "trained for another task than generating text"),
    "L159": Code("note", "written by a newer version of PEFT than 0.21", "upgrade PEFT if something is not recognised"),
    "L160": Code(
        "reject",
        "the config differs from the record of its own training: it was changed afterwards",
        "restore adapter_config.json as it was saved with the weights",
        ("altered", "over_scaled", "under_scaled"),
    ),
    "L161": Code(
        "warn",
        "the config differs from the settings in the training's arguments",
        "find out which is right; scale and rank change every answer",
        ("altered", "over_scaled", "under_scaled"),
    ),
    "L163": Code("reject", "the tensors do not fit the base that is named", _WHICH, ("wrong_size",)),
    "L164": Code(
        "reject",
        "fewer layers than the named base has, and nothing in the config leaves any out",
        "copy the adapter again, or correct the named base",
        ("incomplete", "wrong_size"),
    ),
    "L165": Code(
        "reject",
        "module names of another family than the named base: PEFT's load_adapter drops them without a word",
        "rename the tensors as the base names its modules, or correct the named base",
        ("not_applied", "wrong_base"),
    ),
    "L166": Code(
        "warn",
        "the tokenizer beside it is of another family than the named base",
        "use the base's own tokenizer, or correct the named base",
        ("tokenizer_mismatch", "prompt_mismatch", "wrong_base"),
    ),
    "L167": Code(
        "warn",
        "tokens were added to the vocabulary, and no embedding was trained or stored for them",
        "train their embeddings (trainable_token_indices, modules_to_save), or do not use these tokens",
        ("tokenizer_mismatch",),
    ),
    "L168": Code(
        "note",
        "a chat template of another kind than the named base's",
        "ask it with the template that is beside it",
        ("prompt_mismatch",),
    ),
    "L169": Code("warn", "rows of stored embeddings do not belong to the named base", _WHICH, ("tokenizer_mismatch",)),
    "L170": Code(
        "warn",
        "the loss became NaN or infinite in training",
        "train again with a lower learning rate",
        ("broken_weights",),
    ),
    "L171": Code("warn", "the training loss never fell", "train again: learning rate, labels, targets", ("no_effect",)),
    "L172": Code("warn", "the training loss rose", "train again with a lower learning rate", ("broken_weights",)),
    "L173": Code("note", "the validation loss rose at the end: overfitted", "use the checkpoint with the lowest loss"),
    "L174": Code("note", "not the checkpoint that did best on validation", "use the best one"),
    "L175": Code("note", "the training had not ended"),
    "L176": Code("note", "nothing was held out for validation", "measure it on rows it has not seen: --rows"),
    "L177": Code("warn", "trained for no steps", "train it", ("no_effect",)),
    "L178": Code(
        "warn",
        "the record of a training beside it speaks of other weights",
        "put the training.json of these weights there, or take it away",
        ("altered",),
    ),
    "L179": Code(
        "warn", "no better than its base on the held-out rows of its own training", "train again", ("no_effect",)
    ),
    "L180": Code(
        "warn",
        "trained on rows that all have one answer: it can only have learned to say that",
        "train again with rows of every answer",
        ("no_effect",),
    ),
    "L181": Code(
        "note", "nearly all training rows have one answer", "measure it by ROC-AUC and on rows of the rarer answers"
    ),
    "L182": Code(
        "note", "the checkpoint was chosen on held-out rows of one answer", "measure it on rows of every answer: --rows"
    ),
}
