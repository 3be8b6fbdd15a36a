import errno
import subprocess
import sys
import time

import pytest

from ols.files import (
    DamagedFileError,
    append_line,
    delete,
    one_at_a_time,
    read_record,
    write_file,
    write_record,
    written_aside,
)


def test_a_file_replaces_the_one_before_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_file(path, "one")
    write_file(path, b"two")
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_folder_replaces_the_one_before(tmp_path):
    for name in ("a", "b"):
        with written_aside(tmp_path / "export") as aside:
            aside.mkdir()
            (aside / name).write_text(name)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["export", "export/b"]


def test_of_two_that_write_the_same_folder_at_once_the_first_wins(tmp_path):
    with written_aside(tmp_path / "set", first_wins=True) as aside:
        aside.mkdir()
        (aside / "late").touch()
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "early").touch()  # by another process, under a name of its own
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["set", "set/early"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_what_was_there(tmp_path, error):
    write_file(tmp_path / "file", "before")

    def fail() -> None:
        with written_aside(tmp_path / "file") as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "before")]


def test_a_full_disk_is_an_error_with_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError, match=r"file\.bin"), written_aside(tmp_path / "file.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="full"):
        append_line(tmp_path / "missing" / "full", "line")


def test_a_record_comes_back_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "record.json"
    write_record(path, {"epoch": 3, "values": [1.5, None]})
    assert read_record(path) == {"format": 1, "epoch": 3, "values": [1.5, None]}
    whole = path.read_text()
    for content in ("", "null", whole[:-20], whole.replace("3", "4")):
        path.write_text(content)
        with pytest.raises(DamagedFileError, match=r"record\.json"):
            read_record(path)
    delete(path)
    with pytest.raises(DamagedFileError, match="missing"):
        read_record(path)


def test_a_process_waits_for_the_block_of_another(tmp_path):
    code = (
        "import pathlib, sys, time\nfrom ols.files import one_at_a_time\n"
        "with one_at_a_time(pathlib.Path(sys.argv[1])):\n"
        "    print('in', flush=True); time.sleep(0.5); pathlib.Path(sys.argv[2]).touch()"
    )
    arguments = [str(tmp_path / "new" / ".lock"), str(tmp_path / "done")]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        began = time.monotonic()
        with one_at_a_time(tmp_path / "new" / ".lock"):
            assert (tmp_path / "done").exists()
        assert time.monotonic() - began > 0.3
    with one_at_a_time(tmp_path / "new" / ".lock"):
        pass
