"""What README and docs say can be done: their links, paths, names and commands."""

import argparse
import ast
import importlib
import math
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import jsonargparse
import pytest
import yaml

from ols.command_line import parse_config
from ols.runs.folder import flat_config, flatten
from recipes.sweep import parse_study

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LAUNCHERS = re.compile(r"(pip install uv && )?(srun |PYTHONPATH=\. )?(uv run|python|torchrun|accelerate launch)\b")
SMALL = ["--data.image_size=16", "--data.resize_size=16", "--data.workers=0", "--train.global_batch_size=8"]


def _blocks(language: str) -> list[tuple[str, str]]:
    return [(page, code) for page, text in PAGES.items() for kind, code in FENCED.findall(text) if kind == language]


def _commands() -> list[tuple[str, str]]:
    """Page and command, of fenced blocks and of code within a line, that starts a script of this repository."""
    lines = [
        (page, line)
        for language in ("", "bash")
        for page, code in _blocks(language)
        for line in code.replace("\\\n", " ").splitlines()
    ]
    lines += [
        (page, " ".join(code.split()))
        for page, text in PAGES.items()
        for code in re.findall(r"`([^`]+)`", FENCED.sub("", text))
    ]
    return [(page, line) for page, line in lines if LAUNCHERS.match(line) and re.search(r"(recipes|benchmarks)/", line)]


COMMANDS = _commands()
SCRIPTS = [code for _, code in _blocks("python") if "__main__" in code]
YAML = _blocks("yaml")
SNIPPETS = [code for _, code in _blocks("python") if "__main__" not in code]


def _words(command: str, places: dict[str, str]) -> list[str]:
    """The words of a command after its launcher, beginning with the script, with `<placeholders>` filled in."""
    command = re.sub(r"\[[^]]*\.\.\.\]|\.\.\.", "", command)  # [runs/<another> ...]
    filled = re.sub(r"<(\w+)>", lambda match: places.get(match[1], match[1]), command)
    words = shlex.split(filled, comments=True)
    (start,) = [i for i, word in enumerate(words) if re.fullmatch(r"(recipes|benchmarks)/\w+\.py", word)]
    return words[start:]


def _stop_after(parse):
    def parse_and_stop(*args, **kwargs):
        parse(*args, **kwargs)
        raise SystemExit(0)  # the options were accepted

    return parse_and_stop


def test_the_readme_is_read_in_one_sitting():
    assert len(PAGES["README.md"].splitlines()) <= 200
    assert len(PAGES) >= 7


def test_the_commands_of_the_first_screen_are_those_of_ci():
    assert "pip install uv && uv run accelerate launch recipes/pretrain.py" in PAGES["README.md"]
    assert "pip install uv && uv run pytest" in PAGES["README.md"]
    assert "\npip install uv && uv run pytest\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_exists(page):
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", PAGES[page])
    assert links
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_readme_links_to_every_page():
    assert [page for page in PAGES if page != "README.md" and f"]({page})" not in PAGES["README.md"]] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_the_repository_that_a_page_names_exists(page):
    code = [block for _, block in FENCED.findall(PAGES[page])] + re.findall(r"`([^`]+)`", FENCED.sub("", PAGES[page]))
    named = {word for text in code for word in re.findall(r"(?<![\w/])(?:ols|recipes|benchmarks|tests)/[\w/.]+", text)}
    assert [path for path in sorted(named) if not (ROOT / path.rstrip(".")).exists()] == []


@pytest.mark.parametrize("code", [code for _, code in _blocks("python")])
def test_every_name_that_a_page_imports_exists(code):
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    ours = [(node.module, alias.name) for node in imports for alias in node.names if node.module.startswith("ols")]
    assert ours
    assert [(module, name) for module, name in ours if not hasattr(importlib.import_module(module), name)] == []


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_has_options_that_its_script_accepts(page, command, monkeypatch, capsys):
    script, *options = _words(command, {"config": "recipes/configs/radiology13.yaml"})
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / script.split("/")[0])
    if script == "recipes/sweep.py":
        options.append("--dry_run")  # which reads the configuration of every run
    elif script == "recipes/pretrain.py":
        config = importlib.import_module("ols.command_line")
        monkeypatch.setattr(config, "parse_config", _stop_after(config.parse_config))
    else:
        for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
            monkeypatch.setattr(parser, "parse_args", _stop_after(parser.parse_args))
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(script, run_name="__main__")
    assert stopped.value.code in (None, 0), capsys.readouterr().err


