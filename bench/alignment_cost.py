"""What the alignment of an adapter costs on bases of real sizes: seconds by the clock and of the processor.

    python bench/alignment_cost.py [--shapes 135m,0.5b] [--threads 2] [--base FOLDER]

Bases of random weights in bfloat16 at the shapes of SmolLM2-135M and Qwen2.5-0.5B, with the embedded model's tokenizer
(cost does not depend on values), or the folder of a real one. `cold` collects the base's directions, `kept` reads them
from the disk again. Ends with one line of key=value figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorica.models.locate import locate_model
from lorica.vetting.base import collect_subspaces

# hidden, layers, heads, KV heads, feed-forward, vocabulary, biases of q, k and v
SHAPES = {"135m": (576, 30, 9, 3, 1536, 49152, False), "0.5b": (896, 24, 14, 2, 4864, 151936, True)}


def make_base(name: str, folder: Path) -> Path:
    """A base of random weights of this shape."""
    hidden, layers, heads, kv_heads, inner, vocabulary, biases = SHAPES[name]
    shutil.copytree(locate_model("embedded:lorica_tiny", environ={}), folder)
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "qwen2" if biases else "llama",
                "architectures": ["Qwen2ForCausalLM" if biases else "LlamaForCausalLM"],
                "hidden_size": hidden,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "num_key_value_heads": kv_heads,
                "intermediate_size": inner,
                "vocab_size": vocabulary,
                "tie_word_embeddings": True,
                "max_position_embeddings": 4096,
            }
        ),
        "utf-8",
    )
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.02).bfloat16()

    weights = {"model.embed_tokens.weight": random(vocabulary, hidden), "model.norm.weight": torch.ones(hidden)}
    width = hidden // heads
    for layer in range(layers):
        at = f"model.layers.{layer}."
        weights |= {
            f"{at}{norm}.weight": torch.ones(hidden) for norm in ("input_layernorm", "post_attention_layernorm")
        }
        for module, out in (("q_proj", hidden), ("k_proj", kv_heads * width), ("v_proj", kv_heads * width)):
            weights[f"{at}self_attn.{module}.weight"] = random(out, hidden)
            if biases:
                weights[f"{at}self_attn.{module}.bias"] = torch.zeros(out)
        weights[f"{at}self_attn.o_proj.weight"] = random(hidden, hidden)
        weights[f"{at}mlp.gate_proj.weight"] = random(inner, hidden)
        weights[f"{at}mlp.up_proj.weight"] = random(inner, hidden)
        weights[f"{at}mlp.down_proj.weight"] = random(hidden, inner)
    save_file({path: tensor.bfloat16() for path, tensor in weights.items()}, folder / "model.safetensors")
    return folder


def measure(base: Path) -> None:
    """Collect once, and print the seconds by the clock and of the processor."""
    clock, worked = time.perf_counter(), time.process_time()
    collect_subspaces.collect_subspaces(base)
    print(json.dumps([time.perf_counter() - clock, time.process_time() - worked]))


def main() -> None:
    """Measure each base cold and kept, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="135m,0.5b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work:
        environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "LORICA_CACHE_DIR": f"{work}/cache"}
        bases = {"base": arguments.base} if arguments.base else {}
        for name in () if arguments.base else arguments.shapes.split(","):
            bases[name] = make_base(name, Path(work) / name)
        for name, base in bases.items():
            for kind in ("cold", "kept"):
                command = [sys.executable, __file__, "--measure", str(base)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                clock, worked = json.loads(done.stdout.splitlines()[-1])
                figures |= {f"{name}.{kind}_s": clock, f"{name}.{kind}_cpu_s": worked}
                print(f"{name} {kind}: {clock:.1f} s by the clock, {worked:.1f} s of the processor", flush=True)
    print(f"bench=alignment_cost threads={arguments.threads} " + " ".join(f"{k}={v:.3g}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
