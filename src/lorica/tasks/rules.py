"""`rules`: does this post break this rule? Answered by P(Yes), or by a generated number.

A prompt opens with what rows share (instruction, rule, examples) and ends with the row's own post, so that
the shared part is computed once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from lorica.errors import CellError, ConfigError
from lorica.records import Message, Row, RowSchema
from lorica.tasks.base import (
    DEFAULT_NEGATIVE,
    DEFAULT_POSITIVE,
    AnswerType,
    ParsedAnswer,
    ProbeSet,
    RowExamples,
    TaskSettings,
    check_lengths,
    choice_mass,
    choose_defaults,
    invalid,
    is_missing,
    needed_text,
    softmax,
    text_value,
)
from lorica.tasks.chats import ChatCase, chat_messages, chat_schemas, with_chat_of
from lorica.tasks.message_builder import MessageBuilder
from lorica.tasks.parse_probability import parse_probability
from lorica.tasks.probe_texts import labelled_records, rule_canaries
from lorica.tasks.rules_rows import RulesCase as RulesCase
from lorica.tasks.rules_rows import examples_as_rows, with_exchanged_texts, with_swapped_examples, with_values

CHOICES: tuple[str, str] = ("Yes", "No")

SEGMENT_PREFIXES = {
    "rule": "Rule: ",
    "breaking": "Breaks the rule: ",
    "allowed": "Keeps the rule: ",
    "community": "Community: ",
}
"""What the segments of a prompt begin with (style `segments`); the post has none."""

_EXAMPLES = ("positive_example_1", "positive_example_2", "negative_example_1", "negative_example_2")
_EXAMPLES_UNUSED = (
    "the examples of the rows (positive_example_1, negative_example_1, ...) are left out of prompts by "
    "task.style=plain; task.style=structured shows them"
)
# What answers of any file may say beside the labels of gold.
_OWN_LABELS = {"yes": 1, "no": 0, "1": 1, "0": 0}
_MARKS = " .!*_\"'`“”‘’()[]"
_OPTIONAL = ("subreddit", *_EXAMPLES, "rule_violation", "subject", "group")

_REPLY = {
    "choice": "Answer Yes or No.",
    "generate": "Answer with one number from 0 (does not break it) to 1 (breaks it) and nothing else.",
}
_STEPS = """\
Think in three steps, silently:
1. {breaking}
2. {allowed}
3. Which of the two is the new post closer to?

