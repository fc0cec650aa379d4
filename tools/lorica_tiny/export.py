"""Turn a finished pretraining run into the embedded model's folder: bf16 weights, config, tokenizer and model card.

python -m tools.lorica_tiny.export --work runs/lorica_tiny --to src/lorica/models/lorica_tiny
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tools.lorica_tiny.pretrain import CONFIG, PROMPT_WEIGHT, SEED, STAGES, VOCABULARY, WINDOW

MAX_BYTES = 16_000_000


def export(work: Path, to: Path) -> None:
    """Write the folder; refuses weights over 16 MB."""
    state = load_file(work / "state.safetensors")
    weights = {
        name.removeprefix("model."): tensor.to(torch.bfloat16)
        for name, tensor in state.items()
        if name.startswith("model.") and name != "model.lm_head.weight"
    }
    to.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(weights.items())), to / "model.safetensors", metadata={"format": "pt"})
    size = (to / "model.safetensors").stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"the weights have {size:,} bytes, allowed are {MAX_BYTES:,}")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(work / "model" / name, to / name)
    (to / "config.json").write_text(json.dumps(_config(), indent=2) + "\n", "utf-8")
    (to / "README.md").write_text(
        _card(work, sum(t.numel() for t in weights.values()), size, int(state["step"])), "utf-8"
    )


def _config() -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": CONFIG.hidden_size,
        "intermediate_size": CONFIG.intermediate_size,
        "num_hidden_layers": CONFIG.layers,
        "num_attention_heads": CONFIG.heads,
        "num_key_value_heads": CONFIG.kv_heads,
        "head_dim": CONFIG.head_dim,
        "vocab_size": CONFIG.vocab_size,
        "max_position_embeddings": CONFIG.max_positions,
        "rms_norm_eps": CONFIG.rms_norm_eps,
        "rope_theta": CONFIG.rope_theta,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }


# The card is a page, not code: its lines are as long as its table rows.
# ruff: noqa: E501
def _card(work: Path, parameters: int, size: int, steps: int) -> str:
    log = [json.loads(line) for line in (work / "log.jsonl").read_text("utf-8").splitlines()]
    held = {entry["step"]: entry for entry in log if "held_out_loss" in entry}
    corpus = json.loads((work / "corpus.json").read_text("utf-8"))
    curve = "\n".join(
        f"| {step} | {entry['text_loss']:.3f} | {entry['held_out_loss']:.3f} | {entry['answer_loss']:.3f} | {entry.get('copy_loss') or ''} |"
        for step, entry in sorted(held.items())
    )
    stages = "; ".join(
        f"from step {one.start} on {one.text_windows} x {WINDOW} tokens of text, {one.copy_windows} x {WINDOW} of copying "
        f"and about {one.chat_tokens} of chats"
        for one in STAGES
    )
    return f"""# lorica_tiny: the embedded base model

A decoder of the Qwen3 family with {parameters / 1e6:.2f} M parameters ({size / 1e6:.1f} MB in bfloat16), made so that
everything in Lorica can be tried offline in seconds. It knows English at the level of a children's book and a
textbook's index, ChatML turns, lettered options, and yes/no questions. It is a base to train adapters on, not a model
to ask: alone it is wrong most of the time.

| | |
|---|---|
| shape | {CONFIG.layers} layers, hidden {CONFIG.hidden_size}, feed-forward {CONFIG.intermediate_size}, {CONFIG.heads} heads ({CONFIG.kv_heads} for keys and values), head size {CONFIG.head_dim}, tied embeddings |
| tokenizer | byte-level BPE, {VOCABULARY} tokens, digits one by one, ChatML template |
| text | English sections of seven OpenStax textbooks and English children's stories (StoryWeaver, African Storybook): {corpus["text_tokens"][0]:,} tokens; later without algebra and with every story three times |
| chats | first {corpus["chats"][0]:,}: composed from that text (cloze, topic, word forms, next sentence), from random reading exercises, and the textbooks' short-answer questions without algebra; then {corpus["chats"][1]:,} in the prompts of Lorica's own tasks: made-up rules on random sentences, lettered and short questions on random stories, word kinds and forms; then {corpus["chats"][2]:,} of the same with words of the whole corpus, and gaps in real passages, whose answers must be looked up |
| copying | in the last stages, runs of random tokens followed by their repetition |
| never seen | the multiple-choice questions of the same books, any message or post data, anything in `examples/` |
| corpus digest | `{corpus["digest"]}` |
| training | {steps} steps: {stages}. Muon and AdamW, linear decay over the last half (planned for 2,800 steps, extended to 3,300 at step 2,000 and to 3,900 at step 3,300); bfloat16 autocast; prompt tokens of chats weigh {PROMPT_WEIGHT}; seed {SEED}; 2 CPU cores |
| how to repeat | `python -m tools.lorica_tiny.pretrain --data DATA --work WORK --steps {steps}`, then `python -m tools.lorica_tiny.export` |
| licence | Apache-2.0 for the weights; texts CC BY 4.0: OpenStax (Rice University), Pratham Books, African Storybook |

Because the short-answer questions of the textbooks are in the corpus, results on those questions say nothing about
generalisation; results on their multiple-choice questions do.

## Loss curve (nats per token)

| step | text | held-out text | answers of chats | copying |
|---|---|---|---|---|
{curve}
"""


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    export(arguments.work, arguments.to)


if __name__ == "__main__":
    main()
