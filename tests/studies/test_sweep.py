import csv
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from launched.recorded_study import NAMES, Recorded

from ols.files import read_record
from ols.studies.grid import Study
from recipes.sweep import comparison_command, main, parse_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "recipes" / "configs" / "sweeps").glob("*.yaml"))


@pytest.fixture
def recorded(tmp_path, monkeypatch) -> Recorded:
    monkeypatch.setenv("STUDY_RECORD", str(tmp_path / "record"))
    return Recorded(tmp_path)


def test_a_study_trains_each_cell_then_evaluates_and_goes_on_where_it_failed(recorded, capsys):
    fail = recorded.switch(f"{NAMES[0]}.fail")
    assert recorded.run("--parallel", "2", "--optim.peak_lr", "0.07") == 1
    assert sorted(recorded.started) == sorted([*NAMES, *(f"evaluate-{name}" for name in NAMES[1:])])
    calls = {name: arguments for name, _, _, *arguments in recorded.calls}
    arguments = calls[NAMES[1]]
    for argument in ("--loss.name=label_smoothing", "--loss.smoothing=0.2", "--seed=0", "--model.name=test_resnet"):
        assert argument in arguments
    assert arguments[arguments.index("--optim.peak_lr") + 1] == "0.07"
    assert calls[f"evaluate-{NAMES[1]}"] == [str(recorded.folder / "runs" / NAMES[1])]
    printed = capsys.readouterr().out
    assert "4 cells: 3 done, 1 failed\n" in printed
    with (recorded.folder / "cells.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["failed", "done", "done", "done"]
    assert "recording_launcher.py recipes/pretrain.py --config=" in printed.replace(os.path.relpath(ROOT) + "/", "")
    assert f"{NAMES[0]} failed; the end of {recorded.folder}/logs/{NAMES[0]}.log:\n$ " in printed
    assert printed.index("out of memory") > printed.index(f"evaluate-{NAMES[1]}: done")
    assert "3 of 4 runs are complete\ncontinue     python" in printed
    assert f"compare.py {recorded.folder}/runs/* --output {recorded.folder}/comparison --within model\n" in printed

    fail.unlink()
    assert recorded.run("--optim.peak_lr", "0.07") == 0
    assert recorded.started[7:] == [NAMES[0], f"evaluate-{NAMES[0]}"]
    assert f"{NAMES[1]}: complete" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        recorded.parse("--optim.peak_lr", "0.08")
    error = capsys.readouterr().err
    assert f"{recorded.folder}/runs/{NAMES[0]} holds a run with another configuration" in error
    assert "optim.peak_lr: 0.07 -> 0.08" in error


def test_columns_are_added_to_each_cell_by_itself_and_anew_where_others_are_asked_for(recorded, capsys):
    fail = recorded.switch(f"columns-{NAMES[1]}.fail")
    recorded.write(columns=["--similarity"], evaluate=False)
    assert recorded.run() == 1
    assert recorded.started[4:] == [f"columns-{name}" for name in NAMES]  # one that fails does not stop the others
    assert [(recorded.folder / "runs" / name / "columns.json").is_file() for name in NAMES] == [True, False, True, True]
    assert f"columns-{NAMES[1]} failed; the end of" in capsys.readouterr().out
    fail.unlink()
    assert recorded.run() == 0
    assert recorded.started[8:] == [f"columns-{NAMES[1]}"]
    recorded.write(columns=["--similarity", "--rows=300"], evaluate=False)
    assert recorded.run() == 0
    assert recorded.started[9:] == [f"columns-{name}" for name in NAMES]
    earlier = read_record(recorded.folder / "runs" / NAMES[0] / "columns.earlier.json")
    assert earlier["asked"] == {"similarity": {"rows": 10000}}  # put aside: other families of columns are taken from it


def test_another_study_in_the_folder_of_one_is_refused_and_values_may_come_and_go(recorded, capsys):
    assert recorded.run("--axes.seed", "[0]", "--evaluate", "false") == 0
    assert recorded.run("--evaluate", "false") == 0
    recorded.write(axes={"model": ["test_resnet"], "loss": ["hard", "ols"]})
    with pytest.raises(SystemExit):
        recorded.run()
    message = f"{recorded.folder} holds another study: its axes ['model', 'loss', 'seed'], here ['model', 'loss']."
    assert message in capsys.readouterr().err
    assert len(recorded.started) == 4


def test_a_second_sweep_of_a_folder_is_refused_and_starts_nothing(recorded, capsys):
    lock = recorded.folder / "logs" / ".sweep.lock"
    lock.parent.mkdir(parents=True)
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); file.write('number 1'); "
    )
    hold += "file.flush(); print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        first.stdout.readline()
        assert recorded.run() == 2
        first.communicate("\n")
    assert capsys.readouterr().err == f"sweep.py: error: another process uses {recorded.folder}: number 1\n"
    assert recorded.calls == []


