"""Chat templates: found in a model's folder, compiled in Jinja's sandbox, and probed for how they treat system
messages.

The sandbox offers what transformers offers (`raise_exception`, `tojson`, `strftime_now`, `break`, `continue`
and `generation` blocks), with one deliberate difference: `strftime_now` tells a fixed date, so that a prompt,
and with it a score, is the same tomorrow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import msgspec
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lorica.errors import PromptError
from lorica.prompts.position import PROBE_ANSWER, PROBE_SYSTEM, PROBE_USER, Turn, find_answer_position
from lorica.records import Message

# Meta's own templates fall back to this date when they are told none.
TEMPLATE_DATE = datetime(2024, 7, 26)

PLAIN_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- 'Answer: ' + message.content + '\\n\\n' }}
    {%- else %}
        {{- message.content + '\\n\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Answer:' }}
{%- endif %}
"""

_GENERATION_TAG = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


class TemplateSource(msgspec.Struct, frozen=True):
    """The text of a chat template and where it came from ("plain" for the built-in plain format)."""

    text: str
    origin: str


def find_template(folder: Path, choice: str, tokenizer_config: Mapping[str, Any]) -> TemplateSource:
    """The chat template to use, of a model folder or GGUF file. choice: "auto", "plain", or the path of a Jinja file.

    "auto" looks for `chat_template.jinja`, then `chat_template` in `tokenizer_config.json`, and falls back
    to the plain format. Raises PromptError for a file that is missing or unreadable, or several templates
    without a default.
    """
    if choice == "plain":
        return TemplateSource(PLAIN_TEMPLATE, "plain")
    if choice != "auto":
        return _read_template(Path(choice))
    if (folder / "chat_template.jinja").is_file():
        return _read_template(folder / "chat_template.jinja")
    declared = tokenizer_config.get("chat_template")
    origin = str(folder / "tokenizer_config.json" if folder.is_dir() else folder)
    if isinstance(declared, str):
        return TemplateSource(declared, origin)
    if isinstance(declared, list):
        template_by_name = {
            declared_template["name"]: declared_template["template"]
            for declared_template in declared
            if isinstance(declared_template, dict)
        }
        if "default" not in template_by_name:
            raise PromptError(
                f"{origin} holds chat templates {sorted(template_by_name)} and none is called 'default'",
                fix="save one of them as a file and set model.chat_template to its path",
            )
        return TemplateSource(str(template_by_name["default"]), origin)
    return TemplateSource(PLAIN_TEMPLATE, "plain")


def _read_template(template_path: Path) -> TemplateSource:
    try:
        # A byte order mark, as editors put it, would stand in front of each prompt.
        return TemplateSource(template_path.read_text(encoding="utf-8-sig"), str(template_path))
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(
            f"cannot read the chat template {template_path}: {error}",
            fix="model.chat_template is 'auto', 'plain' or the path of a Jinja file",
        ) from error


class ChatTemplate:
    """One compiled template, with what rendering probes found of it.

    folds_system: it refuses or drops a system message, which is then put before the first user message.
    position: where its answers stand.
    """

    def __init__(
        self, source: TemplateSource, variables: Mapping[str, object], is_token: Callable[[str], bool] = bool
    ) -> None:
        """variables: what it may use besides messages (bos_token, enable_thinking). is_token: whether a text is a
        control token of the tokenizer it is for. Raises PromptError for a template that cannot be used.
        """
        self.source = source
        self._variables = dict(variables)
        try:
            self._template = _environment().from_string(_without_generation_tags(source.text))
        except jinja2.TemplateError as error:
            raise PromptError(
                f"the chat template of {source.origin} is not valid Jinja: {error}",
                fix="mend it, or set model.chat_template=plain",
            ) from error
        self.folds_system = self._probe_system()
        self.position = find_answer_position(
            self._render, folds_system=self.folds_system, origin=source.origin, is_token=is_token
        )

    def render(self, chat_turns: Sequence[tuple[str, str]], *, generation: bool) -> str:
        """Render (role, content) pairs. generation: end with the opening of the assistant's turn.

        Raises PromptError when the template refuses the conversation.
        """
        return self._render([{"role": role, "content": content} for role, content in chat_turns], generation)

    def sample(self) -> str:
        """A conversation as it writes one, with all marks of turns."""
        system = [] if self.folds_system else [("system", PROBE_SYSTEM)]
        return self.render([*system, ("user", PROBE_USER), ("assistant", PROBE_ANSWER)], generation=False)

    def _render(self, chat_turns: Sequence[Turn], generation: bool) -> str:
        try:
            return self._template.render(
                messages=chat_turns,
                tools=None,
                documents=None,
                add_generation_prompt=generation,
                **self._variables,
            )
        # A template is a program from elsewhere: whatever it raises is its refusal.
        except Exception as error:
            raise PromptError(
                f"the chat template of {self.source.origin} refused "
                f"{[chat_turn['role'] for chat_turn in chat_turns]}: {error}",
                fix="set model.chat_template to a template that accepts them, or to 'plain'",
            ) from error

    def fold(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Put a leading system message before the first user message if the template knows no system role."""
        if not self.folds_system or not messages or messages[0].role != "system":
            return messages
        system, later_messages = messages[0], messages[1:]
        if not later_messages or later_messages[0].role != "user":
            return (Message("user", system.content, system.trim), *later_messages)
        offset = len(system.content) + 2
        first_user = later_messages[0]
        trimmed_spans = system.trim + tuple(
            (span_start + offset, span_end + offset) for span_start, span_end in first_user.trim
        )
        return (Message("user", f"{system.content}\n\n{first_user.content}", trimmed_spans), *later_messages[1:])

    def _probe_system(self) -> bool:
        """Whether a system message must be folded. Raises PromptError when the user's message is not shown."""
        user_turn = ("user", PROBE_USER)
        if PROBE_USER not in self.render([user_turn], generation=True):
            raise PromptError(
                f"the chat template of {self.source.origin} does not show the user's message",
                fix="set model.chat_template to a template that does, or to 'plain'",
            )
        try:
            rendered = self.render([("system", PROBE_SYSTEM), user_turn], generation=True)
        except PromptError:
            return True
        return PROBE_SYSTEM not in rendered or PROBE_USER not in rendered


def _without_generation_tags(template_text: str) -> str:
    # `generation` blocks mark the words to train on; here the mask comes from the token ids.
    def replace(block_match: re.Match[str]) -> str:
        before, end_keyword, after = block_match.groups()
        return f"{{%{before} {'endif' if end_keyword else 'if true'} {after}%}}"

    return _GENERATION_TAG.sub(replace, template_text)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = TEMPLATE_DATE.strftime
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    json_value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML characters, which no model was trained on.
    return json.dumps(json_value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
