"""Every key of a `config.json`: read by the decoder, known to change nothing, refused at some values, or reported.

What transformers heeds and this decoder does not is refused by name. What transformers does not heed either is
reported, and refused only where it says that the weights are another architecture's. A test holds the tables against
the configuration classes of the installed transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lorica.models.config_values import OTHER_ENGINE, Raw, UnsupportedError
from lorica.models.rope_config import rope_notes
from lorica.names import did_you_mean

READ = frozenset(
    {
        *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps", "hidden_act"),
        *("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"),
        *("tie_word_embeddings", "sliding_window", "layer_types", "quantization_config"),
        *("eos_token_id", "architectures", "auto_map"),
    }
)
"""Read for every family; `Family.keys` adds those of one."""

IRRELEVANT: dict[str, tuple[str, ...]] = {
    "names and versions": (
        *("_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "tokenizer_class", "model_name"),
        *("unsloth_version", "unsloth_fixed", "is_llama_config", "transformers.js_config"),
        *("finetuning_task", "task_specific_params", "prefix"),
    ),
    "tokens are the tokenizer's matter": (
        *("bos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id"),
        *("decoder_start_token_id", "image_token_id", "tokenizer_vocab_size"),
    ),
    "`model.dtype` says in which precision is computed": ("dtype", "torch_dtype", "use_bfloat16"),
    "how a model is trained or first drawn": (
        *("initializer_range", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "dropout"),
        *("classifier_dropout", "gradient_checkpointing", "tie_encoder_decoder", "router_aux_loss_coef"),
    ),
    "how transformers computes the same": (
        *("use_cache", "pretraining_tp", "attn_implementation", "_attn_implementation", "experts_implementation"),
        *("_attn_implementation_autoset", "_attn_implementation_internal", "_experts_implementation_internal"),
        *("use_flash_attn", "_flash_attn_2_enabled", "chunk_size_feed_forward", "torchscript", "cache_implementation"),
    ),
    "what transformers gives back": (
        *("output_attentions", "output_hidden_states", "output_scores", "return_dict", "tie_last_hidden_states"),
        *("return_dict_in_generate", "use_return_dict"),
    ),
    "for other kinds of models or heads": (
        *("id2label", "label2id", "num_labels", "problem_type", "is_decoder", "add_cross_attention", "pruned_heads"),
        *("cross_attention_hidden_size", "tf_legacy_loss"),
    ),
    "defaults of generation: `inference` decides": (
        *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "temperature", "top_k", "top_p"),
        *("typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "bad_words_ids"),
        *("encoder_no_repeat_ngram_size", "num_return_sequences", "forced_bos_token_id", "forced_eos_token_id"),
        *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
        *("epsilon_cutoff", "eta_cutoff", "encoder_repetition_penalty", "num_assistant_tokens", "target_lookbehind"),
        *("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind"),
        *("num_beam_groups", "diversity_penalty"),
    ),
}
"""Why a key changes no result -> the keys."""

HEEDED: dict[str, tuple[Any, ...]] = {
    "is_causal": (True,),  # absent means true, null means false
    "per_layer_config": (None,),
    "is_encoder_decoder": (False, None),
    "text_config": (None,),
    "decoder": (None,),
    "generator": (None,),
    "text_encoder": (None,),
    "attribute_map": (None, {}),
    "transformers_weights": (None,),
    "configuration_files": (None, []),
    "fusion_config": (None, {}),
    "attention_chunk_size": (None,),
    "kv_sharing_modes": (None,),
}
"""What transformers heeds in models of every family -> the values that change nothing."""

OTHER_MODELS: dict[str, tuple[Any, ...]] = {
    "attention_multiplier": (None,),  # Granite
    "embedding_multiplier": (None, 1),
    "residual_multiplier": (None, 1),
    "logits_scaling": (None, 1),
    "logit_scale": (None, 1),  # Cohere
    "scale_emb": (None, 1),  # MiniCPM
    "attn_logit_softcapping": (None,),  # Gemma 2
    "final_logit_softcapping": (None,),
    "query_pre_attn_scalar": (None,),
    "clip_qkv": (None,),  # OLMo
    "qk_layernorm": (None, False),
    "use_qk_norm": (None, False),
    "alibi": (None, False),
    "use_alibi": (None, False),
    "parallel_attn": (None, False),
    "use_parallel_residual": (None, False),
    "no_rope_layers": (None, []),  # SmolLM3, Llama 4
    "no_rope_layer_interval": (None, 0),
    "rotary_pct": (None, 1),
    "rope_pct": (None, 1),
    "rope_interleaved": (None, False),
    "use_mrope": (None, False),
    "num_experts": (None, 0, 1),
    "num_local_experts": (None, 0, 1),
    "quantization": (None, {}),  # MLX
}
"""What other architectures compute -> the values that change nothing."""

# Another word for a key that is read: no matter where it says the same.
_ALIASES = {
    "norm_eps": "rms_norm_eps",
    "rms_norm_epsilon": "rms_norm_eps",
    "layer_norm_eps": "rms_norm_eps",
    "layer_norm_epsilon": "rms_norm_eps",
    "hidden_activation": "hidden_act",
}
_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_OTHERS_FIX = (
    "give the model_type of the architecture that the weights were trained as; where it is this one, remove the key, "
    "which transformers does not heed here"
)


def check_keys(model_type: str, raw_config: Raw, defaults: Mapping[str, Any]) -> None:
    """Raises UnsupportedError for the first key with which the decoder would compute another model than is meant.

    model_type: of the config. defaults: what absent keys mean.
    """
    for config_key, allowed_values in HEEDED.items():
        if config_key in raw_config and not _among(raw_config[config_key], allowed_values):
            raise UnsupportedError(_stated(raw_config, config_key, allowed_values), fix=_heeded_fix(config_key))
    for config_key, allowed_values in OTHER_MODELS.items():
        if config_key in raw_config and not _among(raw_config[config_key], allowed_values):
            raise UnsupportedError(
                f"{_stated(raw_config, config_key, allowed_values)}: no {model_type} model computes with it",
                fix=_OTHERS_FIX,
            )
    for config_key, known_key in _ALIASES.items():
        if raw_config.get(config_key) is not None and raw_config[config_key] != (
            expected := raw_config.get(known_key, defaults.get(known_key))
        ):
            raise UnsupportedError(
                f"{config_key} {raw_config[config_key]!r} beside {known_key} {expected!r}, which transformers reads",
                fix=f"keep {known_key} alone, with the value that the weights were trained with",
            )


def key_notes(model_type: str, raw_config: Raw, family_keys: frozenset[str]) -> tuple[str, ...]:
    """What a config says that changes nothing, although a reader may think that it does; () for most.

    family_keys: those that only this family reads.
    """
    read_keys = READ | family_keys
    known_keys = {
        *read_keys,
        *HEEDED,
        *OTHER_MODELS,
        *_ALIASES,
        *(config_key for group in IRRELEVANT.values() for config_key in group),
    }
    notes = rope_notes(raw_config)
    if unknown_keys := sorted(key for key in raw_config.keys() - known_keys if raw_config[key] not in (None, False)):
        hinted_names = ", ".join(_with_hint(config_key, read_keys - raw_config.keys()) for config_key in unknown_keys)
        notes.append(f"not heeded in a {model_type} model, by transformers neither: {hinted_names}")
    if raw_config.get("auto_map"):
        notes.append(f"auto_map: the folder's own code is never run, the model is computed as {model_type}")
    stated = raw_config.get("architectures")
    for architecture in stated if isinstance(stated, list) else ():
        if _ARCHITECTURES.get(str(architecture), model_type) != model_type:
            notes.append(f"architectures says {architecture}; model_type {model_type} decides, as in transformers")
    return tuple(notes)


def _with_hint(config_key: str, names: frozenset[str]) -> str:
    hint = did_you_mean(config_key, names, form="{}", cutoff=0.8)
    return f"{config_key} ({hint})" if hint else config_key


def _among(value: Any, values: tuple[Any, ...]) -> bool:
    # 1 == True and 0 == False, but not here.
    return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in values)


def _stated(raw_config: Raw, config_key: str, allowed_values: tuple[Any, ...]) -> str:
    text = json.dumps(raw_config[config_key])
    shortened = text if len(text) <= 60 else text[:57] + "..."
    return f"{config_key} {shortened} (only {' or '.join(map(json.dumps, allowed_values))})"


def _heeded_fix(config_key: str) -> str:
    if config_key in ("text_config", "decoder", "generator", "text_encoder"):
        return "give the folder of the language model alone, whose config.json holds these keys at its top"
    return OTHER_ENGINE
