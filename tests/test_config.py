import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
import yaml

from ols.command_line import parse_config
from ols.config import Config, DataConfig
from ols.losses import OnlineLabelSmoothing, build_loss

CONFIG_FOLDER = Path(__file__).parents[1] / "recipes" / "configs"
OF_OTHER_RECIPES = {"sweeps", "finetune", "probe", "studies", "starts"}
CONFIGS = sorted(
    path for path in CONFIG_FOLDER.rglob("*.yaml") if OF_OTHER_RECIPES.isdisjoint(path.relative_to(CONFIG_FOLDER).parts)
)
QUICKSTART = CONFIG_FOLDER / "quickstart.yaml"


def _parse(*argv):
    return parse_config(QUICKSTART, argv)


def test_there_are_sixteen_configs():
    assert len(CONFIGS) == 16
    names = {path.stem for path in CONFIGS if path.parent.name == "radimagenet"}
    assert len(names) == 14


def test_every_feature_of_training_is_turned_on_by_a_config():
    plain, configs = Config(), [_parse("--config", str(path)) for path in CONFIGS]
    features = {
        "train": ("precision", "channels_last", "compile", "clip_grad_norm", "ema_decay", "sync_bn"),
        "data": ("horizontal_flip", "augment", "erase_prob", "mixup_alpha", "cutmix_alpha", "mix_prob", "sampling"),
        "model": ("start",),
    }
    for section, names in features.items():
        for name in names:
            off = getattr(getattr(plain, section), name)
            assert any(getattr(getattr(config, section), name) != off for config in configs), f"{section}.{name}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_loads_and_says_what_it_is_and_what_came_out(path):
    config = _parse("--config", str(path))
    header = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    for part in ("Method:", "Command:", "Hardware:", "Top-1 / Top-5 / ECE:"):
        assert sum(line.startswith(f"# {part}") for line in header) == 1
    (result,) = (line for line in header if line.startswith("# Top-1"))
    assert "not yet run" in result or "seed" in result
    assert path.stem.split("_", 1)[0] in ("quickstart", "radiology13", config.model.name.split("_")[0])


def test_without_a_config_the_quickstart_is_read():
    config = _parse()
    assert config.data.phantoms
    assert config.model.name == "test_resnet"
    assert config.loss["preset"] == "robust"
    assert _parse("--loss.name=ols").loss == config.loss  # the same loss keeps the options that the file gives it
    assert config.run_dir == "runs/phantoms-test_resnet-ols-seed0"


def test_a_named_config_does_not_inherit_the_quickstart(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data: {root: somewhere}\nloss: {name: hard}\n")
    config = _parse("--config", str(path))
    assert not config.data.phantoms
    assert config.model.name == "resnet50"
    assert config.loss["name"] == "hard"


def test_later_files_and_dotted_overrides_win(tmp_path):
    (tmp_path / "a.yaml").write_text("optim: {peak_lr: 0.3, momentum: 0.8}\nloss: {name: ols, hard_weight: 0.2}\n")
    (tmp_path / "b.yaml").write_text("optim: {peak_lr: 0.4}\n")
    config = _parse("--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml"), "--seed", "5")
    assert (config.optim.peak_lr, config.optim.momentum, config.seed) == (0.4, 0.8, 5)
    assert config.loss["hard_weight"] == 0.2
    config = _parse("--config", str(tmp_path / "a.yaml"), "--optim.peak_lr=0.7", "--loss.hard_weight", "0.4")
    assert (config.optim.peak_lr, config.loss["hard_weight"]) == (0.7, 0.4)


def test_another_loss_drops_the_files_loss_options_and_says_which(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("loss: {name: ols, hard_weight: 0.2}\n")
    config = _parse("--config", str(tmp_path / "a.yaml"), "--loss.name", "label_smoothing", "--loss.smoothing", "0.3")
    assert config.loss == {"name": "label_smoothing", "smoothing": 0.3}
    assert "ols -> label_smoothing: dropped the configured hard_weight=0.2" in capsys.readouterr().err


PRESET = {"name": "ols", "preset": "official_cifar", "initial": "zeros", "unseen": "uniform"}


def test_a_preset_fills_in_its_options_wherever_it_is_named_and_builds_the_published_variant(tmp_path):
    (tmp_path / "a.yaml").write_text("loss: {name: ols, preset: official_cifar}\n")
    in_file = _parse("--config", str(tmp_path / "a.yaml"))
    assert in_file.loss.items() >= PRESET.items()
    assert _parse("--loss.name=ols", "--loss.preset=official_cifar").loss == in_file.loss
    (tmp_path / "b.yaml").write_text("loss: {name: ols}\n")
    assert "preset" not in _parse("--config", str(tmp_path / "b.yaml")).loss
    loss, published = build_loss(**in_file.loss, num_classes=4), OnlineLabelSmoothing.preset("official_cifar", 4)
    assert torch.equal(loss.soft_labels, published.soft_labels)
    assert (loss.unseen, loss.hard_weight) == (published.unseen, published.hard_weight)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(asdict(in_file)))
    assert _parse("--config", str(tmp_path / "config.yaml")) == in_file


