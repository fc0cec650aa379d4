"""docs/configuration.md from the schema:  python -m lorica.config.key_reference > docs/configuration.md"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from lorica.config.describe import KeyDoc, describe_keys, section_docs, split_unit
from lorica.config.environment import ENVIRONMENT
from lorica.config.presets import FOLDER, GROUPS, compose_presets, preset_names

_HEAD = """\
# Configuration

<!-- Generated from the schema by: python -m lorica.config.key_reference > docs/configuration.md -->

This page lists every configuration key, preset and environment variable. `lorica config`, followed by the words of a
command, prints the value of every key for that command and who set it.

## Grammar

The grammar is Hydra's: words of the form `KEY=VALUE`, in any order. If a key is given twice, the last value counts.

| write | to |
|---|---|
| `task=mcq` | choose a preset of a group: task, model, lora, training, inference or engine |
| `lora.r=8` | set a key |
| `training.learning_rate=2e-4` `training.bf16=true` | set a number, or true or false |
| `input=my file (1),a.csv` | set a text, unquoted; only your shell may need quotes |
| `folds=5` | set `folds.count` |
| `lora.target_modules=[q_proj,v_proj]` | set a list |
| `lora.target_modules=all-linear` | set a word that stands for a list |
| `data.algebra=algebra.jsonl` `data.history=history.jsonl` | add entries to a table; no `+` is needed |
| `task.columns={body:text,rule:guideline}` | add several entries at once |
| `lora.rank_pattern.layers.0.self_attn.q_proj=8` | add an entry whose name holds dots |
| `'run_dir=runs/${model.name}'` | use another key's value (quoted for the shell); `\\${` is a plain `${` |
| `data.algebra=~/algebra.jsonl` | a path in the home folder |
| `config=my.yaml` | read a file of keys |

Quotes around a text are removed: `output="a b.csv"` and `output=a b.csv` are the same. In lists and tables, quote texts
that contain commas, colons or brackets: `task.positive_labels=['yes, it does',1]`.

A path may begin with `~` or `~user` (the home folder) everywhere: on the command line, in options, in a file, in an
environment variable and from Python. `./~` is a folder of that name. Shell variables (`$HOME`) are not replaced.

Nothing is silently dropped or repaired: an unknown key, a value of the wrong type or out of range, and values that
contradict each other end the command with exit code 2 and a message that says what is allowed.

## Precedence

From the weakest to the strongest:

1. the schema's defaults (below);
2. presets;
3. a configuration file, `config=FILE.yaml`; of several files the last;
4. presets named on the command line: they set only the keys they contain;
5. environment variables;
6. keys on the command line.

`model=...` on the command line overrides `MODEL_NAME`.

Some keys follow another key, unless something stronger sets them; `lorica config` says so:

| key | follows |
|---|---|
| `model.name` | `model.path`: its last part |
| `engine.name` | `model.path`: `encoder` if its `config.json` is that of an encoder |
| `task.style` | `engine.name`: `segments` with an encoder |
| `training.*`, `lora.*` | `engine.name`: with an encoder, `classifier` (or `classifier_lora`) and `all_linear` |
| `inference.max_input_tokens` | `engine.name`: 512 with an encoder; practically unlimited for TF-IDF and centroids |
| `inference.do_sample` | `inference.temperature`: above 0 samples, 0 does not; `false` sets the temperature to 0 |
| `inference.batch_tokens` | the environment variable `BATCH_SIZE` |

## A configuration file

A configuration file holds the same keys, nested, in YAML, with presets under `defaults`. Its paths are relative to the
folder in which the command runs, not to the file. `lorica config` prints such a file.

```yaml
defaults:
  - task: mcq
  - model: qwen3_0_6b
lora:
  r: 8
  target_modules: [q_proj, v_proj]
data:
  algebra: data/algebra.jsonl
run_dir: runs/${model.name}
```
"""


def document() -> str:
    """The whole page as Markdown."""
    return "\n".join([_HEAD, _environment(), _presets(), "## Keys\n", *_keys()])


def _environment() -> str:
    rows = [(f"`{variable.name}`", f"`{variable.key}`", variable.description) for variable in ENVIRONMENT]
    introduction = "An empty variable counts as not set. An error about a wrong value names its variable.\n"
    return "\n".join(["## Environment variables\n", introduction, _table(("variable", "sets", "value"), rows), ""])


def _presets() -> str:
    defaults = compose_presets({}).chosen
    rows = []
    for group in GROUPS:
        for preset_name in preset_names(group):
            comment, *preset_lines = (FOLDER / group / f"{preset_name}.yaml").read_text(encoding="utf-8").splitlines()
            preset_keys = "<br>".join(f"`{_key_line(group, preset_line)}`" for preset_line in preset_lines)
            override = f"`{group}={preset_name}`" + (" (default)" if defaults[group] == preset_name else "")
            rows.append((override, comment.removeprefix("# "), preset_keys))
    return "\n".join(["## Presets\n", _table(("write", "for", "sets"), rows), ""])


def _key_line(group: str, preset_line: str) -> str:
    """A line of a preset, with the key that it sets: a model's may choose the engine that goes with it."""
    if group == "model" and preset_line.startswith("engine:"):
        return preset_line.replace("engine:", "engine.name:")
    return f"{group}.{preset_line}"


def _keys() -> Iterable[str]:
    key_docs = describe_keys()
    for section, section_doc in section_docs().items():
        section_keys = [key_doc for key_doc in key_docs if key_doc.key.startswith(f"{section}.")]
        yield f"### {section}\n\n{section_doc}\n\n{_key_table(section_keys)}\n"
    yield f"### Files\n\n{_key_table([top_level_key for top_level_key in key_docs if '.' not in top_level_key.key])}\n"


def _key_table(key_docs: Sequence[KeyDoc]) -> str:
    rows = []
    for key_doc in key_docs:
        meaning, unit = split_unit(key_doc.docstring)
        unit = "" if unit == "none" else unit
        rows.append((f"`{key_doc.key}`", f"`{key_doc.default}`", key_doc.type, unit, meaning))
    return _table(("key", "default", "takes", "unit", "meaning"), rows)


def _table(column_names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table_lines = [column_names, ["---"] * len(column_names), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in table_lines)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    sys.stdout.write(document().rstrip("\n") + "\n")