"""
# Whether there are such examples -> what is asked about them.
_BREAKING = {
    True: "What do the posts that break the rule have in common?",
    False: "What would a post that breaks the rule look like?",
}
_ALLOWED = {
    True: "What sets the posts that do not break it apart?",
    False: "What would a post that does not break it look like?",
}


class RulesTask:
    """The task `rules`. Gold is 1 for a violation, 0 for none."""

    name = "rules"
    methods = ("choice", "generate")
    styles = ("plain", "structured", "contrastive", "segments")
    answer_type: AnswerType = "score"
    generated_choices = ("1.0", "0.0")
    row_examples = RowExamples(
        ("structured", "contrastive", "segments"), with_swapped_examples, _EXAMPLES_UNUSED, examples_as_rows
    )
    metric_names = ("roc_auc", "accuracy", "f1")
    probes = ProbeSet("rules", partial(labelled_records, "rules"), rule_canaries)

    def __init__(self, settings: TaskSettings) -> None:
        """Raises ConfigError for an unknown method or style, labels that clash, or a score outside 0..1."""
        self.settings = choose_defaults(settings, self.methods, self.styles, task_name=self.name)
        if not 0 <= settings.fallback_score <= 1:
            raise ConfigError(f"task.fallback_score={settings.fallback_score} is no probability", fix="use 0 to 1")
        self._labels = _label_table(settings)
        self.schemas: tuple[RowSchema, ...] = (
            RowSchema(
                "rule violations", ("row_id", "body", "rule"), _OPTIONAL, "row_id", self._build, gold="rule_violation"
            ),
            RowSchema(
                "posts and rules", ("body", "rule"), ("id", *_OPTIONAL), "id", self._build, gold="rule_violation"
            ),
            *chat_schemas(self._chat_gold),
        )
        # The words by which a chat is answered; a prompt of the task's own asks for Yes or No.
        self._words = (
            settings.positive_labels[0] if _own(settings.positive_labels, DEFAULT_POSITIVE) else CHOICES[0],
            settings.negative_labels[0] if _own(settings.negative_labels, DEFAULT_NEGATIVE) else CHOICES[1],
        )

    def render(self, row: Row) -> tuple[Message, ...]:
        """One user message (`plain`), a system and a user message (`structured`, `contrastive`), or a message for each
        segment (`segments`); the turns of a chat as they are."""
        if isinstance(row.case, ChatCase):
            return chat_messages(row.case)
        rules_case = _case(row)
        if self.settings.style == "segments":
            return _segments(rules_case)
        reply_instruction = _REPLY[self.settings.method]
        if self.settings.style == "plain":
            builder = MessageBuilder().add("Rule: ").add_protected(rules_case.rule)
            builder.add(f"\nDoes the post break the rule? {reply_instruction}\n").mark_context().add("Post: ")
            return (builder.add_truncatable(rules_case.body).build("user"),)
        builder = MessageBuilder().add("Rule:\n").add_protected(rules_case.rule).add("\n\n")
        _add_examples(builder, "Posts that break the rule:", rules_case.breaking)
        _add_examples(builder, "Posts that do not break the rule:", rules_case.allowed)
        system_text = "You judge whether a post breaks a community rule."
        if self.settings.style == "contrastive":
            if rules_case.breaking or rules_case.allowed:
                system_text = "You compare a post with examples to judge whether it breaks a community rule."
            breaking, allowed = _BREAKING[bool(rules_case.breaking)], _ALLOWED[bool(rules_case.allowed)]
            builder.add(_STEPS.format(breaking=breaking, allowed=allowed))
        builder.mark_context()
        if rules_case.subreddit:
            builder.add(f"Community: {rules_case.subreddit}\n")
        builder.add("New post:\n").add_truncatable(rules_case.body)
        return (Message("system", f"{system_text} {reply_instruction}"), builder.build("user"))

    @property
    def variants(self) -> Mapping[str, Callable[[Row], Row | None]]:
        """Without post, rule, or the examples where the style shows them; and post and rule exchanged."""
        shows_examples = self.settings.style in self.row_examples.styles
        return {
            "without the post": partial(with_values, body=""),
            "without the rule": partial(with_values, rule=""),
            **({"without the examples": partial(with_values, breaking=(), allowed=())} if shows_examples else {}),
            "with post and rule exchanged": with_exchanged_texts,
        }

    def choices(self, row: Row) -> tuple[str, ...] | None:
        """("Yes", "No"), or for a chat the first of the positive and of the negative labels that are configured; None
        for method=generate."""
        return self._answers(row) if self.settings.method == "choice" else None

    def options(self, row: Row) -> dict[str, str]:
        """Yes and No, or the words by which a chat is answered."""
        return {answer_word: answer_word for answer_word in self._answers(row)}

    def gold_choice(self, row: Row) -> int | None:
        """Label 1 is the first choice, 0 the second."""
        return None if row.gold is None else 1 - int(row.gold == 1)

    def target(self, row: Row) -> str:
        """ "Yes"/"No", or "1.0"/"0.0" for method=generate; of a chat its word. Raises ValueError without a label."""
        if row.gold not in (0, 1):
            raise ValueError(f"row {row.id!r} has no label (rule_violation): nothing to train on")
        if self.settings.method == "choice" or isinstance(row.case, ChatCase):
            return self._answers(row)[0 if row.gold else 1]
        return "1.0" if row.gold else "0.0"

    def parse_logprobs(self, row: Row, logprobs: Sequence[float], lengths: Sequence[int]) -> ParsedAnswer:
        """score = P(Yes) / (P(Yes) + P(No))."""
        answer_words = self._answers(row)
        check_lengths(answer_words, logprobs, lengths)
        probabilities = softmax(logprobs)
        if probabilities is None:
            return invalid(f"the log-probabilities of {' and '.join(answer_words)} are not numbers")
        yes_probability = probabilities[0]
        return ParsedAnswer(
            answer=answer_words[0 if yes_probability >= 0.5 else 1],
            stage="choice",
            valid=True,
            score=yes_probability,
            scores=dict(zip(answer_words, probabilities, strict=True)),
            choice_mass=choice_mass(logprobs),
        )

    def parse_text(self, row: Row, generated_text: str, *, cut_off: bool = True) -> ParsedAnswer:
        """The three-stage number parser; what it cannot read gets the fall-back score and no answer."""
        probability = parse_probability(generated_text)
        if probability is None:
            return ParsedAnswer(
                answer=None,
                stage="fallback",
                valid=False,
                score=self.settings.fallback_score,
                problem="no number from 0 to 1 and no clear verdict in the text",
            )
        return ParsedAnswer(
            answer=CHOICES[0 if probability.value >= 0.5 else 1],
            stage=probability.stage,
            valid=True,
            score=probability.value,
        )

    def answer_parser(self, answers: Sequence[tuple[Row, str]]) -> Callable[[Row, str], int | str]:
        """To 1 or 0, by the labels of gold or the task's own Yes and No. Where gold's `no` is a violation, as in a
        column `allowed`, those words mean two things and are refused."""
        labels = _OWN_LABELS | self._labels
        unclear = {label_text for label_text, label_value in _OWN_LABELS.items() if labels[label_text] != label_value}

        def read(row: Row, answer: str) -> int | str:
            label_text = _find_label(answer, labels)
            if label_text in unclear:
                raise CellError(
                    f"{answer!r} says the contrary as the task's own answer and as a label of the gold file",
                    fix="evaluate with the column score, or write 1 for a violation and 0 for none",
                )
            return labels[label_text]

        return read

    def text(self, row: Row) -> str:
        """The post, or all of a chat."""
        return row.case.text if isinstance(row.case, ChatCase) else _case(row).body

    def stratum(self, row: Row) -> str:
        """The rule; the subject of a chat."""
        return row.case.rule if isinstance(row.case, RulesCase) else row.subject

    def retrieval_query(self, row: Row) -> str:
        """Rule and post; of a chat what the user said last."""
        return row.case.question if isinstance(row.case, ChatCase) else self.baseline_text(row)

    def baseline_text(self, row: Row) -> str:
        """Rule and post, or all of a chat."""
        return f"{row.case.rule}\n{row.case.body}" if isinstance(row.case, RulesCase) else self.text(row)

    def with_text_of(self, row: Row, donor_row: Row) -> Row:
        """Another post under the row's rule and examples; another chat."""
        if isinstance(row.case, RulesCase) and isinstance(donor_row.case, RulesCase):
            return msgspec.structs.replace(row, case=msgspec.structs.replace(row.case, body=donor_row.case.body))
        return with_chat_of(row, donor_row)

    def _answers(self, row: Row) -> tuple[str, str]:
        return self._words if isinstance(row.case, ChatCase) else CHOICES

    def _chat_gold(self, answer: str) -> tuple[int | None, tuple[str, ...]]:
        """The label that a chat ends with, and a note where it is asked in other words."""
        gold_label = self._gold(answer.rstrip(".。"))
        answer_word = self._words[0 if gold_label else 1]
        if answer == answer_word:
            return gold_label, ()
        rewording_note = (
            f"the chat's answer {answer!r} is asked and trained as {answer_word!r}; to keep the chats' own words, set "
        )
        return gold_label, (f"{rewording_note}task.positive_labels and task.negative_labels to them",)

    def _build(self, cell_values: Mapping[str, Any], row_id: str, line_number: int) -> Row:
        examples = [text_value(cell_values, column_name) for column_name in _EXAMPLES]
        rules_case = RulesCase(
            body=needed_text(cell_values, "body"),
            rule=needed_text(cell_values, "rule"),
            subreddit=text_value(cell_values, "subreddit"),
            breaking=tuple(filter(None, examples[:2])),
            allowed=tuple(filter(None, examples[2:])),
        )
        return Row(
            id=row_id,
            case=rules_case,
            subject=text_value(cell_values, "subject"),
            gold=self._gold(cell_values.get("rule_violation")),
            group=text_value(cell_values, "group"),
            line=line_number,
            notes=(_EXAMPLES_UNUSED,) if any(examples) and self.settings.style == "plain" else (),
        )

    def _gold(self, cell_value: object) -> int | None:
        return self._labels[_find_label(cell_value, self._labels)] if _spelling(cell_value) else None


