"""L300-L319: do the tensors' shapes fit the base model, and is it the base the adapter names?"""

from __future__ import annotations

from lorica.vetting.codes.base import Code

_OTHER_BASE = "use the base model it was trained on"

FIT: dict[str, Code] = {
    "L300": Code(
        "reject",
        "adapted modules that the base does not have: PEFT drops their tensors or refuses",
        _OTHER_BASE,
        ("not_applied", "wrong_base", "wrong_size"),
    ),
    "L301": Code(
        "reject", "widths other than the base's: it was trained on another model", _OTHER_BASE, ("wrong_size",)
    ),
    "L302": Code(
        "reject",
        "layers that the base does not have: PEFT drops them without a word",
        _OTHER_BASE,
        ("wrong_size",),
    ),
    "L303": Code(
        "reject",
        "only the base's first layers are adapted, and the config leaves none out",
        "use the base model it was trained on, or copy the adapter again if layers were lost",
        ("wrong_size", "incomplete"),
    ),
    "L304": Code(
        "reject",
        "paths that stand elsewhere in the base: loaders drop such tensors without a word",
        "save the adapter again from the unwrapped model, or rename its tensors",
        ("not_applied",),
    ),
    "L305": Code(
        "warn",
        "saved embeddings with other rows than the base's",
        "resize the base's embeddings as in training, with the tokenizer that came with the adapter",
        ("tokenizer_mismatch", "wrong_base"),
    ),
    "L306": Code(
        "warn",
        "the base says it is another model than the adapter names",
        "use the base model that adapter_config.json names, or have the alignment test decide",
        ("wrong_revision", "wrong_base"),
    ),
    "L307": Code(
        "warn",
        "the base is of another family than the model the adapter names",
        "use the base model that adapter_config.json names",
        ("wrong_base",),
    ),
    "L308": Code("note", "the base is quantised, or the model that the adapter names is", causes=("wrong_revision",)),
    "L309": Code("note", "the base's folder holds no safetensors: only its config was compared"),
    "L310": Code("note", "nothing in the adapter can be compared with the base's modules"),
    "L311": Code(
        "warn",
        "the adapter brings another chat template than the base has",
        "ask with the template that lies beside the adapter",
        ("prompt_mismatch",),
    ),
    "L312": Code(
        "warn",
        "the adapter brings tokens that the base does not have",
        "use the tokenizer beside the adapter, and resize the base's embeddings as in training",
        ("tokenizer_mismatch",),
    ),
    "L313": Code(
        "warn",
        "the tokenizer beside the adapter is another one than the base's",
        "use the base model and tokenizer it was trained with",
        ("tokenizer_mismatch", "wrong_base"),
    ),
    "L314": Code(
        "note", "the base's tokenizer has ids beyond its embedding", "download the base again", ("tokenizer_mismatch",)
    ),
    "L315": Code("note", "the adapter brings a head that the base does not have"),
    "L316": Code(
        "warn",
        "The base model itself makes no sense of plain text: its weights or its tokenizer are not what they should be",
        "fetch the base model again, weights and tokenizer together",
        ("wrong_base", "tokenizer_mismatch", "wrong_revision"),
    ),
    "L317": Code(
        "warn",
        "Some layers of the base model are of another model, or were never trained",
        "fetch the base model again: files of two models may lie in its folder, or a conversion lost some layers",
        ("wrong_base", "wrong_revision"),
    ),
    "L318": Code(
        "warn",
        "The base's tokenizer cannot write its own vocabulary: merges were lost, or it normalises text otherwise",
        "fetch the base's tokenizer again, and keep it from being saved by another version of its library",
        ("tokenizer_mismatch",),
    ),
    "L319": Code(
        "warn",
        "the base model's predictions hardly follow its text: a failed merge, or damaged weights",
        "fetch the base model as its maker published it; the mean of two unrelated models is none",
        ("wrong_revision", "wrong_base", "tokenizer_mismatch"),
    ),
}
