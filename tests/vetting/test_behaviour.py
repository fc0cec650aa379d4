"""L4 with an engine whose adapters are written by hand: what is true of them is known, so findings can be checked."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("torch")

from lorica.adapters.config import AdapterConfig
from lorica.adapters.header import read_header
from lorica.adapters.member import Member
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import map_tensors
from lorica.engines.base import EngineInfo, OnDone, OnOutputs, as_lora
from lorica.errors import AdapterError, ConfigError, PromptError
from lorica.models.locate import locate_model
from lorica.prompts.encoder import Encoder
from lorica.records import Message, Output, Request, Row, Sampling, ScoreChoices
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings
from lorica.tasks.questions import QuestionCase
from lorica.tasks.rules import RulesCase
from lorica.vetting.base.collect_subspaces import _encode as texts_of
from lorica.vetting.base_checks import check_behaviour
from lorica.vetting.findings import Finding
from lorica.vetting.measure.format_sweep import formats_of, other_templates
from lorica.vetting.measure.measurements import Behaviour
from lorica.vetting.measure.model_session import ModelSession, SessionSettings
from lorica.vetting.measure.probe_rows import shipped_rows, with_shuffled_texts

BASE = locate_model("embedded:lorica_tiny", environ={})
PATH = "model.layers.0.self_attn.q_proj"
# What an adapter adds to the log-odds of Yes: (text of the prompt, scale) -> nats.
Behave = Callable[[str, float], float]


def noise(text: str, size: float) -> float:
    return size * (int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**31 - 1)


def post(text: str) -> str:
    return text.rsplit("ost:", 1)[-1]


def knows(text: str) -> float:
    """1 for a post that breaks the rule, -1 for another; in the rows of these tests a word tells."""
    return 1.0 if "awful" in post(text) else -1.0


ADAPTERS: dict[str, Behave] = {
    "healthy": lambda text, scale: scale * 2 * knows(text) + noise(text, 1.0),
    "nothing": lambda text, scale: 0.0,
    "inverted": lambda text, scale: -scale * 2 * knows(text),
    "constant": lambda text, scale: scale * 50,
    "hard": lambda text, scale: scale * 40 * knows(text),
    "over": lambda text, scale: scale * 80 * (knows(text) + noise(text, 1.3)),
    "saturated": lambda text, scale: scale * 13 * (knows(text) + noise(text, 0.25)),
    "under": lambda text, scale: scale * 0.2 * knows(text),
    "contrastive only": lambda text, scale: scale * (2 * knows(text) * ("three steps" in text) + noise(text, 0.3)),
    "follows examples": lambda text, scale: scale * 2 * (1 if text.find("good one") > text.find("awful one") else -1),
    "another task": lambda text, scale: scale * (0.02 if "ost:" in text else 3) * noise(text, 1.0),
    "scaled away": lambda text, scale: scale * 0.0025 * knows(text),
    "broken": lambda text, scale: math.nan,
}


@lru_cache
def encoder() -> Encoder:
    return Encoder.load(BASE)


@cache
def decoded(prompt: tuple[int, ...]) -> str:
    return encoder().decode(prompt)


class WrittenEngine:
    """Log-probabilities of Yes and No from a function of prompt and scale; the base is undecided."""

    def __init__(self, behave: Behave) -> None:
        self._behave = behave
        self._scales: dict[str, float] = {}
        self._yes, self._no = (encoder().encode_choice(text) for text in ("Yes", "No"))
        self._letters = [encoder().encode_choice(text) for text in "ABCD"]

    def add_adapter(self, name: str, adapter: Member) -> None:
        self._scales[name] = as_lora(adapter).config.scaling(PATH)

    def remove_adapter(self, name: str) -> None:
        del self._scales[name]

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("written")

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Output:
        assert isinstance(request, ScoreChoices)
        text = decoded(request.prompt)
        odds, change = noise(text, 1.5), 0.0
        if request.adapter is not None:
            change = self._behave(text, self._scales[request.adapter])
            odds += change
            if math.isnan(odds):
                return Output(request.id, finish="error", error="the model's output is not a number (NaN): broken")
        yes = -math.log1p(math.exp(-odds)) if odds > -500 else odds
        no = -math.log1p(math.exp(odds)) if odds < 500 else -odds
        known = {self._yes: math.log(0.9) + yes, self._no: math.log(0.9) + no}
        # Of the letters, the later ones gain what Yes does, and none of them comes near to it.
        for place, letter in enumerate(self._letters):
            known[letter] = -9.0 - abs(change) * (1 - place / 4 if change > 0 else 1 + place / 4)
        return Output(request.id, tuple(known.get(choice, -9.0) for choice in request.choices))


def specimen(folder: Path, **changes: Any) -> RawAdapter:
    config = msgspec.structs.replace(AdapterConfig(r=2, lora_alpha=2, target_modules=["q_proj"]), **changes)
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_bytes(config.to_json())
    random = np.random.default_rng(0)
    pairs = {
        f"base_model.model.{PATH}.lora_A.weight": random.normal(size=(2, 256)).astype(np.float32),
        f"base_model.model.{PATH}.lora_B.weight": random.normal(size=(256, 2)).astype(np.float32),
    }
    save_file(pairs, folder / "adapter_model.safetensors")
    weights = folder / "adapter_model.safetensors"
    return RawAdapter(
        name="it",
        given=folder,
        kind="folder",
        folder=folder,
        weights=weights,
        config=config,
        header=read_header(weights),
    )


def rows(count: int = 60, labels: bool = True) -> list[Row]:
    found = []
    for number in range(count):
        bad = number % 2
        case = RulesCase(
            body=f"number {number} {'awful' if bad else 'nice'}",
            rule="Be nice.",
            breaking=("awful one", "awful two"),
            allowed=("good one", "good two"),
        )
        found.append(Row(id=f"r{number}", case=case, gold=bad if labels else None))
    return found


def examine(
    tmp_path: Path, kind: str, given: list[Row] | None, style: str = "plain", task: str = "rules"
) -> tuple[Behaviour, dict[str, Finding]]:
    setting = SessionSettings(BASE, task=task, task_settings=TaskSettings(style=style))
    one = specimen(tmp_path / "adapter")
    assert one.header is not None
    work = ModelSession(setting, WrittenEngine(ADAPTERS[kind]))
    found, findings = check_behaviour(one, map_tensors(one.header), work, given or ())
    json.loads(msgspec.json.encode(found))
    for each in findings:
        assert each.level == 4
        json.dumps(each.facts, allow_nan=False)
    return found, {each.code: each for each in findings}


def severities(findings: dict[str, Finding]) -> dict[str, str]:
    return {code: each.severity for code, each in findings.items()}


EXPECTED: dict[str, dict[str, str]] = {
    "healthy": {"L420": "note"},
    "nothing": {"L402": "reject", "L423": "warn"},
    "inverted": {"L421": "", "L422": "reject"},
    "constant": {"L405": "warn", "L407": "warn", "L423": "warn"},
    "hard": {"L407": "note", "L420": "note"},
    "over": {"L407": "warn", "L412": "warn"},
    "under": {"L413": "warn"},
    "contrastive only": {"L410": "warn", "L423": "warn"},
    "another task": {"L427": "warn", "L423": "warn"},
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_labelled_rows_tell_what_is_wrong(tmp_path: Path, kind: str) -> None:
    found, findings = examine(tmp_path, kind, rows())
    got = severities(findings)
    for code, severity in EXPECTED[kind].items():
        assert got.get(code, "") == severity, (got, found)
    rejects = {code for code, severity in got.items() if severity == "reject"}
    assert rejects == {code for code, severity in EXPECTED[kind].items() if severity == "reject"}
    assert ("L427" in got) == (kind == "another task")
    assert found.labelled is not None
    assert found.labelled.n == found.labelled_rows == 60


WORKING = sorted(set(ADAPTERS) - {"nothing", "broken"})


@pytest.mark.parametrize(("kind", "task"), [*((kind, "") for kind in WORKING), ("inverted", "rules")])
def test_foreign_prompts_reject_nothing_that_works(tmp_path: Path, kind: str, task: str) -> None:
    found, findings = examine(tmp_path, kind, None, task=task)
    assert "reject" not in severities(findings).values()
    assert (found.source, found.foreign, found.n) == ("probes", not task, 32)
    assert found.divergence is not None
    assert found.divergence.n == 32 + 10 + 10  # with those of the other tasks


@pytest.mark.parametrize(("kind", "code"), [("nothing", "L402"), ("broken", "L401")])
def test_foreign_prompts_reject_what_is_wrong_for_every_task(tmp_path: Path, kind: str, code: str) -> None:
    assert severities(examine(tmp_path, kind, None, task="")[1])[code] == "reject"


def test_an_adapter_that_says_what_the_base_says_is_a_warning(tmp_path: Path) -> None:
    """Single log-probabilities move further than rounding does, and no answer is another."""
    found, findings = examine(tmp_path, "scaled away", None, task="rules")
    assert found.divergence is not None
    assert found.divergence.largest_change > 1e-3
    assert severities(findings)["L403"] == "warn"
    assert "L403" not in examine(tmp_path, "under", None, task="rules")[1]


def test_numbers_of_a_healthy_adapter(tmp_path: Path) -> None:
    """The oracle is the function that the engine answers by."""
    found, _ = examine(tmp_path, "healthy", rows())
    assert found.labelled is not None
    assert found.divergence is not None
    assert found.divergence.mass == pytest.approx(0.9)
    by_factor = {each.factor: each for each in found.scales}
    assert set(by_factor) >= {0.0, 0.25, 0.5, 1.0, 2.0, 4.0}
    changes = [by_factor[factor].kl for factor in (0.25, 0.5, 1.0, 2.0, 4.0)]
    assert changes == sorted(changes)
    assert (found.labelled.shuffled.low or 0) < 0.5 < (found.labelled.shuffled.high or 1)
    assert found.labelled.over_shuffled.above > 0
    assert found.labelled.tfidf == 1.0  # a word gives the label away
    assert [each.configured for each in found.formats] == [True] + [False] * (len(found.formats) - 1)
    assert {each.style for each in found.formats} == {"plain", "structured", "contrastive"}


def test_rows_without_labels_give_hints_only(tmp_path: Path) -> None:
    found, findings = examine(tmp_path, "saturated", rows(labels=False))
    assert found.labelled is None
    assert severities(findings)["L414"] == "note"
    assert not {"L412", "L413", "L420", "L421", "L422"} & set(findings)


def test_swapped_examples_are_followed_or_not(tmp_path: Path) -> None:
    found, findings = examine(tmp_path, "follows examples", rows(), style="structured")
    assert found.examples is not None
    assert found.examples.following is not None
    assert found.examples.following.n == 32
    assert found.examples.moved > found.examples.base_moved
    assert "L408" not in findings


def test_shuffled_texts_are_all_from_other_rows_and_swaps_exchange() -> None:
    given = rows(20)
    shuffled = with_shuffled_texts(load_task("rules"), given, seed=1)
    bodies = [row.case.body for row in given if isinstance(row.case, RulesCase)]
    moved = [row.case.body for row in shuffled if isinstance(row.case, RulesCase)]
    assert sorted(moved) == sorted(bodies)
    assert all(a != b for a, b in zip(bodies, moved, strict=True))
    assert [(row.id, row.gold) for row in shuffled] == [(row.id, row.gold) for row in given]
    examples = load_task("rules").row_examples
    assert examples is not None
    swapped = examples.swap(given[0])
    assert swapped is not None
    case = swapped.case
    assert isinstance(case, RulesCase)
    assert case.breaking == ("good one", "good two")


@pytest.mark.parametrize("task", ["rules", "mcq", "saq", "qa"])
def test_shipped_probes_are_read_and_balanced(task: str) -> None:
    found = shipped_rows(task)
    assert all(row.gold is not None for row in found)
    if task == "rules":
        assert len(found) == 32
        assert [row.gold for row in found] == [1, 0] * 16
    if task == "mcq":
        letters = [row.gold for row in found]
        assert max(letters.count(each) for each in range(4)) <= 3


def test_what_cannot_be_asked_is_said(tmp_path: Path) -> None:
    one = specimen(tmp_path / "adapter")
    assert one.header is not None
    layout = map_tensors(one.header)
    bare = msgspec.structs.replace(one, config=None)
    with pytest.raises(AdapterError, match="nothing can be asked"):
        check_behaviour(bare, layout, ModelSession(SessionSettings(BASE)))
    with pytest.raises(ConfigError, match="did you mean 'rules'"):
        check_behaviour(one, layout, ModelSession(SessionSettings(BASE, task="rule")))


def test_generated_answers_are_read_counted_and_drawn_again(tmp_path: Path) -> None:
    """With the embedded model itself, which was never taught to answer with a number."""
    task = TaskSettings(method="generate")
    sampling = Sampling(max_new_tokens=4, do_sample=True, temperature=1.0)
    setting = SessionSettings(BASE, task="rules", task_settings=task, sampling=sampling, probes=8)
    one = specimen(tmp_path / "adapter")
    assert one.header is not None
    found, findings = check_behaviour(one, map_tensors(one.header), ModelSession(setting))
    assert found.generated is not None
    assert found.generated.n == 8
    assert sum(found.generated.stages.values()) == 8
    assert found.generated.unstable_share is not None
    assert found.generated.unstable_share > 0.2
    assert "L432" in {each.code for each in findings}
    assert found.engine["engine"] == "native"


def test_a_well_known_template_is_tried_where_its_markers_are_tokens(tmp_path: Path) -> None:
    base = locate_model("embedded:lorica_tiny", environ={})
    assert other_templates(ModelSession(SessionSettings(base))) == [], "its own is ChatML"
    changed = tmp_path / "base"
    shutil.copytree(base, changed)
    (changed / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "utf-8")
    work = ModelSession(SessionSettings(changed))
    assert other_templates(work) == ["chatml"]
    sample = (Message("system", "Answer."), Message("user", "Why?"))
    assert work.encoder("chatml").render(sample) == ModelSession(SessionSettings(base)).encoder().render(sample)


def test_a_base_whose_own_template_asks_elsewhere_is_asked_in_another(tmp_path: Path) -> None:
    """As the refusal of its own template says."""
    changed = tmp_path / "base"
    shutil.copytree(BASE, changed)
    own = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}Sure: {% endif %}"
    (changed / "chat_template.jinja").write_text(own, "utf-8")
    with pytest.raises(PromptError, match=r"(?s)asks for an answer behind.*'plain'"):
        ModelSession(SessionSettings(changed)).encoder()
    work = ModelSession(SessionSettings(changed, task="mcq", chat_template="plain"))
    assert [each.template for each in formats_of(work, work.settings.load_task())] == ["", "chatml", ""]
    # Its inputs are measured on text in any form.
    assert len(texts_of(changed, ["Some text to run through the base."], 64)) == 2


def test_choices_with_little_of_the_probability_are_told(tmp_path: Path) -> None:
    """In a form that neither base nor adapter knows; of an adapter whose task nobody named nothing is expected."""
    one = specimen(tmp_path / "adapter")
    assert one.header is not None
    layout = map_tensors(one.header)

    def codes(**settings: Any) -> set[str]:
        _, findings = check_behaviour(one, layout, ModelSession(SessionSettings(BASE, probes=8, **settings)))
        return {each.code for each in findings}

    assert "L470" in codes(task="rules", chat_template="plain")
    assert "L470" not in codes(chat_template="plain")
    assert "L470" not in codes(task="rules")


def test_written_answers_are_generated_and_judged(tmp_path: Path) -> None:
    given = [Row(f"q{i}", QuestionCase(f"What is {i} and {i}?"), gold=(str(2 * i),)) for i in range(12)]
    setting = SessionSettings(BASE, task="saq", sampling=Sampling(max_new_tokens=4))
    one = specimen(tmp_path / "adapter")
    assert one.header is not None
    found, findings = check_behaviour(one, map_tensors(one.header), ModelSession(setting), given)
    assert found.generated is not None
    written = found.generated.written
    assert written is not None
    assert written.n == 12
    assert set(written.adapter) == set(written.base) == set(load_task("saq").metric_names)
    assert all(each.value is not None and 0 <= each.value <= 1 for each in written.adapter.values())
    assert "on 12 rows" in {each.code: each.seen for each in findings}["L434"]
    json.loads(msgspec.json.encode(found))
