"""Token ids against transformers' apply_chat_template, on real tokenizers and templates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lorica.errors import PromptError
from lorica.prompts.encoder import Encoder
from lorica.prompts.template import TEMPLATE_DATE, ChatTemplate, TemplateSource
from lorica.records import Message

from .conftest import load_encoder

TEMPLATES = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "tokenizers" / "templates"
REAL = ["qwen2.5-instruct", "qwen3", "mistral-7b-instruct-v0.2", "tinyllama-chat", "smollm2-360m-instruct"]
VARIABLES: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": False}
TEXTS = [
    "Does the post break the rule? Answer Yes or No.",
    "  leading and trailing  ",
    "two\n\nlines\r\nand a tab\t.",
    "Ünïcödé, 北京, العربية, 🙂🙂, ﬁ ligature, e\u0301",
    "it's 12345 + 67.8% = 3/4; <b>html</b> & [brackets]",
    "a  b   c    d\n    indented code()\n\n\n\n",
    "x",
    "NUL \x00 and bell \x07",
]


@functools.cache
def load(folder: Path) -> tuple[Encoder, Any]:
    """Our encoder and their tokenizer."""
    from transformers import AutoTokenizer

    return load_encoder(folder), AutoTokenizer.from_pretrained(str(folder))


@pytest.mark.parametrize("name", REAL)
def test_prompts_equal_apply_chat_template(name: str, real: Callable[[str], Path]) -> None:
    encoder, theirs = load(real(name))
    for text in TEXTS:
        for system in (None, "You judge posts.\nBe brief. "):
            chat = [Message("system", system)] if system else []
            chat.append(Message("user", text))
            expected = theirs.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in chat],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                enable_thinking=False,
            )
            got = encoder.encode(chat, max_tokens=10_000, truncate="error")
            assert list(got.tokens) == expected, (text, system)
            assert (got.answer_start, got.dropped) == (len(expected), 0)


@pytest.mark.parametrize("name", REAL)
def test_answers_equal_a_whole_conversation(name: str, real: Callable[[str], Path]) -> None:
    encoder, theirs = load(real(name))
    chat = [Message("user", "Does it break the rule?")]
    for answer in ("Yes", "No", "B", "a queen of Egypt", "0.85", "北京"):
        prompt = encoder.encode(chat, max_tokens=999, truncate="error").tokens
        whole = encoder.encode(chat, answer=answer, max_tokens=999, truncate="error")
        assert whole.tokens[: whole.answer_start] == prompt
        assert whole.tokens[whole.answer_start : -1] == encoder.encode_choice(answer)
        assert whole.tokens[-1] in encoder.stop_tokens
        assert encoder.decode(whole.tokens[whole.answer_start :]) == answer
        expected = theirs.apply_chat_template(
            [
                {"role": "user", "content": "Does it break the rule?"},
                {"role": "assistant", "content": answer},
            ],
            tokenize=True,
            return_dict=False,
        )
        if name == "mistral-7b-instruct-v0.2":  # its template runs prompt and answer together without a gap
            assert encoder.decode(expected) == encoder.decode(whole.tokens)
        else:
            assert list(whole.tokens) == expected[: len(whole.tokens)]
            assert len(expected) - len(whole.tokens) <= 2  # the line feed after the end of turn


def test_thinking_is_the_templates_to_open(real: Callable[[str], Path], tiny: Path) -> None:
    template = str(real("qwen3") / "chat_template.jinja")
    closed, open_ = (Encoder.load(tiny, chat_template=template, thinking=thinking) for thinking in (False, True))
    chat = [Message("user", "Hi")]
    assert closed.render(chat).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert open_.render(chat).endswith("<|im_start|>assistant\n")
    assert closed.template_digest != open_.template_digest
    assert closed.tokenizer_digest == open_.tokenizer_digest
    assert closed.decode(closed.encode_choice("<think>x</think>Yes")) == "<think>x</think>Yes"


def theirs_renders(text: str, turns: Sequence[tuple[str, str]], *, generation: bool) -> str:
    from transformers.utils import chat_template_utils

    rendered, _ = chat_template_utils.render_jinja_template(
        conversations=[[{"role": role, "content": content} for role, content in turns]],
        chat_template=text,
        add_generation_prompt=generation,
        **VARIABLES,
    )
    return str(rendered[0])


@pytest.mark.parametrize("file", sorted(TEMPLATES.glob("*.jinja")), ids=lambda file: file.stem)
def test_real_templates_render_as_in_transformers(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import chat_template_utils

    class Clock:
        @staticmethod
        def now() -> datetime:
            return TEMPLATE_DATE

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    text = file.read_text(encoding="utf-8")
    try:
        theirs_renders(text, [("user", "hi")], generation=True)
    except Exception:  # a template for tools refuses a plain chat: ours must, too
        with pytest.raises(PromptError, match=r"(?s)refused \['user'\].*'plain'"):
            ChatTemplate(TemplateSource(text, file.name), VARIABLES)
        return
    template = ChatTemplate(TemplateSource(text, file.name), VARIABLES)
    chat = template.fold([Message("system", "Judge. "), Message("user", " a post\n")])
    assert (len(chat) == 1) == template.folds_system
    turns = [(message.role, message.content) for message in chat]
    assert template.render(turns, generation=True) == theirs_renders(text, turns, generation=True)
    turns.append(("assistant", "Yes"))
    assert template.render(turns, generation=False) == theirs_renders(text, turns, generation=False)


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason="the shared data folder is not beside the repository")
def test_gemma_refuses_a_system_role_and_gets_it_folded() -> None:
    text = (TEMPLATES / "google-gemma-2-2b-it.jinja").read_text(encoding="utf-8")
    template = ChatTemplate(TemplateSource(text, "gemma"), {"bos_token": "<bos>"})
    assert template.folds_system
    assert template.position.after == "<end_of_turn>\n"
    (folded,) = template.fold([Message("system", "Judge it.", ((0, 5),)), Message("user", "the post", ((4, 8),))])
    assert folded.content == "Judge it.\n\nthe post"
    assert [folded.content[a:b] for a, b in folded.trim] == ["Judge", "post"]
