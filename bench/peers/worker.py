"""One peer in one process: a line of JSON in, a line of JSON out.

    python bench/peers/worker.py PEER MODEL ADAPTERS [key=value ...]

MODEL is a folder, ADAPTERS one that holds folders. It first says {"ready": seconds, "isa": the instructions it uses};
then each line {"work": "w1", "rows": 0} is answered with {"seconds", "busy", "results", "peak_mib", ...}, or {"error"}.
results: for each row its log-probabilities or its new tokens; null where a peer has none. With {"texts": [[...]]} the
native engine judges other sides' texts instead: {"text_logprob"}.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.peers import workloads

PEERS = {
    "native": "bench.peers.native",
    "transformers": "bench.peers.hugging",
    "llama": "bench.peers.llama",
    "vllm": "bench.peers.vllm_cpu",
    "openvino": "bench.peers.intel",
    "ceiling": "bench.peers.ceiling",
}


def main() -> None:
    """Load the peer and answer until stdin ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print: what they say must not mix with the answers
    peer, model, adapters, *given = sys.argv[1:]
    options = dict(pair.split("=", 1) for pair in given)
    started = time.perf_counter()
    side: Any = importlib.import_module(PEERS[peer]).load(Path(model), Path(adapters), options)

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=out, flush=True)

    say({"ready": time.perf_counter() - started, "isa": getattr(side, "isa", "")})
    vocab_size = json.loads((Path(model) / "config.json").read_text("utf-8"))["vocab_size"]
    for line in sys.stdin:
        asked = json.loads(line)
        items = workloads.make(asked["work"], vocab_size, asked["rows"])
        begun, busy = time.perf_counter(), time.process_time()
        try:
            answer = side.judge(items, asked["texts"]) if asked.get("texts") else side.run(items)
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})
            continue
        told = {"seconds": time.perf_counter() - begun, "busy": time.process_time() - busy}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        say({**told, "peak_mib": peak, **answer})


if __name__ == "__main__":
    main()
