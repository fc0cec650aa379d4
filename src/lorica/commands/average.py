"""`lorica average`: one adapter whose update is the mean of several, such as the folds of one training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorica.adaptation.ledger import LEDGER_NAME, ledger_bytes, merge_ledgers, read_ledger
from lorica.adapters.average import average_adapters
from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.folder import open_adapter, save_adapter
from lorica.adapters.passport import read_passport
from lorica.commands.arguments import as_path, emit, parse_weights, parser
from lorica.errors import AdapterError, UsageError
from lorica.names import count_of, shell_line

_EXAMPLES = """  lorica average runs/folds/fold-* --output runs/mean
  lorica average a b c --weights 0.5,0.25,0.25 --rank 16 --output mean"""

_AVERAGED = ("modules_to_save",)  # what is averaged beyond plain pairs


@dataclass(frozen=True)
class AverageResult:
    """The adapter that was written. weights, digests: of the adapters that it is the mean of, by folder. rank: of its
    update. error: share of the update's Frobenius norm that cutting it to this rank lost, 0 where it is exact.
    ledger_texts: labelled texts in its ledger, which is that of all adapters with a weight (`lorica adapt`). base: its
    name in their configs; task: in the passport of the first; "" where there is none."""

    output: Path
    weights: Mapping[Path, float]
    digests: Mapping[Path, str]
    rank: int
    error: float
    ledger_texts: int = 0
    base: str = ""
    task: str = ""

    @property
    def passport_command(self) -> str:
        """What gives it a passport."""
        task_word = f"task={self.task or 'TASK'}"
        return shell_line("lorica", "passport", str(self.output), "--base", self.base or "BASE", task_word)


def run(arguments: Sequence[str]) -> int:
    """Average, write, and say what it cost."""
    command = parser(
        "average",
        "Write one adapter whose update is the mean of several adapters' of one base: exact, with the sum of their\n"
        "ranks, or cut to --rank by singular values, with the error stated. It answers as fast as one adapter.\n"
        "Whether it is as good as the ensemble of their answers, `lorica eval` says on rows with gold.",
        _EXAMPLES,
        overrides=False,
    )
    command.add_argument("adapters", nargs="+", type=as_path, metavar="ADAPTER", help="folders of adapters")
    command.add_argument("--output", type=as_path, required=True, help="the folder to write, new")
    command.add_argument("--weights", type=parse_weights, metavar="W,...", help="one for each adapter; their sum is 1")
    command.add_argument("--rank", type=int, default=0, help="cut the mean to this rank (0: exact)")
    options = command.parse_args(list(arguments))
    result = average_folders(options.adapters, options.output, weights=options.weights, rank=options.rank)
    plain_values = {
        "output": str(result.output),
        "adapters": [
            {"path": str(path), "digest": result.digests[path], "weight": weight}
            for path, weight in result.weights.items()
        ],
        "rank": result.rank,
        "error": result.error,
        "ledger_texts": result.ledger_texts,
    }
    cost = f"{result.error:.2%} of the update is lost" if result.error else "exact"
    ledger = f"\n  {LEDGER_NAME}: {result.ledger_texts} labelled texts, of all of them" if result.ledger_texts else ""
    text = (
        f"{result.output}: the mean of {count_of(len(result.weights), 'adapter')}, rank {result.rank}, {cost}{ledger}\n"
        f"  -> compare it with the ensemble of their answers, and give it a passport: {result.passport_command}"
    )
    emit(plain_values, as_json=options.json, text=text)
    return 0


def average_folders(
    folders: Sequence[Path], output: Path, *, weights: Sequence[float] | None = None, rank: int = 0
) -> AverageResult:
    """Average the adapters of these folders into a new one, with a ledger where they have some. Raises UsageError for
    arguments that do not fit together, AdapterError for such adapters, DataError for a damaged ledger."""
    if len(folders) < 2:
        raise UsageError("lorica average: one adapter; a mean needs two or more", fix="name their folders")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("lorica average: a folder is named twice", fix="name each once; a weight gives it more say")
    if weights is not None and len(weights) != len(folders):
        raise UsageError(
            f"--weights has {len(weights)} numbers for {len(folders)} adapters", fix="give one for each, in their order"
        )
    if rank < 0:
        raise UsageError(f"--rank {rank}; allowed: 0 (exact) or more", fix="--rank 16")
    if (output / CONFIG_NAME).exists():
        raise UsageError(f"--output {output}: holds an adapter already", fix="name a new folder")
    if output.is_dir() and (file_name := min((path.name for path in output.iterdir()), default="")):
        raise UsageError(f"--output {output}: holds {file_name} already", fix="name a new folder")
    adapters = [open_adapter(path, applied=_AVERAGED) for path in folders]
    shares = weights or [1 / len(adapters)] * len(adapters)
    average = average_adapters(adapters, shares, rank)
    ledger = merge_ledgers(read_ledger(folder) for folder, share in zip(folders, shares, strict=True) if share)
    extra_files = {LEDGER_NAME: ledger_bytes(ledger)} if ledger else {}
    save_adapter(output, average.config, average.tensors, extra_files=extra_files, applied=_AVERAGED)
    digests = {folder: adapter.digest for folder, adapter in zip(folders, adapters, strict=True)}
    weights_of = dict(zip(folders, shares, strict=True))
    base, task = average.config.base_model_name_or_path or "", _task_of(folders[0])
    return AverageResult(output, weights_of, digests, average.rank, average.error, len(ledger), base, task)


def _task_of(folder: Path) -> str:
    """What an adapter's passport says that it is asked; "" where it has none, or a broken one."""
    try:
        passport = read_passport(folder)
    except AdapterError:
        return ""
    return "" if passport is None else passport.prompt.task or ""
