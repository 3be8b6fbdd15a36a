import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from recipes.sweep import main, parse_sweep

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "recipes" / "configs" / "sweeps").glob("*.yaml"))
LAUNCHER = [sys.executable, str(ROOT / "tests" / "launched" / "recording_launcher.py")]


class Recorded:
    """A sweep whose runs are those of the recording launcher."""

    def __init__(self, folder: Path, **changes):
        self.record, self.folder, self.file = folder / "record", folder / "sweep", folder / "sweep.yaml"
        self.record.mkdir()
        self.write(**changes)
        for run in self.parse()[1]:
            (self.record / f"{run.run_dir.name}.yaml").write_text(yaml.safe_dump(asdict(run.config)))

    def write(self, **changes) -> None:
        sweep = {
            "folder": str(self.folder),
            "configs": [str(ROOT / "recipes" / "configs" / "radiology13.yaml")],
            "losses": {"hard": {"name": "hard"}, "soft": {"name": "label_smoothing", "smoothing": 0.2}},
            "architectures": ["test_resnet"],
            "seeds": [0, 1],
            "launcher": LAUNCHER,
        }
        self.file.write_text(yaml.safe_dump(sweep | changes))

    def parse(self, *arguments):
        return parse_sweep([str(self.file), *arguments])

    def run(self, *arguments) -> int:
        sweep, runs, dry_run = self.parse(*arguments)
        return main(sweep, runs, dry_run=dry_run)

    def switch(self, name: str) -> Path:
        file = self.record / name
        file.touch()
        return file

    @property
    def calls(self) -> list[list[str]]:
        file = self.record / "calls"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def started(self) -> list[str]:
        return [name for name, *_ in self.calls]


@pytest.fixture
def recorded(tmp_path, monkeypatch) -> Recorded:
    monkeypatch.setenv("SWEEP_RECORD", str(tmp_path / "record"))
    return Recorded(tmp_path)


NAMES = ["test_resnet-hard-seed0", "test_resnet-soft-seed0", "test_resnet-hard-seed1", "test_resnet-soft-seed1"]


def test_a_sweep_is_the_product_each_run_a_process_group_and_evaluation_comes_once(recorded, capsys):
    assert recorded.run("--optim.peak_lr", "0.07") == 0
    assert recorded.started == [*NAMES, "evaluate"]
    for _, pid, group, *_ in recorded.calls:
        assert pid == group != str(os.getpgid(0))
    arguments = recorded.calls[1][3:]
    for argument in ("--loss.name=label_smoothing", "--loss.smoothing=0.2", "--seed=0", "--model.name=test_resnet"):
        assert argument in arguments
    assert arguments[arguments.index("--optim.peak_lr") + 1] == "0.07"
    assert recorded.calls[4][3:] == [str(recorded.folder / "runs" / name) for name in NAMES]
    printed = capsys.readouterr().out
    assert "recording_launcher.py recipes/pretrain.py --config=" in printed.replace(os.path.relpath(ROOT) + "/", "")
    assert f"compare.py {recorded.folder}/runs/*-seed* --output {recorded.folder}/comparison" in printed
    assert "this is" in (recorded.folder / "logs" / f"{NAMES[0]}.log").read_text()


def test_complete_runs_are_not_started_again(recorded, capsys):
    assert recorded.run("--seeds", "[1]", "--evaluate", "false") == 0
    assert recorded.started == NAMES[2:]
    assert recorded.run() == 0
    assert recorded.started == [*NAMES[2:], *NAMES[:2], "evaluate"]
    assert recorded.run() == 0
    assert len(recorded.calls) == 5
    assert f"{NAMES[0]}: complete" in capsys.readouterr().out


def test_a_failing_run_stops_nobody_and_is_reported_at_the_end(recorded, capsys):
    fail = recorded.switch(f"{NAMES[0]}.fail")
    assert recorded.run("--parallel", "2") == 1
    assert sorted(recorded.started) == sorted([*NAMES, "evaluate"])
    assert NAMES[0] not in " ".join(recorded.calls[-1])
    printed = capsys.readouterr().out
    assert f"{NAMES[0]} failed; the end of {recorded.folder}/logs/{NAMES[0]}.log:\n$ " in printed
    assert printed.index("out of memory") > printed.index("evaluate: done")
    assert "3 of 4 runs are complete" in printed
    fail.unlink()
    assert recorded.run() == 0
    assert recorded.started[5:] == [NAMES[0], "evaluate"]


