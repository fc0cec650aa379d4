"""Multiplications and additions that remain once every shared prefix is computed once."""

from __future__ import annotations

from bench.peers.material import RANK, TARGETS

from lorica.engines.native.scheduler import Plan, suffix_length
from lorica.models.families import DecoderConfig
from lorica.records import Generate, ScoreChoices


def count_operations(config: DecoderConfig, plan: Plan) -> int:
    """Of a plan: linear layers, adapters, attention and output head. Of the last layer only keys and values are counted
    for positions that are not read.
    """
    base, lora, early = 0, 0, 0
    for path, (inputs, outputs) in config.linear_shapes().items():
        if not path.startswith("model.layers.0."):
            continue
        name = path.rsplit(".", 1)[1]
        base += inputs * outputs
        update = RANK * (inputs + outputs) if name in TARGETS else 0
        lora += update
        if name in ("k_proj", "v_proj"):
            early += inputs * outputs + update
    layer, wide = base + lora, config.heads * config.head_dim
    total = 0

    def passed(start: int, count: int, read: int) -> int:
        """count tokens from position `start` on, of which the last `read` are read."""
        seen = count * start + count * (count + 1) // 2
        last = read * (start + count)
        linear = count * (layer * (config.layers - 1) + early) + read * (layer - early)
        return (
            2 * linear
            + 4 * wide * (seen * (config.layers - 1) + last)
            + 2 * read * config.hidden_size * (config.vocab_size)
        )

    for node in plan.nodes:
        total += passed(node.start, len(node.tokens), 0)
    for batch in plan.batches:
        for row in batch.rows:
            request = plan.requests[row.request_index]
            total += passed(row.prefix_length, suffix_length(request, row.prefix_length), 1)
            if isinstance(request, Generate):
                length = len(request.prompt)
                total += sum(passed(length + i, 1, 1) for i in range(request.sampling.max_new_tokens - 1))
            assert not isinstance(request, ScoreChoices) or all(len(choice) == 1 for choice in request.choices)
    return total
