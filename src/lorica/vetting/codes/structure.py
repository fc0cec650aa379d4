"""L100-L149: names, shapes and the config against each other. What PEFT does was tried with peft 0.21.2."""

from __future__ import annotations

from lorica.vetting.codes.base import Code

_AGAIN = "copy the adapter again from where it was trained, or save it again with save_pretrained"
_RENAME = "rename the tensors as PEFT writes them, or save the adapter again from the unwrapped model"
_RESTORE = "restore adapter_config.json as it was saved with the weights"
_ENGINE = "use engine=transformers, which applies it through PEFT; the native engine does not"

STRUCTURE: dict[str, Code] = {
    "L100": Code(
        "reject",
        "no LoRA tensor in the file: PEFT loads it and the base model answers",
        _AGAIN,
        ("unsupported", "not_applied"),
    ),
    "L101": Code(
        "reject",
        "an adapter of another method than LoRA",
        "use the tool that reads its method",
        causes=("unsupported",),
    ),
    "L102": Code("reject", "an adapter in another tool's format", "convert it with that tool", causes=("unsupported",)),
    "L103": Code(
        "reject",
        "config and tensors are of different methods: PEFT drops the tensors",
        _RESTORE,
        ("unsupported", "not_applied"),
    ),
    "L104": Code(
        "reject",
        "names without PEFT's prefix: load_adapter drops them without a word, the base answers",
        _RENAME,
        ("not_applied",),
    ),
    "L105": Code(
        "reject",
        "a wrapper's prefix in names: load_adapter drops them without a word, the base answers",
        _RENAME,
        ("not_applied",),
    ),
    "L106": Code(
        "warn",
        "names of a vision-language model: on a text model PEFT's load_adapter drops them without a word",
        "name the base it was trained on; to use it on the text model, rename the tensors",
        ("not_applied", "wrong_base"),
    ),
    "L107": Code(
        "reject",
        "an adapter's name in tensor names: load_adapter under another name drops them without a word",
        _RENAME,
        ("not_applied",),
    ),
    "L108": Code(
        "reject",
        "several adapters in one file: PEFT loads one at most and drops the others without a word",
        "save each adapter into its own folder",
        ("not_applied",),
    ),
    "L109": Code(
        "warn",
        "tensors that belong to nothing: PEFT drops them without a word",
        "find out what wrote them, and save the adapter without them",
        ("not_applied",),
    ),
    "L110": Code(
        "reject", "half pairs: PEFT leaves the other half fresh, load_adapter without a word", _AGAIN, ("incomplete",)
    ),
    "L111": Code("reject", "lora_A and lora_B of different ranks", _AGAIN, ("unreadable",)),
    "L112": Code(
        "reject",
        "ranks other than the config's: PEFT refuses to load it",
        "restore r and rank_pattern as they were in training",
        ("altered",),
    ),
    "L113": Code(
        "reject",
        "lora_A and lora_B swapped or transposed",
        "save it in PEFT's layout: lora_A (rank, inputs), lora_B (outputs, rank)",
        ("unreadable", "unsupported"),
    ),
    "L114": Code(
        "reject",
        "factors without a usable shape",
        "gather sharded parameters (ZeRO-3, FSDP) before saving",
        ("unreadable",),
    ),
    "L115": Code(
        "reject",
        "factors stored as whole numbers: PEFT rounds the update away without a word",
        "save it as float32, bfloat16 or float16",
        ("broken_weights",),
    ),
    "L116": Code("note", "factors in several element types"),
    "L117": Code(
        "reject",
        "widths that no one model has: tensors of different models in one file",
        _AGAIN,
        ("wrong_size", "unreadable"),
    ),
    "L118": Code(
        "warn",
        "one kind of module has other shapes in a few layers",
        "compare with the base: lorica check --base",
        ("wrong_size",),
    ),
    "L119": Code(
        "reject",
        "DoRA magnitudes without use_dora: PEFT drops them without a word",
        'set "use_dora": true in adapter_config.json',
        ("altered", "incomplete"),
    ),
    "L120": Code(
        "reject",
        "use_dora without magnitudes: PEFT computes fresh ones, load_adapter without a word",
        _AGAIN,
        ("incomplete", "altered"),
    ),
    "L121": Code("reject", "DoRA magnitudes of the wrong length", _AGAIN, ("unreadable",)),
    "L122": Code(
        "reject",
        "lora_bias and the tensors contradict each other: PEFT drops or misses biases",
        _RESTORE,
        ("altered", "incomplete"),
    ),
    "L123": Code(
        "reject",
        "tensors of modules that are not targeted: PEFT drops them without a word",
        "restore target_modules, exclude_modules and layers_to_transform as they were in training",
        ("not_applied", "altered"),
    ),
    "L124": Code(
        "note",
        "targets without tensors: PEFT leaves them without effect, load_adapter without a word",
        "if the base has such modules, their tensors were lost: copy the adapter again",
        ("incomplete",),
    ),
    "L125": Code(
        "reject",
        "layers are missing: PEFT leaves them without effect, load_adapter without a word",
        _AGAIN,
        ("incomplete",),
    ),
    "L126": Code(
        "note",
        "adapted in regular steps of layers, as bases of mixed layers are",
        "check it on its base: lorica check --base",
        ("incomplete",),
    ),
    "L127": Code("warn", "layers_to_transform names layers that have no tensors", _AGAIN, ("incomplete",)),
    "L128": Code(
        "note",
        "targets given as a regular expression that could not be judged, for it is never executed",
        "what PEFT would adapt is taken from the tensors' names",
    ),
    "L129": Code(
        "warn",
        "a key of rank_pattern or alpha_pattern means no module: PEFT takes r or lora_alpha there",
        "correct the key; the scaling of its modules is not what it was in training",
        ("altered", "over_scaled", "under_scaled"),
    ),
    "L130": Code(
        "note", "patterns given as regular expressions, which are never executed", "ranks are taken from the tensors"
    ),
    "L131": Code(
        "reject",
        "modules_to_save without tensors: PEFT fails to load it or leaves them untrained",
        _AGAIN,
        ("incomplete",),
    ),
    "L132": Code(
        "reject",
        "whole parameters the config does not name: PEFT writes them over the base or drops them without a word",
        "restore modules_to_save (or bias) as it was in training",
        ("altered", "not_applied"),
    ),
    "L133": Code(
        "note",
        "whole embeddings are stored beside the adapter: PEFT writes them over the base model's",
        "use the tokenizer that was saved with the adapter",
    ),
    "L134": Code(
        "reject", "trainable tokens: config and tensors contradict each other", _RESTORE, ("incomplete", "altered")
    ),
    "L135": Code(
        "reject",
        "biases the config does not name: PEFT drops them or writes them over the base's, without a word",
        'restore "bias" as it was in training',
        ("altered", "not_applied"),
    ),
    "L136": Code("note", "uses what the native engine does not apply", _ENGINE, ("unsupported",)),
    "L137": Code(
        "warn",
        "initialised from the base's weights, perhaps not converted: outside PEFT it is not the update",
        "save it with path_initial_model_for_weight_conversion, or use it through PEFT on its base",
        ("over_scaled", "unsupported"),
    ),
    "L138": Code(
        "note", "an unusual scaling", "compare it with the training's settings", ("over_scaled", "under_scaled")
    ),
    "L139": Code(
        "warn",
        "fan_in_fan_out on modules that are not transposed: PEFT switches it off, other loaders may not",
        'set "fan_in_fan_out": false',
        ("altered",),
    ),
    "L140": Code(
        "note",
        "target_modules is missing: PEFT guesses it from the base's type",
        "write the targets into adapter_config.json",
    ),
    "L141": Code(
        "reject",
        "a module has one factor several times",
        "save the adapter again; only one of them would be loaded",
        ("not_applied",),
    ),
    "L142": Code("note", "scaling factors differ among modules"),
    "L143": Code(
        "note",
        "names of a model without a head: on a causal model load_adapter drops them without a word",
        "load it on the bare model (AutoModel), or rename the tensors",
        ("not_applied",),
    ),
    "L144": Code(
        "reject",
        "factors packed by a quantiser: loaders of adapters do not unpack them",
        "dequantise the adapter where it was trained, and save it as float32, bfloat16 or float16",
        ("unsupported", "unreadable"),
    ),
    "L145": Code(
        "warn",
        "tensors of alpha beside the pairs: PEFT drops them without a word and goes by the config",
        "write their value into lora_alpha (or alpha_pattern) and save the adapter without them",
        ("altered", "unsupported"),
    ),
    "L146": Code(
        "note",
        "parameters of a kept module that are stored again under the names they have in memory: PEFT passes over them",
        'nothing; PEFT writes them with "bias": "all"',
    ),
}
