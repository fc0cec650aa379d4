"""What it is worth that a prompt's shared text comes first, and whether it costs accuracy: the task `rules`.

    python bench/prompt_order.py --data ../shared/data [--parts tokens,speed,auc] [--log runs/prompt_order.jsonl]

Orders of the same sentences: `shared` is what Lorica asks (rule, examples, then community and post of the row);
`community` opens with the row's community and `post` with the row's post, as prompts for the Jigsaw rules data are
commonly written; `steps` has the steps of `contrastive` before the examples.
tokens: 8 rules x 200 posts, what the plan computes of them, with the tokenizer of Qwen3 and its template; examples are
those of the rule, or drawn for every row from 20 of each kind.
speed: those prompts on the embedded model with one thread, the orders alternating in one process.
auc: adapters trained with equal settings in both orders on half of sms_spam and of HateCheck, one thread each, and
their paired difference on the other half.
Finished measurements are read from --log, so that a killed run goes on where it was. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import msgspec  # noqa: E402
import torch  # noqa: E402
from bench.real_tasks import TASKS  # noqa: E402

from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.commands import build  # noqa: E402
from lorica.commands.arguments import resolve  # noqa: E402
from lorica.commands.train_jobs import listener, train_jobs  # noqa: E402
from lorica.config.schema import Config  # noqa: E402
from lorica.data.read import read_rows  # noqa: E402
from lorica.data.split import split  # noqa: E402
from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.engines.native.engine import load_native  # noqa: E402
from lorica.engines.native.scheduler import make_plan  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.locate import locate_model  # noqa: E402
from lorica.pipeline.answer import Pipeline  # noqa: E402
from lorica.pipeline.evaluate import evaluate, paired_metric_difference  # noqa: E402
from lorica.pipeline.train import TrainJob  # noqa: E402
from lorica.prompts.encoder import Encoder  # noqa: E402
from lorica.records import Answer, Message, Request, Row, ScoreChoices  # noqa: E402
from lorica.tasks.base import TaskSettings  # noqa: E402
from lorica.tasks.message_builder import MessageBuilder  # noqa: E402
from lorica.tasks.rules import CHOICES, RulesCase, RulesTask  # noqa: E402

ORDERS = ("shared", "community", "post")
RULES = (
    "No advertising: spam, referral links, unsolicited advertising and promotional content are not allowed.",
    "No legal advice: do not offer or request legal advice.",
    "No medical advice: do not offer or request a diagnosis or a treatment.",
    "No spoilers: do not reveal important details of the plot of a film, a book or a game.",
    "No financial advice: do not recommend buying or selling stocks, coins or other investments.",
    "No hateful content: do not attack people for what they are or where they come from.",
    "No personal information: names, addresses and telephone numbers of private persons are not allowed.",
    "No rudeness: remain civil, and do not insult other members or call them names.",
)
COMMUNITIES, EXAMPLES = 100, 20
TRAINED = {"sms_spam": ("structured", "plain"), "hatecheck": ("structured", "plain")}


class OrderedRules(RulesTask):
    """The task `rules` with its sentences in another order."""

    def __init__(self, settings: TaskSettings, order: str) -> None:
        super().__init__(settings)
        self._order = order

    def render(self, row: Row) -> tuple[Message, ...]:
        """As `RulesTask` does, the same pieces in this task's order."""
        messages = super().render(row)
        assert isinstance(row.case, RulesCase)
        if self._order == "shared" or (self._order, self.settings.style) == ("community", "plain"):
            return messages
        if self.settings.style == "plain":
            question = messages[0].content.removesuffix(f"\nPost: {row.case.body}").rsplit("\n", 1)[1]
            draft = (
                MessageBuilder()
                .add("Post: ")
                .add_truncatable(row.case.body)
                .add("\nRule: ")
                .add_protected(row.case.rule)
            )
            return (draft.add(f"\n{question}").build("user"),)
        if self._order == "steps":
            return (messages[0], Message("user", _steps_first(messages[1].content)))
        return (messages[0], _sections(row.case, self._order))


