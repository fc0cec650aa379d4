"""Why an adapter misbehaves: the hypotheses that the diagnosis weighs, and that codes of findings speak for."""

from __future__ import annotations

import msgspec


class Cause(msgspec.Struct, frozen=True):
    """One hypothesis. prior: its share among adapters that somebody asks about, before any evidence."""

    title: str
    prior: float
    means: str


CAUSES: dict[str, Cause] = {
    "unreadable": Cause("damaged or foreign file", 0.04, "the files are cut short, corrupt, or no adapter at all"),
    "unsupported": Cause(
        "another kind of adapter", 0.03, "it is no LoRA adapter, or uses a feature that is not applied"
    ),
    "incomplete": Cause("parts are missing", 0.05, "layers, halves of pairs, magnitudes or saved modules were lost"),
    "not_applied": Cause("not applied: names", 0.09, "its tensors' names or its targets make loaders drop it silently"),
    "no_effect": Cause("no effect: zero update", 0.05, "lora_B is zero or negligible, so the base model answers"),
    "broken_weights": Cause("broken weights", 0.05, "NaN, infinite, constant or garbled values"),
    "wrong_size": Cause("wrong base: another size", 0.10, "it was trained on a base model of other shapes"),
    "wrong_base": Cause("wrong base: equal shape", 0.08, "the base has equal shapes and unrelated weights"),
    "wrong_revision": Cause(
        "wrong revision or variant", 0.06, "the base is a relative: fine-tuned, revised or quantised"
    ),
    "altered": Cause("changed after training", 0.03, "the files are not those that the passport or record describes"),
    "over_scaled": Cause("over-scaled", 0.05, "alpha, rank or the rsLoRA flag make the update too large"),
    "under_scaled": Cause("under-scaled", 0.04, "alpha, rank or the rsLoRA flag make the update too small"),
    "prompt_mismatch": Cause("prompt or template mismatch", 0.10, "it was trained with other prompts than it is asked"),
    "tokenizer_mismatch": Cause("tokenizer mismatch", 0.04, "the tokenizer or added tokens differ from training's"),
    "inverted": Cause("labels inverted", 0.02, "it answers the opposite: positive and negative were swapped"),
    "hard_labels": Cause("hard labels only", 0.04, "it puts out two values and no ranking between them"),
    "ignores_input": Cause("ignores its input", 0.03, "it gives one answer whatever it is asked"),
    "generation_settings": Cause("generation settings", 0.03, "sampling or length limits spoil the answers"),
    "parser_fallbacks": Cause("answers not parsed", 0.03, "fall-back constants stand where answers could not be read"),
    "hard_task": Cause("healthy adapter, hard task", 0.04, "it is applied and works, and the task is hard"),
    "healthy": Cause("healthy", 0.10, "nothing is wrong with it"),
}