def test_sigterm_is_forwarded_and_the_same_command_continues(recorded, capsys):
    for name in NAMES[:2]:
        recorded.switch(f"{name}.hold")
    recorded.switch(f"{NAMES[1]}.stop")
    assert recorded.run("--parallel", "2") == 130
    assert sorted(recorded.started) == sorted(NAMES[:2])
    assert (recorded.folder / "runs" / NAMES[0] / "checkpoints").is_dir()  # it ended in its own way
    printed = capsys.readouterr().out
    assert printed.count(": stopped") == 4
    assert "0 of 4 runs are complete\ncontinue     python" in printed
    for name in NAMES[:2]:
        (recorded.record / f"{name}.hold").unlink()
    assert recorded.run() == 0
    assert sorted(recorded.started) == sorted([*NAMES, *NAMES[:2], "evaluate"])


def test_a_killed_sweep_leaves_its_run_alone_and_the_next_one_waits_for_it(recorded):
    hold = recorded.switch(f"{NAMES[0]}.hold")
    command = [sys.executable, str(ROOT / "recipes" / "sweep.py"), str(recorded.file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
        _wait(lambda: recorded.started == NAMES[:1])
        first.kill()
    unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=unbuffered) as second:
        assert "still running, started earlier (process group " in second.stdout.readline()
        assert recorded.started == NAMES[:1]  # no second process on this run
        hold.unlink()
        rest = second.stdout.read()
    assert second.returncode == 0
    assert f"{NAMES[0]}: complete" in rest
    assert recorded.started == [*NAMES, "evaluate"]


def test_a_run_of_a_killed_sweep_is_stopped_by_the_next_one(recorded):
    recorded.switch(f"{NAMES[0]}.hold")
    lock = recorded.folder / "logs" / f".{NAMES[0]}.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        held = subprocess.Popen(sleep, start_new_session=True, pass_fds=[file.fileno()])
        file.write(str(held.pid))
    recorded.switch(f"{NAMES[1]}.stop")
    recorded.switch(f"{NAMES[1]}.hold")
    assert recorded.run("--parallel", "2") == 130
    assert held.wait(timeout=60) == -signal.SIGTERM
    assert recorded.started == [NAMES[1]]


def test_a_dry_run_lists_commands_and_invents_no_time(recorded, capsys):
    assert recorded.run("--dry_run") == 0
    printed = capsys.readouterr().out
    assert printed.count("to do  ") == 4
    assert "test_resnet: 4 runs left, time not known: none measured 1 at a time" in printed
    assert " h" not in printed.splitlines()[-1]
    assert recorded.calls == []

    seconds = recorded.folder / "logs" / "seconds.jsonl"
    seconds.parent.mkdir(parents=True)
    measured = [{"architecture": "test_resnet", "parallel": 1, "seconds": s} for s in (1000, 1800, 5000)]
    seconds.write_text("".join(json.dumps(record) + "\n" for record in measured))
    recorded.run("--dry_run")
    assert capsys.readouterr().out.endswith(
        "test_resnet: 4 runs left, 1,800 s each (median of 3 measured 1 at a time)\nabout 2.00 h\n"
    )
    recorded.run("--dry_run", "--parallel", "2")
    assert "time not known: none measured 2 at a time" in capsys.readouterr().out


def test_only_runs_made_in_one_go_are_measured(recorded):
    (recorded.folder / "runs" / NAMES[0] / "checkpoints" / "epoch-0001").mkdir(parents=True)
    config = (recorded.record / f"{NAMES[0]}.yaml").read_text()
    (recorded.folder / "runs" / NAMES[0] / "config.yaml").write_text(config)
    recorded.run("--seeds", "[0]")
    records = [json.loads(line) for line in (recorded.folder / "logs" / "seconds.jsonl").read_text().splitlines()]
    assert [record["run"] for record in records] == [NAMES[1]]
    assert records[0]["seconds"] > 0


def test_a_changed_configuration_is_refused_before_anything_starts(recorded, capsys):
    recorded.run("--seeds", "[0]")
    with pytest.raises(SystemExit):
        recorded.run("--train.epochs", "3")
    assert "train.epochs: 12 -> 3" in capsys.readouterr().err
    assert len(recorded.calls) == 3


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["--seed", "3"], "overrides cannot set seed: the sweep does"),
        ({}, ["--loss.name=ols"], "overrides cannot set loss.name"),
        ({"overrides": {"model": {"name": "resnet50"}}}, [], "overrides cannot set model.name"),
        ({}, ["--data.rot", "x"], "unknown key data.rot; did you mean data.root?"),
        ({"losses": {"a": {"name": "old"}}}, [], "unknown loss 'old'; did you mean 'ols'?"),
        ({"losses": {"a/b": {"name": "ols"}}}, [], "the label 'a/b' may only have"),
        ({"losses": {"a": {"smoothing": 0.1}}}, [], "losses.a has no name"),
        ({"seeds": [1, 1]}, [], "seeds has a value twice"),
        ({"seeds": []}, [], "seeds is empty"),
        ({"sedes": [1]}, [], "unknown key sedes; did you mean seeds?"),
        ({"parallel": 0}, [], "parallel must be at least 1, got 0"),
        ({"launcher": ["no-such-launcher"]}, [], "launcher: no command 'no-such-launcher'"),
    ],
)
def test_a_wrong_sweep_is_refused_by_name(recorded, capsys, changes, arguments, message):
    recorded.write(**changes)
    with pytest.raises(SystemExit):
        recorded.parse(*arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_of_the_repository_has_six_losses_and_six_seeds(path):
    _, runs, _ = parse_sweep([str(path)])
    assert len({run.config.loss["name"] for run in runs}) == 6
    assert {run.config.seed for run in runs} == set(range(6))
    assert len(runs) == 36
    assert {run.config.train.epochs for run in runs} == {12}
    header = path.read_text()
    assert all(f"# {part}:" in header for part in ("Command", "Hardware", "Result"))


def _real_sweep(tmp_path: Path, name: str, *, epochs: int) -> Path:
    sizes = {"num_train": 200, "num_val": 170, "num_test": 165, "image_size": 16}
    sweep = {
        "folder": str(tmp_path / name),
        "configs": [str(ROOT / "recipes" / "configs" / "quickstart.yaml")],
        "overrides": {
            "data": {"root": str(tmp_path / "phantoms"), "image_size": 16, "resize_size": 16, "workers": 0},
            "phantoms": sizes,
            "train": {"epochs": epochs, "global_batch_size": 100, "threads": 1},
        },
        "losses": {"ols": {"name": "ols", "hard_weight": 0.3}},
        "architectures": ["test_resnet"],
        "seeds": [0],
        "evaluate": False,
    }
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(sweep))
    return file


