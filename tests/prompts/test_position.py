"""Answers are asked for where the template has them, or nowhere: proved at load, for training and inference alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from lorica.errors import PromptError
from lorica.prompts.encoder import Encoder
from lorica.prompts.template import PLAIN_TEMPLATE, ChatTemplate, TemplateSource
from lorica.records import Message

from .conftest import CHATML, SHARED, tiny_tokenizer, write_folder

TURNS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHAT = [Message("system", "You judge."), Message("user", "The post sells watches.")]


def opening(text: str) -> str:
    """ChatML whose generation prompt ends with `text`."""
    return TURNS + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n" + text + "' }}{% endif %}"


def load(folder: Path, template: str, *added: str, thinking: bool = False, special: bool = True) -> Encoder:
    """An encoder of the tiny tokenizer with more control tokens."""
    tokenizer = tiny_tokenizer(*(AddedToken(content, special=special, normalized=False) for content in added))
    return Encoder.load(write_folder(folder, tokenizer, template=template, eos_token="<|im_end|>"), thinking=thinking)


def direct(encoder: Encoder) -> str:
    """The prompt as text before a scored answer, behind the user's last words."""
    return encoder.render(CHAT, generated=False).rpartition("watches.<|im_end|>\n")[2]


# Generation prompt -> how a prompt for a scored answer ends.
THOUGHTS = [
    ("<think>\n", "<think>\n\n</think>\n\n"),
    ("<think>", "<think></think>"),
    ("<thinking>\n", "<thinking>\n\n</thinking>\n\n"),
    ("<thought>\n", "<thought>\n\n</thought>\n\n"),
    ("<reasoning>\n", "<reasoning>\n\n</reasoning>\n\n"),
    ("<seed:think>", "<seed:think></seed:think>"),
    ("[THINK]", "[THINK][/THINK]"),
    ("◁think▷", "◁think▷◁/think▷"),
    ("<THINK>\n", "<THINK>\n\n</THINK>\n\n"),
]


@pytest.mark.parametrize(("tail", "ending"), THOUGHTS)
@pytest.mark.parametrize("tokens", [True, False])
def test_a_thought_that_the_template_opens_is_closed(tail: str, ending: str, tokens: bool, tmp_path: Path) -> None:
    tag = tail.strip()
    close = ending[len(tag) :].strip()
    added = (tag, close) if tokens else ()
    encoder = load(tmp_path / "m", opening(tail), *added)
    assert direct(encoder) == f"<|im_start|>assistant\n{ending}"
    assert encoder.render(CHAT) == encoder.render(CHAT, generated=False)
    assert encoder.opened == ""
    (note,) = encoder.notes
    assert "task.thinking=true" in note
    thinking = load(tmp_path / "m", opening(tail), *added, thinking=True)
    assert direct(thinking) == direct(encoder)
    assert thinking.render(CHAT).endswith(f"<|im_start|>assistant\n{tail}")
    assert thinking.opened == tail
    assert thinking.notes == ()
    # The end of a thought stays in the text, though it is a control token.
    assert close in thinking.decode(
        Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json")).encode(f"so {close}Yes").ids
    )


@pytest.mark.parametrize(
    ("tag", "close"),
    [
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|thought|>", "<|/thought|>"),
        ("<|thought|>", "<|end_of_thought|>"),
        ("<|think_start|>", "<|think_end|>"),
    ],
)
def test_a_marker_that_opens_a_thought_is_closed_by_the_tokenizers_own(tag: str, close: str, tmp_path: Path) -> None:
    assert direct(load(tmp_path / "m", opening(tag), tag, close)).endswith(f"assistant\n{tag}{close}")
    with pytest.raises(PromptError, match=r"(?s)opens a thought .*says what closes.*model\.chat_template"):
        load(tmp_path / "other", opening(tag), tag)


def test_a_template_that_closes_thoughts_itself_is_followed(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' and m.reasoning_content %}"
        "{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
        "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    )
    assert direct(load(tmp_path / "m", template)) == "<|im_start|>assistant\n<think>\n</think>"


# As the thinking-only models of Qwen's: an empty thought stands before an answer that has none.
EMPTY_THOUGHT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "generated"),
    [
        (EMPTY_THOUGHT + ASKS, "<|im_start|>assistant\n"),
        (EMPTY_THOUGHT + ASKS.replace("assistant\n", "assistant\n<think>\n"), "<|im_start|>assistant\n<think>\n"),
        (EMPTY_THOUGHT, "<|im_start|>assistant\n"),
    ],
)
def test_a_thought_that_the_template_writes_before_answers(template: str, generated: str, tmp_path: Path) -> None:
    assert direct(load(tmp_path / "m", template)) == "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    thinking = load(tmp_path / "m", template, thinking=True)
    assert direct(thinking) == "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert thinking.render(CHAT).endswith(generated)