def test_only_runs_made_in_one_go_are_measured(recorded):
    begun = recorded.parse()[1][0]
    (begun.run_dir / "checkpoints" / "epoch-0001").mkdir(parents=True)
    (begun.run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(begun.config)))
    assert recorded.run("--axes.seed", "[0]", "--evaluate", "false") == 0
    lines = (recorded.folder / "logs" / "seconds.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert f'"run": "{NAMES[1]}"' in lines[0]


def test_a_stopped_study_says_so_and_evaluates_nothing(recorded, capsys):
    for name in NAMES[:2]:
        recorded.switch(f"{name}.hold")
    recorded.switch(f"{NAMES[1]}.stop")
    assert recorded.run("--parallel", "2") == 130
    assert sorted(recorded.started) == sorted(NAMES[:2])
    assert (recorded.folder / "runs" / NAMES[0] / "checkpoints").is_dir()  # it ended in its own way
    printed = capsys.readouterr().out
    assert printed.count(": stopped") == 4
    assert "0 of 4 runs are complete\ncontinue     python" in printed


def test_values_of_an_axis_and_keys_of_the_study_can_be_typed(recorded):
    study, runs, _ = recorded.parse("--axes.seed", "[7]", "--parallel=3", "--axes.loss={own: {name: ols}}")
    assert [run.run_dir.name for run in runs] == ["test_resnet-own-seed7"]
    assert study.parallel == 3


def test_a_dry_run_lists_commands_and_invents_no_time_memory_or_disk(recorded, capsys):
    assert recorded.run("--dry_run") == 0
    printed = capsys.readouterr().out
    assert printed.count("to do  ") == 4
    assert printed.endswith(
        "4 cells: 4 waiting\n"
        "test_resnet: 4 runs left, time not known: none measured 1 at a time\n"
        "memory: not known for 4 runs left: none like them was measured\n"
        "disk: not known for 4 runs left: none like them was measured\n"
    )
    assert recorded.calls == []


def test_a_dry_run_tells_time_memory_and_disk_of_the_rest_from_the_cells_that_are_done(recorded, capsys):
    assert recorded.run("--axes.seed", "[0]", "--evaluate", "false") == 0
    capsys.readouterr()
    assert recorded.run("--dry_run") == 0
    printed = capsys.readouterr().out
    assert printed.count("complete  ") == printed.count("to do  ") == 2
    assert "test_resnet: 2 runs left, " in printed
    assert " s each (median of 2 measured 1 at a time)\n" in printed
    (gigabytes,) = re.findall(r"memory: about ([\d.]+) GB for 1 at a time, each as the largest of its kind\n", printed)
    assert 0.01 <= float(gigabytes) < 10
    assert "disk: about 0.00 GB for 2 runs left, each as the largest of its kind\n" in printed


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["--seed", "3"], "overrides cannot set seed: the axis seed does"),
        ({}, ["--loss.name=ols"], "overrides cannot set loss.name: the axis loss does"),
        ({}, ["--axes.sed", "[1]"], "--axes.sed: no such axis; the study has model, loss, seed"),
        ({}, ["--axes.seed", "[1, 1]"], "axes.seed has a value twice"),
        ({}, ["--data.rot", "x"], "unknown key data.rot; did you mean data.root?"),
        ({"axes": {"lrr": [0.1]}}, [], "unknown key lrr"),
        ({"axes": {"loss": {"a": {"name": "old"}}}}, [], "unknown loss 'old'; did you mean 'ols'?"),
        ({"comand": ["python"]}, [], "unknown key comand; did you mean command?"),
        ({"parallel": 0}, [], "parallel must be at least 1, got 0"),
        ({"columns": ["--similarty"]}, [], "columns: "),
        ({"columns": ["--boxes", "a.csv", "--masks", "b.csv"]}, [], "name one of --boxes and --masks"),
        ({"recipe": "probe", "columns": ["--similarity"]}, [], "columns are of trained networks"),
    ],
)
def test_a_wrong_study_is_refused_by_name(recorded, capsys, changes, arguments, message):
    recorded.write(**changes)
    with pytest.raises(SystemExit):
        recorded.parse(*arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("path", [path for path in STUDIES if "long" not in path.stem], ids=lambda path: path.stem)
def test_a_study_of_the_repository_has_six_losses_and_six_seeds(path):
    assert yaml.safe_load(path.read_text())["axes"]["seed"] == list(range(6))
    _, runs, _ = parse_study([str(path), "--axes.seed=[3]"])
    assert len({run.config.loss["name"] for run in runs}) == len(runs) == 6
    assert {run.config.seed for run in runs} == {3}
    assert {run.config.train.epochs for run in runs} == {12}
    header = path.read_text()
    assert all(f"# {part}:" in header for part in ("Command", "Hardware", "Result"))


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        ({"loss": ["hard", "ols"], "seed": [0]}, "--output s/comparison"),
        ({"seed": [0]}, "--output s/comparison"),
        ({"lr": [0.1, 0.2], "loss": ["ols"], "loss.momentum": [0.1]}, "--output s/comparison --within optim.peak_lr"),
        (
            {"seed": [0], "lr": [0.1], "a": {"x": {"data": {"augment": "radiology", "erase_prob": 0.1}}}},
            "--output s/comparison --along optim.peak_lr --within data.augment data.erase_prob",
        ),
        ({"model": ["vgg19"]}, "--output s/comparison --along model"),
    ],
)
def test_the_command_at_the_end_compares_along_one_axis_and_within_the_others(axes, options):
    command = comparison_command(Study("s", ["a.yaml"], axes))
    assert command.split("compare.py ")[1] == f"s/runs/* {options}"


