"""L400-L449: what the adapter does in its engine. L450-L479: the health of a column of scores."""

from __future__ import annotations

from lorica.vetting.codes.base import Code

_MENDED = "train it again, or take it from where it was made"
_FORMAT = "ask with the prompts it was trained with (task.style, task.method, model.chat_template)"

BEHAVIOUR: dict[str, Code] = {
    "L400": Code("reject", "It cannot be loaded into the engine", "use the base it was trained on", ("not_applied",)),
    "L401": Code("reject", "Its output is not a number", _MENDED, ("broken_weights", "over_scaled")),
    "L402": Code(
        "reject",
        "It changes nothing: every probability equals the base model's",
        "see whether its names, targets and lora_B say why; " + _MENDED,
        ("no_effect", "not_applied"),
    ),
    "L403": Code(
        "warn",
        "It changes next to nothing",
        "raise the scale, or train longer",
        ("under_scaled", "no_effect", "hard_task"),
    ),
    "L404": Code(
        "warn",
        "It carries the model far away from the base",
        "see whether its answers are still sensible; lower lora_alpha if a smaller scale does better",
        # Answers of another kind than the choices are far away, too.
        ("over_scaled", "broken_weights", "wrong_base", "prompt_mismatch"),
    ),
    "L405": Code(
        "warn",
        "Its answers do not depend on what it is asked",
        "see whether it was trained on one label only, or for another prompt",
        ("ignores_input", "over_scaled", "prompt_mismatch"),
    ),
    "L406": Code(
        "note",
        "Most rows get one and the same answer",
        "see whether it was trained on one label only",
        ("ignores_input", "prompt_mismatch"),
    ),
    "L407": Code(
        "warn",
        "It puts out hard labels, not probabilities",
        "train fewer epochs or with softer targets where a ranking is needed",
        ("hard_labels", "over_scaled"),
    ),
    "L408": Code("note", "It does not follow the examples in the prompt", "", ("ignores_input", "hard_task")),
    "L409": Code("note", "It answers the opposite of the examples in the prompt", "", ("inverted",)),
    "L410": Code("warn", "Another prompt format does clearly better", _FORMAT, ("prompt_mismatch",)),
    "L411": Code("note", "It is surer in another prompt format", _FORMAT, ("prompt_mismatch",)),
    "L412": Code(
        "warn",
        "A much smaller scale does clearly better",
        "lower lora_alpha, or see whether use_rslora and r are those of its training",
        ("over_scaled",),
    ),
    "L413": Code(
        "warn",
        "A much larger scale does clearly better",
        "raise lora_alpha, or see whether use_rslora and r are those of its training",
        ("under_scaled",),
    ),
    "L414": Code("note", "Its scale looks too large", "measure with labelled rows (--rows)", ("over_scaled",)),
    "L415": Code("note", "Its scale looks too small", "measure with labelled rows (--rows)", ("under_scaled",)),
    "L416": Code("note", "With its scale at zero it still differs from the base", "", ("altered",)),
    "L420": Code("note", "It is clearly better than the base model", "", ("healthy",)),
    "L421": Code(
        "warn",
        "It is clearly worse than the base model",
        "do not use it for this task as it is asked here",
        ("wrong_base", "prompt_mismatch", "broken_weights"),
    ),
    "L422": Code(
        "reject",
        "It answers the opposite: labels inverted",
        "swap the labels, or train again with the right ones",
        ("inverted",),
    ),
    "L423": Code(
        "warn",
        "It is not better than the base model, as far as these rows can tell",
        "give more labelled rows, or see whether the task can be learned from them",
        ("hard_task", "prompt_mismatch", "under_scaled"),
    ),
    "L424": Code(
        "warn",
        "It does as well with the texts of other rows",
        "see what besides the text gives the answer away",
        ("ignores_input",),
    ),
    "L425": Code("note", "It prefers some letters whatever they stand for", "", ("ignores_input",)),
    "L426": Code(
        "warn",
        "It was trained on rows that were given to measure it",
        "give rows it has not seen: on these it shows its memory",
        (),
    ),
    "L427": Code(
        "warn",
        "It does far more to another task than to these rows",
        "give rows of the task it was trained for, or name it with --task",
        ("prompt_mismatch",),
    ),
    "L430": Code(
        "warn",
        "Generated answers cannot be read",
        "set task.method=choice, or another prompt; raise inference.max_new_tokens",
        ("parser_fallbacks", "prompt_mismatch"),
    ),
    "L431": Code(
        "warn",
        "Generated answers are cut off",
        "raise inference.max_new_tokens, and leave inference.use_stop_tokens=true",
        ("generation_settings", "prompt_mismatch"),
    ),
    "L432": Code(
        "warn",
        "Sampling changes the answers from one seed to the next",
        "set inference.do_sample=false",
        ("generation_settings",),
    ),
    "L433": Code(
        "note", "Generated answers contradict the probabilities", "", ("generation_settings", "prompt_mismatch")
    ),
    "L434": Code(
        "note",
        "How right its generated answers are",
        "where the base alone does better, do not use it for this task as it is asked here",
        (),
    ),
    "L440": Code(
        "warn",
        "Prompts hold tokens that the model does not have",
        "use the tokenizer of the base model",
        ("tokenizer_mismatch",),
    ),
    "L441": Code("note", "Some prompts could not be asked", "", ()),
    "L450": Code("reject", "All rows have the same score", "see what answered them", ("ignores_input", "no_effect")),
    "L451": Code("warn", "The scores are nearly all the same", "", ("ignores_input", "no_effect")),
    "L452": Code(
        "warn",
        "Only two different scores: hard labels",
        "write probabilities (task.method=choice), not labels",
        ("hard_labels",),
    ),
    "L453": Code(
        "reject", "Some scores are not numbers", "find what wrote them", ("broken_weights", "parser_fallbacks")
    ),
    "L454": Code("warn", "Some rows have no score", "answer them again", ("parser_fallbacks",)),
    "L455": Code("warn", "Scores lie outside their range", "state the range, or scale them", ()),
    "L456": Code("warn", "Nearly all scores stand at the bounds", "", ("hard_labels", "over_scaled")),
    "L457": Code(
        "warn",
        "A round constant stands among the scores",
        "see whether a fall-back of a parser wrote it",
        ("parser_fallbacks",),
    ),
    "L458": Code(
        "warn",
        "Rows were answered by a fall-back constant",
        "set task.method=choice, which needs no parser",
        ("parser_fallbacks",),
    ),
    "L459": Code("reject", "An id stands for several scores", "keep one row of each id", ()),
    "L460": Code("note", "There are few different scores", "", ("hard_labels", "parser_fallbacks")),
    "L461": Code("reject", "The scores order the rows backwards", "swap the labels, or use 1 - score", ("inverted",)),
    "L462": Code("warn", "The scores are too good to be true", "look for gold in the input", ()),
    "L463": Code("note", "Nearly all scores lie on one side of the middle", "", ()),
    "L464": Code(
        "warn",
        "Rows ended in an error, were cut off or stayed invalid",
        "see their `problem`, and answer them again",
        ("generation_settings", "parser_fallbacks"),
    ),
    "L465": Code(
        "warn", "Rows were not answered by the adapter they asked for", "add the missing adapter", ("not_applied",)
    ),
    "L466": Code("warn", "More than half of the rows have one score", "", ("parser_fallbacks", "ignores_input")),
    "L467": Code("note", "How well the scores rank the labelled rows", "", ()),
    "L468": Code("reject", "There is no score at all", "see what wrote the file", ("parser_fallbacks",)),
    "L469": Code(
        "warn",
        "The scores rank the labelled rows no better than chance",
        "see whether the adapter was applied, and whether ids and labels belong to these rows",
        ("hard_task", "not_applied", "prompt_mismatch"),
    ),
    "L470": Code(
        "warn",
        "The choices have little of the model's probability",
        "see whether a prompt column asks for another form of answer, and model.chat_template",
        ("prompt_mismatch", "wrong_base"),
    ),
}