def _run(file: Path) -> int:
    sweep, runs, _ = parse_sweep([str(file)])
    return main(sweep, runs, dry_run=False)


def test_a_sweep_trains_a_real_run_and_knows_it_again(tmp_path, capsys):
    file = _real_sweep(tmp_path, "sweep", epochs=1)
    assert _run(file) == 0
    assert (tmp_path / "sweep" / "runs" / "test_resnet-ols-seed0" / "export" / "config.json").is_file()
    capsys.readouterr()
    assert _run(file) == 0  # it compares the configurations
    assert "test_resnet-ols-seed0: complete" in capsys.readouterr().out
    file.write_text(file.read_text().replace("hard_weight: 0.3", "hard_weight: 0.4"))
    with pytest.raises(SystemExit):
        _run(file)
    assert "loss.hard_weight: 0.3 -> 0.4" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_killed_with_its_sweep_ends_as_one_that_was_left_alone(tmp_path):
    alone, killed = (_real_sweep(tmp_path, name, epochs=15) for name in ("alone", "killed"))
    assert _run(alone) == 0
    run_dir = tmp_path / "killed" / "runs" / "test_resnet-ols-seed0"
    with subprocess.Popen([sys.executable, str(ROOT / "recipes" / "sweep.py"), str(killed)]) as sweep:
        _wait(lambda: any(path.name >= "epoch-0003" for path in (run_dir / "checkpoints").glob("epoch-*")))
        sweep.kill()
    os.killpg(int((tmp_path / "killed" / "logs" / ".test_resnet-ols-seed0.lock").read_text()), signal.SIGKILL)
    assert not (run_dir / "export").exists()
    assert _run(killed) == 0
    log = (tmp_path / "killed" / "logs" / "test_resnet-ols-seed0.log").read_text()
    assert "continuing after epoch" in log
    weights = [tmp_path / name / "runs" / run_dir.name / "export" / "model.safetensors" for name in ("alone", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def _wait(condition) -> None:
    give_up = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)