def test_options_beside_a_preset_win_over_it(tmp_path):
    (tmp_path / "a.yaml").write_text("loss: {name: ols, preset: official_cifar, unseen: keep}\n")
    loss = _parse("--config", str(tmp_path / "a.yaml"), "--loss.hard_weight=0.3").loss
    assert loss.items() >= {**PRESET, "unseen": "keep", "hard_weight": 0.3}.items()
    assert build_loss("ols", 4, preset="official_cifar", unseen="keep").unseen == "keep"


def test_another_preset_drops_the_files_loss_options_and_says_which(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("loss: {name: ols, preset: official_cifar, unseen: keep}\n")
    loss = _parse("--config", str(tmp_path / "a.yaml"), "--loss.preset=official_finegrained").loss
    assert loss.items() >= {"preset": "official_finegrained", "initial": "uniform", "unseen": "uniform"}.items()
    message = "loss.preset -> official_finegrained: dropped the configured preset=official_cifar, unseen=keep"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--optim.peek_lr", "1"), "unknown key optim.peek_lr; did you mean optim.peak_lr?"),
        (("--peak_lr", "1"), "unknown key peak_lr; did you mean optim.peak_lr?"),
        (("--loss.hard_wait=1",), "unknown key loss.hard_wait; did you mean loss.hard_weight?"),
        (("--loss.name", "old"), "unknown loss 'old'; did you mean 'ols'?"),
        (("--loss.preset", "official_cyfar"), "has no preset 'official_cyfar'; did you mean 'official_cifar'?"),
        (("--loss.name=focal", "--loss.preset=paper"), "loss 'focal' has no preset 'paper'; it has none"),
        (("--loss.num_classes", "3"), "unknown key loss.num_classes"),
        (("--optim.peak_lr", "fast"), "optim.peak_lr"),
        (("--train.precision", "bf17"), "train.precision"),
        (("--train.epochs", "0"), "train.epochs must be at least 1, got 0"),
        (("--train.ema_decay", "1.5"), "train.ema_decay must lie in (0, 1), got 1.5"),
        (("--data.sampling", "class_balanced", "--data.class_weights", "inverse"), "both make up for imbalance"),
        (("--data.erase_prob", "1.5"), "data.erase_prob must lie in [0, 1], got 1.5"),
        (("--data.mixup_alpha=-1",), "data.mixup_alpha must not be negative, got -1"),
        (
            ("--data.image_size=64", "--data.resize_size=32"),
            "data.resize_size must be at least image_size (64), got 32",
        ),
        (("--data.mean=[0.1, 0.2]",), "data.mean must have one value, or one for each of three channels"),
        (("--config", "nowhere.yaml"), "no such file: nowhere.yaml"),
        (("--loss.name=focal", "--data.mixup_alpha=0.2"), "loss focal takes class indices only"),
        (("--loss.name=flsd53", "--data.cutmix_alpha=1"), "loss flsd53 takes class indices only"),
        (
            ("--model.start=radimagenet",),
            "model.start: unknown start 'radimagenet'; known: none, imagenet",
        ),
        (("--model.start=run",), "model.start: the start 'run' needs a folder: run:<path>"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_nearest_match(argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        _parse(*argv)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optim: {peek_lr: 1}", "unknown key optim.peek_lr; did you mean optim.peak_lr?"),
        ("modell: {name: resnet50}", "unknown key modell.name; did you mean model.name?"),
        ("loss: {name: label_smoothing, smothing: 0.1}", "unknown key loss.smothing; did you mean loss.smoothing?"),
        ("phantoms: {sede: 1}", "unknown key phantoms.sede; did you mean phantoms.seed?"),
    ],
)
def test_an_unknown_key_in_a_file_is_named_with_its_nearest_match(tmp_path, content, message, capsys):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(SystemExit, match="2"):
        _parse("--config", str(tmp_path / "a.yaml"))
    assert message in capsys.readouterr().err


def test_a_resolved_config_reads_back_as_itself(tmp_path):
    config = _parse("--loss.name", "virtual_teacher_kd", "--train.clip_grad_norm", "2", "--seed", "4")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(asdict(config)))
    assert _parse("--config", str(tmp_path / "config.yaml")) == config