def _sections(case: RulesCase, order: str) -> Message:
    """The sections of `structured`, the row's community first, or its post."""
    post_first = order == "post"
    draft = MessageBuilder()
    if post_first:
        draft.add("New post:\n").add_truncatable(case.body).add("\n\n")
    elif case.subreddit:
        draft.add(f"Community: {case.subreddit}\n")
    draft.add("Rule:\n").add_protected(case.rule)
    if post_first and case.subreddit:
        draft.add(f"\n\nCommunity: {case.subreddit}")
    sides = {"Posts that break the rule:": case.breaking, "Posts that do not break the rule:": case.allowed}
    for label, examples in sides.items():
        if examples:
            draft.add(f"\n\n{label}")
        for example in examples:
            draft.add("\n- ").add_truncatable(example)
    if not post_first:
        draft.add("\n\nNew post:\n").add_truncatable(case.body)
    return draft.build("user")


def _steps_first(text: str) -> str:
    """The user message of `contrastive` with its three steps before the examples."""
    examples, steps = text.index("Posts that break the rule:"), text.index("Think in three steps")
    after = text.index("\n\n", steps) + 2
    return text[:examples] + text[steps:after] + text[examples:steps] + text[after:]


class Log:
    """Finished measurements by name, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self._found: dict[str, Any] = dict(pair for line in lines if (pair := _pair(line)))

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """What was measured under this name, or what `work` measures now."""
        if name not in self._found:
            self._found[name] = work()
            with self._path.open("a") as file:
                file.write(json.dumps([name, self._found[name]]) + "\n")
        return self._found[name]


def _pair(line: str) -> tuple[str, Any] | None:
    """A line of the log; None for one that a kill cut short."""
    try:
        name, value = json.loads(line)
    except ValueError:
        return None
    return name, value


def jigsaw_rows(data: Path, per_rule: int, *, drawn: bool, seed: int = 0) -> list[Row]:
    """Rows of the Jigsaw rules data's shape: posts of 50 to 500 characters put together from real messages, few large
    and many small communities, two examples of each kind. drawn: each row draws its examples from those of its rule.
    """
    rng = random.Random(seed)
    texts: list[str] = [
        json.loads(line)["text"]
        for name in ("sms_spam/messages.jsonl", "hatecheck/cases.jsonl")
        for line in (data / name).read_text(encoding="utf-8").splitlines()
    ]

    def post() -> str:
        length, text = min(max(rng.lognormvariate(5.0, 0.6), 50), 500), rng.choice(texts)
        while len(text) < length:
            text += " " + rng.choice(texts)
        return text[:500].strip()

    names = [f"r/{rng.choice(('ask', 'true', 'daily', 'all', 'the'))}{number}talk" for number in range(COMMUNITIES)]
    rows: list[Row] = []
    for rule in RULES:
        pools = [[post() for _ in range(EXAMPLES)] for _ in range(2)]
        for _ in range(per_rule):
            breaking, allowed = (tuple(rng.sample(pool, 2) if drawn else pool[:2]) for pool in pools)
            (community,) = rng.choices(names, [1 / rank for rank in range(1, COMMUNITIES + 1)])
            rows.append(Row(f"r{len(rows)}", RulesCase(post(), rule, community, breaking, allowed)))
    return rows


def requests_of(rows: Sequence[Row], encoder: Encoder, style: str, order: str) -> list[Request]:
    """What the engine is asked, the rows shuffled as a user's file would be."""
    task = OrderedRules(TaskSettings(style=style), order)
    choices = tuple(encoder.encode_choice(text) for text in CHOICES)
    asked: list[Request] = [
        ScoreChoices(row.id, encoder.encode(task.render(row), max_tokens=2048, truncate="error").tokens, choices)
        for row in rows
    ]
    random.Random(1).shuffle(asked)
    return asked