def _find_label(cell_value: object, labels: Mapping[str, int]) -> str:
    """The label that a value names. Raises ValueError when it is none."""
    spelling = _spelling(cell_value)
    # "Yes." and "**Yes**" are labels as well, unless a label is spelt with such marks.
    label_text = spelling if spelling in labels else spelling.strip(_MARKS)
    if label_text not in labels:
        positive, negative = ([k for k, label_value in labels.items() if label_value == value] for value in (1, 0))
        raise CellError(
            f"the label {cell_value!r} is neither a violation ({', '.join(positive)}) nor none ({', '.join(negative)})",
            fix="say what the file's labels mean, all of them: task.positive_labels=[...] task.negative_labels=[...]",
        )
    return label_text


def _own(labels: Sequence[str], default: Sequence[str]) -> bool:
    return bool(labels) and tuple(labels) != tuple(default)


def _label_table(settings: TaskSettings) -> dict[str, int]:
    positive = {_spelling(label_text) for label_text in settings.positive_labels or DEFAULT_POSITIVE}
    negative = {_spelling(label_text) for label_text in settings.negative_labels or DEFAULT_NEGATIVE}
    if ambiguous := sorted(positive & negative):
        raise ConfigError(
            f"the labels {ambiguous} are in task.positive_labels and in task.negative_labels",
            fix="keep each in one",
        )
    return dict.fromkeys(sorted(positive), 1) | dict.fromkeys(sorted(negative), 0)


