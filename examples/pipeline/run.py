"""The sample driver: a batch of questions in, answers out, offline.

    python run.py                               a built-in mini batch
    python run.py questions.jsonl               one JSON object a line: questionID, question, subject
    python run.py questions.jsonl answers.jsonl

Every answer is printed and written to answers.jsonl. What a deployment sets, it sets in the environment:

    MODEL_NAME           a model preset's name, a Hugging Face id in the local cache, or a folder
    HF_CACHE_DIR         folder of the Hugging Face cache
    USE_4BIT             1 or 0: hold the base in four bits
    DEVICE_MAP           how the transformers engine spreads the model over devices
    BATCH_SIZE           rows at once
    MAX_NEW_TOKENS       longest answer
    MIN_NEW_TOKENS       shortest answer
    MAX_INPUT_TOKENS     longest prompt
    TEMPERATURE          above 0 samples
    TOP_P, TOP_K         what sampling is cut to
    REPETITION_PENALTY   penalty on tokens that were seen
    ADAPTERS_BASE_DIR    folder whose subfolders are adapters, each named after its subject
    PEFT_ADAPTER_<SUBJECT>  folder of one adapter, as in PEFT_ADAPTER_ALGEBRA
    RAG_KNOWLEDGE_BASE_DIR  folder of knowledge bases, one a subject
    RAG_TOP_K            passages for a question
    RAG_ENABLED_SUBJECTS subjects with retrieval, separated by commas
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import lorica

MINI_BATCH: list[dict[str, Any]] = [
    {
        "questionID": "1",
        "subject": "trips",
        "question": "Ines goes from Miami to Manila by bus. From where does she go?",
    },
    {"questionID": "2", "subject": "orders", "question": "Bruno gets three brown whistles. What colour are they?"},
    {"questionID": "3", "subject": "lost", "question": "Gita found a purse in the garden. What did she find?"},
]


def read_questions(path: Path) -> list[dict[str, Any]]:
    """One JSON object a line; empty lines are skipped. Raises SystemExit naming the line that is none."""
    questions = []
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            question = json.loads(line.decode("utf-8"), parse_constant=_refuse)
            json.dumps(question, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            raise SystemExit(f"run.py: {path}, line {number}: no JSON in UTF-8: {error}") from None
        if not isinstance(question, dict):
            raise SystemExit(f"run.py: {path}, line {number}: a JSON object is needed, such as {MINI_BATCH[0]}")
        questions.append(question)
    if not questions:
        raise SystemExit(f"run.py: {path} holds no question")
    return questions


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON; write null for a missing value")


def main(arguments: list[str]) -> int:
    """Answer the file of the first argument, or the mini batch, into that of the second."""
    if len(arguments) > 2 or any(argument.startswith("-") for argument in arguments):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack characters that answers.jsonl has
    output = Path(arguments[1] if len(arguments) == 2 else "answers.jsonl")
    try:
        questions = read_questions(Path(arguments[0])) if arguments else MINI_BATCH
        answers = lorica.load_pipeline("qa")(questions)
        partial = output.with_name(output.name + ".partial")
        with partial.open("w", encoding="utf-8") as lines:
            for question, answer in zip(questions, answers, strict=True):
                record = {
                    "questionID": answer.id,
                    "question": question.get("question"),
                    "answer": answer.answer,
                    "adapter": answer.adapter,
                    "flags": list(answer.flags),
                }
                print(f"{answer.id}: {record['question']}\n   -> {answer.answer}")
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        os.replace(partial, output)
    except lorica.LoricaError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"run.py: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{len(answers)} answers in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
