import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import yaml

from ols.config import Config
from ols.files import DamagedFileError
from ols.runs.folder import RunFolder, claim, locked

CONFIG = Config(seed=3, loss={"name": "ols", "hard_weight": 0.3}).resolve()


@pytest.fixture
def begun(tmp_path):
    """A run's folder with a configuration and a checkpoint."""
    folder = RunFolder(tmp_path / "runs" / "run")
    folder.checkpoint(1).mkdir(parents=True)
    folder.config.write_text(yaml.safe_dump(asdict(CONFIG), sort_keys=False))
    return folder


def test_the_configuration_of_a_run_comes_back_as_it_was(begun):
    assert begun.load_config() == CONFIG


@pytest.mark.parametrize(
    "content", ["", "[1]", "seed: [", "no_such_key: 1", "data: {image_sise: 3}", "train: {epochs: 0}"]
)
def test_a_damaged_configuration_is_named(begun, content):
    begun.config.write_text(content)
    with pytest.raises(DamagedFileError, match=r"run/config\.yaml is damaged"), claim(begun.path, CONFIG, "auto"):
        pass
    with claim(begun.path, CONFIG, "never"):
        assert not begun.path.exists()


def test_checkpoints_without_a_configuration_are_refused_and_can_be_moved_aside(begun):
    begun.config.unlink()
    with pytest.raises(DamagedFileError, match=r"config\.yaml is missing"), claim(begun.path, CONFIG, "auto"):
        pass
    with claim(begun.path, CONFIG, "never"):
        assert [path.name for path in begun.path.parent.iterdir()] == [".run.lock", "run.1"]


def test_a_run_that_was_moved_continues_and_another_configuration_is_refused(begun):
    moved = begun.path.rename(begun.path.with_name("elsewhere"))
    with claim(moved, replace(CONFIG, run_dir=str(moved)), "auto") as folder:
        assert folder.path == moved
    with pytest.raises(ValueError, match=r"seed: 3 -> 4\n"), claim(moved, replace(CONFIG, seed=4), "auto"):
        pass
    assert [path.name for path in moved.parent.iterdir()] == ["elsewhere"]  # no lock is left


def test_what_a_run_fills_in_itself_is_no_other_configuration(begun):
    filled = replace(CONFIG, data=CONFIG.data.with_normalization((0.3,), (0.2,)))
    with claim(begun.path, filled, "auto"):
        begun.config.write_text(yaml.safe_dump(asdict(filled)))
    with claim(begun.path, CONFIG, "auto"):
        assert begun.load_config() == filled
    other = replace(CONFIG, data=CONFIG.data.with_normalization((0.4,), (0.2,)))
    with pytest.raises(ValueError, match=r"data\.mean: \[0\.3\] -> \[0\.4\]\n"), claim(begun.path, other, "auto"):
        pass


def test_a_folder_without_checkpoints_may_be_used_by_another_configuration(begun):
    begun.checkpoint(1).rmdir()
    with claim(begun.path, replace(CONFIG, seed=4), "auto"):
        assert begun.config.exists()


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_dry_run_is_deleted(begun, resume):
    dry = replace(CONFIG, dry_run=True)
    begun.config.write_text(yaml.safe_dump(asdict(dry)))
    with claim(begun.path, dry, resume):
        assert not begun.path.exists()
    assert list(begun.path.parent.iterdir()) == []


def test_a_run_continues_whether_it_is_profiled_and_however_often_it_is_saved(begun):
    other = replace(CONFIG, profile=True, train=replace(CONFIG.train, keep_last=5, checkpoint_every_steps=7))
    with claim(begun.path, other, "auto"):
        assert begun.config.exists()


def test_a_folder_is_one_process_s_as_long_as_it_lives(begun):
    code = (
        "import sys, time\nfrom ols.config import Config\nfrom ols.runs.folder import claim\n"
        "with claim(sys.argv[1], Config(), 'never'): print('claimed', flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", code, begun.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline().startswith("moved the earlier run to")
        assert other.stdout.readline() == "claimed\n"
        for resume in ("auto", "never"):
            with (
                pytest.raises(RuntimeError, match=f"another process uses {begun.path}: process {other.pid} on"),
                claim(begun.path, CONFIG, resume),
            ):
                pass
        other.kill()
    with claim(begun.path, CONFIG, "auto"):
        pass
    assert [path.name for path in begun.path.parent.iterdir()] == ["run.1"]


def test_a_refusal_waits_for_the_name_of_a_process_that_has_only_just_locked_the_folder(tmp_path):
    code = (
        "import fcntl, sys, time\nfile = open(sys.argv[1], 'a+')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); time.sleep(0.3)\n"
        "print('process 7 on there', file=file, flush=True); time.sleep(100)"
    )
    lock = tmp_path / ".run.lock"
    with subprocess.Popen([sys.executable, "-c", code, lock], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with (
            pytest.raises(RuntimeError, match=f"another process uses {tmp_path / 'run'}: process 7 on there$"),
            locked(lock, tmp_path / "run"),
        ):
            pass
        other.kill()