def test_images_are_resized_to_a_seventh_more_than_is_cut_out_unless_told_otherwise():
    assert _parse("--data.image_size", "224").data.resize_size == 256
    assert _parse("--data.image_size", "64").data.resize_size == 73
    assert _parse("--data.image_size", "64", "--data.resize_size", "64").data.resize_size == 64


def test_a_dry_run_has_a_folder_of_its_own():
    for argv in (["--dry_run", "true"], ["--dry_run"], ["--dry_run=true", "--seed", "0"], ["--dry_run", "--seed", "0"]):
        assert _parse(*argv).run_dir == "runs/phantoms-test_resnet-ols-seed0-dry_run"
    assert _parse("--dry_run", "false") == _parse()


def test_help_describes_every_option_of_images_wherever_it_is_declared(capsys):
    with pytest.raises(SystemExit, match="0"):
        _parse("--help")
    described = {}
    for entry in re.split(r"\n  --data\.", capsys.readouterr().out)[1:]:
        name, *words = entry.split()
        described[name] = len(" ".join(words).partition("(type:")[0].split())
    assert described.keys() == {field.name for field in fields(DataConfig)}
    assert min(described.values()) > 5, described


def test_the_config_can_be_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        _parse("--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["model"]["name"] == "test_resnet"


def _refused_text(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit):
        parse_config(QUICKSTART, list(argv))
    return capsys.readouterr().err


def test_a_loss_may_be_given_by_its_name_alone(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("loss: label_smoothing\n")
    for given in (["--config", str(file)], ["--loss", "label_smoothing"], ["--loss=label_smoothing"]):
        assert parse_config(QUICKSTART, given).loss["name"] == "label_smoothing"


def test_an_empty_section_changes_nothing_and_another_kind_is_refused_with_its_file(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("optim:\ndata: {image_size: 48}\nloss:\n")
    assert parse_config(QUICKSTART, ["--config", str(QUICKSTART), "--config", str(file)]).data.image_size == 48
    file.write_text("optim: 3\n")
    assert f"{file}: optim must hold keys and values, got 3" in _refused_text(capsys, "--config", str(file))


@pytest.mark.parametrize("content", [b"a:\t- b: c", b"- 1", b"na\xf6me: 1", b"data: [", b"{"])
def test_a_broken_file_among_several_is_named(tmp_path, capsys, content):
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    assert str(file) in _refused_text(capsys, "--config", str(QUICKSTART), "--config", str(file))


def test_a_file_that_names_another_loss_drops_the_options_of_the_first_with_a_word(tmp_path, capsys):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("loss: {name: ols, hard_weight: 0.3}\n")
    second.write_text("loss: {name: label_smoothing, smoothing: 0.2}\n")
    config = parse_config(QUICKSTART, ["--config", str(first), "--config", str(second)])
    assert (config.loss["name"], config.loss["smoothing"]) == ("label_smoothing", 0.2)
    assert "loss.name ols -> label_smoothing: dropped the configured hard_weight=0.3" in capsys.readouterr().err
    same = parse_config(QUICKSTART, ["--config", str(first), "--config", str(first), "--loss", "ols"])
    assert same.loss["hard_weight"] == 0.3


def test_the_home_folder_stands_for_a_tilde_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {"run_dir": "~/r", "teacher": "~/t", "data.root": "~/d", "data.splits": "~/s", "model.start": "run:~/m"}
    config = asdict(parse_config(QUICKSTART, [f"--{key}={path}" for key, path in paths.items()]))
    found = [config["run_dir"], config["teacher"], *(config["data"][key] for key in ("root", "splits"))]
    assert found == [str(tmp_path / name) for name in "rtds"]
    assert config["model"]["start"] == f"run:{tmp_path / 'm'}"


def test_a_model_with_slashes_in_its_name_makes_one_folder():
    config = parse_config(QUICKSTART, ["--model.name=hf_hub:timm/resnet50.a1_in1k"])
    assert config.run_dir == "runs/phantoms-hf_hub-timm-resnet50.a1_in1k-ols-seed0"


@pytest.mark.parametrize("value", ["0", "-1"])
def test_clipping_to_nothing_is_refused(capsys, value):
    said = _refused_text(capsys, f"--train.clip_grad_norm={value}")
    assert "train.clip_grad_norm must be positive, or null to clip nothing" in said