def test_a_thought_that_stands_open_before_answers_too_is_closed(tmp_path: Path) -> None:
    template = TURNS.replace("m.role + '\n' +", "m.role + '\n' + ('<think>\n' if m.role == 'assistant' else '') +")
    encoder = load(tmp_path / "m", template + ASKS.replace("assistant\n", "assistant\n<think>\n"))
    assert direct(encoder) == "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.mark.parametrize("closed", ["<think>\n\n</think>\n\n", "<think></think>", "</think>", "\n"])
def test_a_prompt_that_closes_its_thought_stays_as_it_is(closed: str, tmp_path: Path) -> None:
    encoder = load(tmp_path / "m", opening(closed))
    assert direct(encoder) == f"<|im_start|>assistant\n{closed}"
    assert encoder.notes == ()


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("tail", ["<think>\n", "<|thought|>", ""])
def test_training_places_answers_where_inference_asks(thinking: bool, tail: str, tmp_path: Path) -> None:
    encoder = load(tmp_path / "m", opening(tail), "<|thought|>", "<|/thought|>", thinking=thinking)
    for generated in (False, True):
        prompt = encoder.encode(CHAT, max_tokens=999, truncate="error", generated=generated)
        row = encoder.encode(CHAT, answer="Yes", max_tokens=999, truncate="error", generated=generated)
        assert row.tokens[: row.answer_start] == prompt.tokens
        learned = encoder.decode(row.tokens[row.answer_start :])
        thinks = thinking and generated and bool(tail)
        assert (
            learned
            == {"": "Yes", "<think>\n": "\n</think>\n\nYes", "<|thought|>": "<|/thought|>Yes"}[tail if thinks else ""]
        )
        assert row.tokens[-1] == encoder.end_of_turn
        assert row.tokens[-1 - len(encoder.encode_choice("Yes")) : -1] == encoder.encode_choice("Yes")


MARKED = [
    # A template that knows no generation prompt, and what it writes before an answer.
    (TURNS, "<|im_start|>assistant\n"),
    ("{% for m in messages %}{{ m.role | upper + ': ' + m.content + '\n' }}{% endfor %}", "ASSISTANT:"),
    ("{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n\n' }}{% endfor %}", "### assistant:\n"),
    # One whose generation prompt stops short of it.
    (opening("") .replace("{{ '<|im_start|>assistant\n", "{{ '<|im_start|>"), "<|im_start|>assistant\n"),
    (TURNS.replace("m.role + '\n' +", "m.role + '\n' + ('>>>all\n' if m.role == 'assistant' else '') +") + ASKS,
     "<|im_start|>assistant\n>>>all\n"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "mark"), MARKED)
def test_the_mark_of_an_answer_is_added_where_the_template_leaves_it_out(
    template: str, mark: str, tmp_path: Path
) -> None:
    encoder = load(tmp_path / "m", template)
    assert encoder.render(CHAT).endswith(mark)
    (note,) = encoder.notes
    assert "which it writes before every answer" in note
    row = encoder.encode(CHAT, answer="Yes", max_tokens=999, truncate="error")
    text = encoder.render(CHAT)
    whole = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    space = " " if mark.endswith(":") else ""
    assert list(row.tokens[:-1]) == whole.encode(f"{text}{space}Yes", add_special_tokens=False).ids


@pytest.mark.parametrize("spaces", [" ", "  ", "\t"])
def test_a_space_at_the_end_of_the_prompt_belongs_to_the_answer(spaces: str, tmp_path: Path) -> None:
    """Tokenizers write " Yes" as one token, and the template's own conversations have it."""
    template = (
        "{% for m in messages %}{{ m.role | upper + ':" + spaces + "' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:" + spaces + "' }}{% endif %}"
    )
    encoder = load(tmp_path / "m", template)
    assert encoder.render(CHAT, generated=False).endswith("\nASSISTANT:")
    (note,) = encoder.notes
    assert "belongs to the answer's first token" in note
    whole = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    row = encoder.encode(CHAT, answer="Yes", max_tokens=999, truncate="error")
    text = encoder.render(CHAT) + spaces + "Yes"
    assert list(row.tokens[:-1]) == whole.encode(text, add_special_tokens=False).ids
    without = load(tmp_path / "n", template.replace("'ASSISTANT:" + spaces, "'ASSISTANT:"))
    assert without.notes == ()
    assert without.encode(CHAT, answer="Yes", max_tokens=999, truncate="error") == row
    assert without.template_digest != encoder.template_digest


