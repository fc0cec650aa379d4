"""A zoo of tiny base models and of adapters trained on them, built once and shared by the benches.

    python -m tools.zoo          # builds what is missing, resumable; progress in <root>/log.txt

The root is $LORICA_ZOO, else ~/.cache/lorica/zoo. Reading it needs no torch.

    bases/NAME/                 a Hugging Face model folder
    adapters/BASE/NAME/         a PEFT adapter folder, zoo.json beside its files: seed, targets, rank, AUC
    rows/train.jsonl held_out.jsonl held_out.csv   rows of the task `rules` (columns row_id, body, rule, rule_violation)
"""

from __future__ import annotations

from tools.zoo.places import AdapterInfo, BaseInfo, adapters, bases, is_related, root, rows

__all__ = ["AdapterInfo", "BaseInfo", "adapters", "bases", "is_related", "root", "rows"]