def _kind(code: str) -> str:
    keys = yaml.safe_load(code).keys()
    return "study" if "axes" in keys else "job" if "apiVersion" in keys else "configuration"


@pytest.mark.parametrize(("page", "code"), YAML)
def test_every_yaml_of_a_page_is_a_study_a_configuration_or_a_job_that_is_accepted(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    kind, configs = _kind(code), ROOT / "recipes" / "configs"
    if kind == "study":
        (tmp_path / "sweeps").mkdir()
        for config in yaml.safe_load(code)["configs"]:
            (tmp_path / "sweeps" / config).write_text((configs / "sweeps" / config).read_text())
        study = tmp_path / "sweeps" / "study.yaml"
        study.write_text(code)
        described, runs, _ = parse_study([str(study)])
        assert len(runs) == math.prod(len(values) for values in described.axes.values())
    elif kind == "configuration":
        (tmp_path / "config.yaml").write_text(code)
        given, read = flatten(yaml.safe_load(code)), flat_config(parse_config(tmp_path / "config.yaml", []))
        assert {key: read[key] for key in given} == given
    else:
        (container,) = yaml.safe_load(code)["spec"]["template"]["spec"]["containers"]
        assert (ROOT / container["command"][-1]).is_file()
        parse_config(configs / "quickstart.yaml", container["args"])


def test_pages_have_yaml_of_every_kind():
    assert {_kind(code) for _, code in YAML} == {"study", "configuration", "job"}


def test_the_commands_are_found():
    scripts = {_words(command, {})[0] for _, command in COMMANDS}
    assert len(COMMANDS) >= 25
    assert scripts >= {str(path.relative_to(ROOT)) for path in (ROOT / "recipes").glob("*.py")}


@pytest.mark.slow
def test_the_scripts_of_the_pages_run_as_printed(tmp_path):
    assert len(SCRIPTS) == 2
    for script in SCRIPTS:
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=300)


@pytest.mark.slow
def test_the_commands_of_the_pages_do_their_work_on_small_phantoms(tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    places = {
        "config": "recipes/configs/radimagenet/resnet50_ols.yaml",
        "folder": "data/disagreeing",
        "pack": "data/pack",
        "run": "run-dry_run",
    }
    dry = [*SMALL, "--dry_run", "--model.name=test_resnet", "--data.train_images=100"]
    phantoms = [f"--phantoms.{name}=170" for name in ("num_train", "num_val", "num_test")]

    def run(script: str, *options: str) -> None:
        command = [sys.executable, script, *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
        allowed = (0, 1) if script == "recipes/audit.py" else (0,)  # which says by 1 that splits leak
        assert done.returncode in allowed, f"{command}\n{done.stdout}\n{done.stderr}"

    more = {
        "recipes/pretrain.py": [*dry, *phantoms],
        "recipes/make_phantoms.py": ["--num_train=170", "--num_val=170", "--num_test=170"],
        "recipes/pack.py": ["--size=16"],
    }
    found = [_words(command, places) for _, command in COMMANDS]
    # Each once, without what lies on the reader's cluster
    once = dict.fromkeys(tuple(words) for words in found if not any(word.startswith(("$", "/")) for word in words))

    def run_all(script: str) -> None:
        named = [options for name, *options in once if name == script]
        assert named, script
        for options in named:
            run(script, *options, *more.get(script, ()))

    run_all("recipes/make_phantoms.py")
    run_all("recipes/pack.py")
    run_all("recipes/audit.py")
    run("recipes/pretrain.py", "--run_dir=runs/run", *more["recipes/pretrain.py"])
    run_all("recipes/pretrain.py")
    run_all("recipes/evaluate.py")
    for snippet in SNIPPETS:
        if "disagreeing" in snippet:
            run("-c", snippet)
    assert (tmp_path / "runs" / "run-dry_run" / "evaluation" / "report.html").is_file()