def test_a_space_that_a_marker_swallows_is_none(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(AddedToken("<|assistant|>", special=True, rstrip=True, normalized=False))
    template = "{% for m in messages %}{{ '<|' + m.role + '|> ' + m.content + '<|im_end|>' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
    encoder = Encoder.load(write_folder(tmp_path / "m", tokenizer, template=template, eos_token="<|im_end|>"))
    assert encoder.render(CHAT).endswith("<|assistant|> ")
    row = encoder.encode(CHAT, answer="Yes", max_tokens=99, truncate="error")
    assert row.tokens[row.answer_start : -1] == encoder.encode_choice("Yes")
    assert encoder.decode(encoder.encode_choice("Yes")) == "Yes"


def test_what_is_added_counts_as_another_template(tmp_path: Path) -> None:
    def digest(template: str, *, thinking: bool = False) -> str:
        return load(tmp_path / "m", template, thinking=thinking).template_digest

    assert len({digest(CHATML), digest(TURNS), digest(opening("<think>\n"))}) == 3
    import hashlib

    # As before for a template that needs nothing: adapters and passports made before stay good.
    for template in (CHATML, opening("<think>\n\n</think>\n\n"), PLAIN_TEMPLATE):
        for thinking in (False, True):
            before = hashlib.sha256(json.dumps([template, thinking], separators=(",", ":")).encode()).hexdigest()
            assert digest(template, thinking=thinking) == f"sha256:{before}"


REFUSED = [
    # What it asks with is not what stands before its answers.
    (opening("Sure: "), "asks for an answer behind"),
    (opening("<|im_end|>"), "asks for an answer behind"),
    (TURNS.replace("m.role +", "('bot' if m.role == 'assistant' else m.role) +") + ASKS, "asks for an answer"),
    (TURNS + "{{ '[END]' }}", "asks for an answer behind"),
    # An assistant's turn is not shown, refused, or changed.
    ("{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}", "cannot be proved"),
    ("{% for m in messages %}{{ raise_exception('no') if m.role == 'assistant' else m.content }}{% endfor %}",
     "cannot be proved.*no"),
    ("{% for m in messages %}{{ m.content | upper if m.role == 'assistant' else m.content }}{% endfor %}",
     "cannot be proved"),
    # A system message moves the answer.
    ("{% if messages[0].role == 'system' and not add_generation_prompt %}{% set more = 'S' %}{% endif %}"
     "{% for m in messages %}{{ (more or '') + m.role + ':' + m.content + '\n' }}{% endfor %}", "elsewhere when"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "message"), REFUSED)
def test_a_template_that_cannot_be_proved_is_refused(template: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=f"(?s){message}") as caught:
        load(tmp_path / "m", template)
    assert "model.chat_template" in caught.value.fix
    # The advice leads on.
    folder = write_folder(tmp_path / "m", tiny_tokenizer(), template=template, eos_token="<|im_end|>")
    assert Encoder.load(folder, chat_template="plain").notes == ()


CHANGED = {
    # What is added to the generation prompts of real templates; nothing to all others.
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "<|START_RESPONSE|>",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "\n</think>\n\n",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "\n</think>\n\n",
    "llama-cpp-deepseek-r1": "\n</think>\n\n",
    "meetkai-functionary-medium-v3.2": "all\n",
}
REFUSING = {  # plain chats, for lack of tools
    "CohereForAI-c4ai-command-r-plus-tool_use", "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "fireworks-ai-llama-3-firefunction-v2",
}  # fmt: skip


@pytest.mark.parametrize("file", sorted((SHARED / "templates").glob("*.jinja")), ids=lambda file: file.stem)
def test_real_templates_that_are_right_stay_as_they_are(file: Path) -> None:
    source = TemplateSource(file.read_text(encoding="utf-8"), file.name)
    if file.stem in REFUSING:
        return
    position = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": False}).position
    assert position.marker + position.closing == CHANGED.get(file.stem, "")
    assert position.prefix == ""


@pytest.mark.parametrize(
    ("name", "closing"),
    [
        ("qwen2.5-instruct", ""),
        ("qwen3", "<think>\n\n</think>\n\n"),
        ("mistral-7b-instruct-v0.2", ""),
        ("tinyllama-chat", ""),
        ("smollm2-360m-instruct", ""),
    ],
)
def test_real_models_are_asked_as_before(name: str, closing: str, real: Callable[[str], Path]) -> None:
    folder = real(name)
    encoder = Encoder.load(folder)
    assert encoder.notes == ()
    assert encoder.render(CHAT, generated=False) == encoder.render(CHAT)
    thinking = Encoder.load(folder, thinking=True)
    assert thinking.notes == ()
    assert thinking.render(CHAT, generated=False) == thinking.render(CHAT) + closing
    # A scored answer stands where it stands without thinking.
    scored = [each.encode(CHAT, max_tokens=999, truncate="error").tokens for each in (encoder, thinking)]
    assert scored[0] == scored[1]


def test_the_marks_of_another_models_template_are_told(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    llama = TURNS.replace("<|im_start|>", "<|start|>").replace("<|im_end|>", "<|eot_id|>")
    llama += "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
    folder = write_folder(tmp_path / "a", tokenizer, template=llama, eos_token="<|im_end|>")
    (note,) = Encoder.load(folder).notes
    assert "'<|eot_id|>'" in note
    assert "no answer ends there" in note
    assert "model.chat_template" in note
    half = CHATML.replace("<|im_start|>", "<|im_begin|>")
    (note,) = Encoder.load(write_folder(tmp_path / "b", tokenizer, template=half, eos_token="<|im_end|>")).notes
    assert "'<|im_begin|>'" in note
    assert "plain pieces" in note
    # Marks that a model knows as plain text, and an end that is a token (TinyLlama).
    plain = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    plain += "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    other = tiny_tokenizer(AddedToken("</s>", special=True))
    assert Encoder.load(write_folder(tmp_path / "c", other, template=plain, eos_token="</s>")).notes == ()


def test_a_tokenizer_is_held_against_the_model(tmp_path: Path) -> None:
    size = tiny_tokenizer().get_vocab_size()
    folder = write_folder(tmp_path / "m", tiny_tokenizer(), eos_token="<|im_end|>")
    encoder = Encoder.load(folder)
    assert encoder.check_vocabulary(size) == ()
    assert encoder.check_vocabulary(size + 20) == ()  # padded
    (note,) = encoder.check_vocabulary(4 * size)
    assert "another model's" in note
    with pytest.raises(
        PromptError, match=rf"(?s){size - 1} rows, and 1 of the tokenizer's ids.*resize_token_embeddings"
    ):
        encoder.check_vocabulary(size - 1)


def test_ids_that_the_files_and_the_library_read_otherwise(tmp_path: Path) -> None:
    """A gap before an added token: the library gives it the next free id, and the file another."""
    template = CHATML.replace("<|im_start|>", "<|begin|>")
    tokenizer = tiny_tokenizer(AddedToken("<|begin|>", special=True))
    folder = write_folder(tmp_path / "m", tokenizer, template=template, eos_token="<|im_end|>")
    size = tokenizer.get_vocab_size()
    assert Encoder.load(folder).check_vocabulary(size) == ()
    for moved in (size + 5, 7):
        written = json.loads((folder / "tokenizer.json").read_text())
        written["added_tokens"][-1]["id"] = moved
        (folder / "tokenizer.json").write_text(json.dumps(written))
        with pytest.raises(PromptError, match=rf"'<\|begin\|>' the id {moved}, and it is read as {size - 1}"):
            Encoder.load(folder).check_vocabulary(size + 20)


def test_an_end_of_text_that_the_tokenizer_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"(?s)names '<\|eot\|>', no token of it.*one of the tokenizer's tokens"):
        Encoder.load(write_folder(tmp_path / "m", tiny_tokenizer(), eos_token="<|eot|>"))
    names = {"eos_token": "<|im_end|>", "bos_token": "<s>"}
    folder = write_folder(tmp_path / "n", tiny_tokenizer(), template="{{ bos_token }}" + CHATML, **names)
    (note,) = Encoder.load(folder).notes
    assert "writes '<s>'" in note


def test_tokens_that_were_added_beyond_the_model(tmp_path: Path) -> None:
    size = tiny_tokenizer().get_vocab_size()
    unused = Encoder.load(
        write_folder(tmp_path / "a", tiny_tokenizer(AddedToken("<pad>", special=True)), eos_token="<|im_end|>")
    )
    (note,) = unused.check_vocabulary(size)
    assert "'<pad>'" in note
    assert "no text gives them" in note
    for name, token, template in (
        ("b", "<|user|>", "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"),
        ("c", "<|end|>", "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"),
    ):
        tokenizer = tiny_tokenizer(AddedToken(token, special=True))
        used = Encoder.load(write_folder(tmp_path / name, tokenizer, template=template, eos_token="<|im_end|>"))
        with pytest.raises(PromptError, match="tokenizer and weights"):
            used.check_vocabulary(size)
    word = Encoder.load(write_folder(tmp_path / "d", tiny_tokenizer(AddedToken("Watchmaker")), eos_token="<|im_end|>"))
    with pytest.raises(PromptError, match="Watchmaker"):
        word.check_vocabulary(size)