def _real_study(tmp_path: Path, name: str, *, epochs: int) -> Path:
    sizes = {"num_train": 200, "num_val": 170, "num_test": 165, "image_size": 16}
    study = {
        "folder": str(tmp_path / name),
        "configs": [str(ROOT / "recipes" / "configs" / "quickstart.yaml")],
        "overrides": {
            "data": {"root": str(tmp_path / "phantoms"), "image_size": 16, "resize_size": 16, "workers": 0},
            "phantoms": sizes,
            "train": {"epochs": epochs, "global_batch_size": 100, "threads": 1},
        },
        "axes": {"model": ["test_resnet"], "loss": {"ols": {"name": "ols", "hard_weight": 0.3}}, "seed": [0]},
        "evaluate": False,
    }
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return file


def _run(file: Path) -> int:
    study, runs, _ = parse_study([str(file)])
    return main(study, runs, dry_run=False)


@pytest.mark.slow
def test_a_study_trains_a_real_run_and_knows_it_again(tmp_path, capsys):
    file = _real_study(tmp_path, "study", epochs=1)
    assert _run(file) == 0
    assert (tmp_path / "study" / "runs" / "test_resnet-ols-seed0" / "export" / "config.json").is_file()
    capsys.readouterr()
    assert _run(file) == 0  # it compares the configurations
    assert "test_resnet-ols-seed0: complete" in capsys.readouterr().out
    file.write_text(file.read_text().replace("hard_weight: 0.3", "hard_weight: 0.4"))
    with pytest.raises(SystemExit):
        _run(file)
    assert "loss.hard_weight: 0.3 -> 0.4" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_killed_with_its_study_ends_as_one_that_was_left_alone(tmp_path):
    alone, killed = (_real_study(tmp_path, name, epochs=15) for name in ("alone", "killed"))
    assert _run(alone) == 0
    run_dir = tmp_path / "killed" / "runs" / "test_resnet-ols-seed0"
    with subprocess.Popen([sys.executable, str(ROOT / "recipes" / "sweep.py"), str(killed)]) as study:
        _wait(lambda: any(path.name >= "epoch-0003" for path in (run_dir / "checkpoints").glob("epoch-*")))
        study.kill()
    os.killpg(
        int((tmp_path / "killed" / "logs" / ".test_resnet-ols-seed0.lock").read_text().split()[2]), signal.SIGKILL
    )
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