def _spelling(cell_value: object) -> str:
    """A label as it is compared: "Spam " is "spam", 1.0, 1e0 and "1.0" are "1", true is "true"."""
    spelled_text = "" if is_missing(cell_value) else str(cell_value).strip().casefold()
    return (
        re.sub(r"([0-9])\.0+", r"\1", spelled_text) if re.fullmatch(r"[+-]?[0-9]+\.0+", spelled_text) else spelled_text
    )


def _segments(rules_case: RulesCase) -> tuple[Message, ...]:
    """Rule, examples and community, each with its prefix, and the post last."""
    segments = [MessageBuilder().add(SEGMENT_PREFIXES["rule"]).add_protected(rules_case.rule)]
    for prefix_name, examples in (("breaking", rules_case.breaking), ("allowed", rules_case.allowed)):
        prefix = SEGMENT_PREFIXES[prefix_name]
        segments += [MessageBuilder().add(prefix).add_truncatable(example) for example in examples]
    if rules_case.subreddit:
        segments.append(MessageBuilder().add(SEGMENT_PREFIXES["community"]).add(rules_case.subreddit))
    segments.append(MessageBuilder().add_truncatable(rules_case.body))
    return tuple(segment.build("user") for segment in segments)


def _add_examples(builder: MessageBuilder, heading: str, examples: Sequence[str]) -> None:
    if examples:
        builder.add(heading)
        for example in examples:
            builder.add("\n- ").add_truncatable(example)
        builder.add("\n\n")


def _case(row: Row) -> RulesCase:
    if not isinstance(row.case, RulesCase):
        raise TypeError(f"row {row.id!r} is not a row of the task rules: {type(row.case).__name__}")
    return row.case