def qwen_encoder(data: Path) -> Encoder:
    """The tokenizer and template of Qwen3, unpacked into a folder that is gone again afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in (data / "tokenizers" / "qwen3").iterdir():
            content = path.read_bytes()
            packed = path.suffix == ".gz"
            Path(scratch, path.stem if packed else path.name).write_bytes(
                gzip.decompress(content) if packed else content
            )
        return Encoder.load(Path(scratch))


def count_tokens(data: Path, per_rule: int) -> dict[str, int]:
    """Tokens that the plan computes, by `<examples>.<style>.<order>`; `.given`: those of all prompts."""
    encoder = qwen_encoder(data)
    found = {}
    for examples in ("fixed", "drawn"):
        rows = jigsaw_rows(data, per_rule, drawn=examples == "drawn")
        for style in ("plain", "structured", "contrastive"):
            # `plain` shows neither community nor examples.
            orders = {"plain": ("shared", "post"), "structured": ORDERS, "contrastive": ("shared", "steps")}
            for order in orders[style]:
                asked = requests_of(rows, encoder, style, order)
                found[f"{examples}.{style}.{order}"] = make_plan(asked, batch_tokens=8192).computed_tokens()
                found[f"{examples}.{style}.{order}.given"] = sum(len(each.prompt) for each in asked)
    return found


def measure_speed(data: Path, per_rule: int, rounds: int, style: str, log: Log) -> dict[str, list[float]]:
    """Processor seconds of every round, by order. Orders take turns, and each round begins with another."""
    torch.set_num_threads(1)
    folder = locate_model("embedded:lorica_tiny", environ={})
    encoder = Encoder.load(folder)
    engine = load_native(BaseFolder(folder), EngineSettings(dtype="float32", device="cpu", threads=1))
    rows = jigsaw_rows(data, per_rule, drawn=False)
    orders = ORDERS if style == "structured" else ("shared", "post")
    asked = {order: requests_of(rows, encoder, style, order) for order in orders}
    engine.run(asked["shared"][:50])

    def spend(order: str) -> float:
        engine.clear_prefix_cache()
        begun = time.process_time()
        engine.run(asked[order])
        return time.process_time() - begun

    seconds: dict[str, list[float]] = {order: [] for order in orders}
    for number in range(rounds):
        for at in range(len(orders)):
            order = orders[(number + at) % len(orders)]
            seconds[order].append(log.once(f"speed {style} {per_rule} {order} round={number}", partial(spend, order)))
    return seconds


class Halves:
    """A real task's rows in two halves, and adapters trained on the first."""

    def __init__(self, name: str, data: Path, arguments: argparse.Namespace) -> None:
        real = TASKS[name]
        self.name, self._arguments, self._source = name, arguments, str(data / real.file)
        self._overrides = (*real.overrides, "training=tiny", "lora=all_linear")
        config = self._config("plain", 0, Path("unused"))
        task = build.build_task(config)
        rows = list(
            read_rows(data / real.file, task.schemas, columns=config.task.columns, constants=config.task.constants)
        )
        # Halves of every functionality: with whole ones held out the embedded model guesses in either order.
        groups = {row.id: row.group for row in rows}
        bare = [msgspec.structs.replace(row, group="") for row in rows]
        learned, held = split(bare, ratio=0.5, seed=0, text=task.text)
        random.Random(0).shuffle(learned)
        sides = [[row for row in learned if row.gold == gold] for gold in (1, 0)]
        self._examples = [tuple(task.text(row) for row in side[:2]) for side in sides]
        shown = {row.id for side in sides for row in side[:2]}
        self.learned = [row for row in learned if row.id not in shown][: arguments.train_rows]
        self.held = [msgspec.structs.replace(row, group=groups[row.id]) for row in held]

    def scores(self, style: str, order: str, seed: int) -> dict[str, float]:
        """Score of each held-out row by an adapter trained, and asked, in this style and order."""
        with tempfile.TemporaryDirectory() as scratch:
            config = self._config(style, seed, Path(scratch))
            task = OrderedRules(build.build_task(config).settings, order)
            fit = TrainJob(self.name, self._shown(self.learned), self._source, Path(scratch) / self.name)
            trained = train_jobs(config, task, [fit], listener(config))[self.name]
            base = build.base_folder(config)
            engine = build.build_engine(config, base)
            engine.add_adapter(self.name, open_adapter(trained.folder))
            config = replace(config, adapters=replace(config.adapters, use=self.name))
            encoder = build.build_encoder(config, base)
            pipeline = Pipeline(task, encoder, engine, [self.name], build.answer_settings(config, base))
            return {each.id: float(each.score or 0) for each in pipeline.answer(self._shown(self.held))}

    def _config(self, style: str, seed: int, out: Path) -> Config:
        said = (f"task.style={style}", f"training.seed={seed}", f"run_dir={out}", "engine.threads=1")
        settings = (f"training.epochs={self._arguments.epochs}", f"model.dtype={self._arguments.dtype}")
        return resolve((*self._overrides, *settings, *said)).config

    def _shown(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with the examples of the rule, as in the Jigsaw rules data."""
        breaking, allowed = self._examples
        found = []
        for row in rows:
            assert isinstance(row.case, RulesCase)
            case = msgspec.structs.replace(row.case, breaking=breaking, allowed=allowed)
            found.append(msgspec.structs.replace(row, case=case))
        return found


def compare_orders(name: str, style: str, seed: int, halves: Halves, log: Log, settings: str) -> list[str]:
    """Train in both orders, say their AUC and paired difference; the figures."""
    answers = {}
    for order in ("shared", "post"):
        key = f"auc {name} {style} {order} seed={seed} {settings}"
        begun = time.perf_counter()
        scores = log.once(key, partial(halves.scores, style, order, seed))
        print(f"{key}: {time.perf_counter() - begun:.0f} s", flush=True)
        answers[order] = {
            row_id: Answer(id=row_id, answer=None, stage="choice", score=score) for row_id, score in scores.items()
        }
    task = RulesTask(TaskSettings(style=style))
    held = halves.held
    aucs = {order: evaluate(task, held, found).metrics["roc_auc"] for order, found in answers.items()}
    moved = paired_metric_difference(task, held, answers["shared"], answers["post"])
    print(f"{name} {style} seed {seed}: shared {aucs['shared']}, post first {aucs['post']}, difference {moved}")
    head = f"{name}.{style}.{seed}"
    return [
        f"{head}.shared={aucs['shared'].value:.4f} {head}.post={aucs['post'].value:.4f}",
        f"{head}.gain={moved.value:+.4f} {head}.low={moved.low:+.4f} {head}.high={moved.high:+.4f}",
    ]


def tell_tokens(found: dict[str, int]) -> list[str]:
    """A table of what the plan computes; the figures."""
    for name, tokens in found.items():
        if not name.endswith("given"):
            print(f"{name:28s} {tokens:9,d} of {found[name + '.given']:9,d} tokens")
    return [f"{name}={tokens}" for name, tokens in found.items()]


def tell_speed(style: str, seconds: dict[str, list[float]], rows: int) -> list[str]:
    """Rows a processor second, and how often the shared order's rows fit into another's time; the figures."""
    figures = []
    for order, taken in seconds.items():
        ratio = statistics.median(other / own for other, own in zip(taken, seconds["shared"], strict=True))
        rate = rows / statistics.median(taken)
        print(f"{style} {order:10s} {rate:7.1f} rows a processor second, shared is {ratio:.2f} times as fast")
        figures.append(f"speed.{style}.{order}.rows_per_cpu_s={rate:.1f} speed.{style}.{order}.ratio={ratio:.2f}")
    return figures


def main() -> None:
    """Measure what is not in the log, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--log", type=Path, default=Path("runs/prompt_order.jsonl"))
    parser.add_argument("--parts", default="tokens,speed,auc")
    parser.add_argument("--tasks", default=",".join(TRAINED))
    parser.add_argument("--styles", default="structured,plain")
    parser.add_argument("--per-rule", type=int, default=200, help="rows of each of the 8 rules, for tokens")
    parser.add_argument("--speed-per-rule", type=int, default=100, help="and for speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", help="of training and answering: float32 takes twice as long")
    parser.add_argument("--train-rows", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", default="0")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"skipped=1 reason=no data at {arguments.data}")
        return
    log, parts, figures = Log(arguments.log), arguments.parts.split(","), []
    styles = arguments.styles.split(",")
    if "tokens" in parts:
        name = f"tokens {arguments.per_rule}"
        figures += tell_tokens(log.once(name, lambda: count_tokens(arguments.data, arguments.per_rule)))
    for style in styles if "speed" in parts else ():
        each = arguments.speed_per_rule
        figures += tell_speed(
            style, measure_speed(arguments.data, each, arguments.rounds, style, log), each * len(RULES)
        )
    settings = f"rows={arguments.train_rows} epochs={arguments.epochs} {arguments.dtype}"
    for name in arguments.tasks.split(",") if "auc" in parts else ():
        halves = Halves(name, arguments.data, arguments)
        print(f"{name}: {len(halves.learned)} rows to train on, {len(halves.held)} held out")
        for seed in map(int, arguments.seeds.split(",")):
            for style in styles:
                figures += compare_orders(name, style, seed, halves, log, settings)
    print(" ".join(figures))


if __name__ == "__main__":
    main()
