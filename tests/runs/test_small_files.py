"""Every small file of a run's folder that is lost or damaged is rebuilt, passed over with a warning, or named."""

import json
import warnings
from dataclasses import asdict

import pytest
import yaml

from ols.config import Config
from ols.files import DamagedFileError, append_line, read_record, write_record
from ols.runs.folder import RunFolder, claim, describe_conditions

CONFIG = Config(seed=3).resolve()
WHOLE = {
    "device": "cpu X",
    "versions": {"torch": "1", "torchvision": "2", "timm": "3"},
    "python": "3",
    "commit": None,
    "date": "2026-01-02T03:04:05",
}
RECORDS = ("identity_file", "best", "unreadable_samples", "nonfinite_samples")


def _damage(path, kind):
    contents = path.read_bytes()
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "truncated": contents[: len(contents) // 2], "garbage": b"\xff\x00{"}[kind])


KINDS = ("empty", "truncated", "garbage", "missing", "directory")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_named_and_can_be_written_again(tmp_path, name, kind):
    path = getattr(RunFolder(tmp_path / "run"), name)
    write_record(path, {"run": "a"})
    _damage(path, kind)
    with pytest.raises(DamagedFileError, match=path.name):
        read_record(path)
    write_record(path, {"run": "b"})
    assert read_record(path)["run"] == "b"


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_name_of_the_run_is_that_of_its_newest_checkpoint(tmp_path, kind):
    folder = RunFolder(tmp_path / "run")
    folder.checkpoint(1).mkdir(parents=True)
    (folder.checkpoint(1) / "state.json").write_text(json.dumps({"identity": {"run": "mine"}}))
    folder.config.write_text(yaml.safe_dump(asdict(CONFIG)))
    write_record(folder.identity_file, {"run": "mine"})
    _damage(folder.identity_file, kind)
    with claim(folder.path, CONFIG, "auto") as claimed:
        assert claimed.identity["run"] == "mine"


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_are_told_without_a_damaged_environment(tmp_path, kind):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    append_line(folder.environment, json.dumps(WHOLE))
    _damage(folder.environment, kind)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert describe_conditions([folder.path]) == "Their device and versions are not recorded."
    assert [str(folder.environment) in str(one.message) for one in said] == [True] * (kind in ("truncated", "garbage"))


def test_a_line_after_one_that_was_cut_off_is_whole(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.environment.write_text('{"device": "cp')
    append_line(folder.environment, json.dumps(WHOLE))
    append_line(folder.environment, json.dumps({**WHOLE, "device": "cpu Y"}))
    assert folder.environment.read_text().count("\n") == 3
    assert describe_conditions([folder.path]).startswith("cpu Y; torch 1;")
