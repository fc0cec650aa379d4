"""One process at a time in a folder: who holds it is said, and nobody who is gone blocks anybody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lorica.errors import DataError, ResumeError
from lorica.locks import LOCK_NAME, FolderLock, lock_folder, lock_owner, this_host

SOURCE = Path(__file__).resolve().parents[1] / "src"
HOLDER = """
import sys, time
from pathlib import Path
from lorica.locks import lock_folder

lock = lock_folder(Path(sys.argv[1]), doing="training", fix="")
print("held", flush=True)
time.sleep(600)
"""


def _lock(folder: Path) -> FolderLock:
    return lock_folder(folder, doing="training", fix="wait until it ends")


def test_the_second_one_is_told_who_holds_it_and_a_killed_one_blocks_nobody(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ResumeError) as caught:
            _lock(tmp_path)
        assert f"training, process {holder.pid} on {this_host()}, since 20" in str(caught.value)
        assert str(caught.value).endswith("-> wait until it ends")
        owner = lock_owner(tmp_path)
        assert owner is not None
        assert owner.pid == holder.pid
        holder.kill()
    assert (tmp_path / LOCK_NAME).exists()  # its record is left, and decides nothing
    assert lock_owner(tmp_path) is None
    with _lock(tmp_path) as lock:
        assert lock.previous == owner
        assert lock.lost() == ""


def test_release_leaves_nothing_that_was_made_for_it(tmp_path: Path) -> None:
    with _lock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with _lock(tmp_path / "a" / "b") as lock:
        (tmp_path / "a" / "kept").write_bytes(b"")
        lock.release()
        lock.release()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_a_folder_that_was_removed_replaced_or_taken_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with _lock(folder) as lock:
        shutil.rmtree(folder)
        assert "removed" in lock.lost()
        with _lock(folder):
            assert "another process" in lock.lost()
            lock.release()
            assert lock_owner(folder) is not None  # the newcomer's lock outlasts the end of the first
    with _lock(folder) as lock:
        # Another machine, on a file system that does not share locks: its record is all that is seen of it.
        record = json.loads((folder / LOCK_NAME).read_text())
        (folder / LOCK_NAME).write_text(json.dumps({**record, "token": "0", "host": "node7"}))
        assert "on node7" in lock.lost()


def test_a_link_in_the_place_of_the_lock_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / LOCK_NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(DataError, match="nothing can be written here"):
        _lock(tmp_path / "a")
    assert (tmp_path / "precious").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="nothing can be written here"):
        _lock(tmp_path / "file")


@pytest.mark.parametrize("content", ["", "{", '{"pid": "x"}', "[]", '{"pid": 1, "token": 2}'])
def test_a_broken_record_decides_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text(content)
    with _lock(tmp_path) as lock:
        assert lock.previous is None


def test_asking_who_writes_disturbs_nobody(tmp_path: Path) -> None:
    """Readers ask without pause while the lock is taken and released again and again."""
    going = True

    def ask() -> None:
        while going:
            lock_owner(tmp_path)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(50):
            with _lock(tmp_path) as lock:
                assert lock.lost() == ""
    finally:
        going = False
        for asker in askers:
            asker.join()
