"""Each mistake of the study of errors does what it says and nothing else, and its size is what scikit-learn gives."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import accelerate_begins_anew, figures_as_a_pixel
from safetensors.torch import load_file
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from benchmarks import transfer_error_sizes as sizes
from benchmarks import transfer_errors as errors
from ols.command_line import parse_config
from ols.config import Config, DataConfig, FinetuneConfig, ModelConfig, config_from
from ols.data.options import SplitOptions
from ols.data.sources.opening import open_data
from ols.data.sources.table import Table
from ols.data.splits import load_folds, make_folds, save_folds
from ols.data.transforms import Preprocessing
from ols.metrics.resampling import corrected_t_test
from ols.models.build import build_model
from ols.models.freezing import Freezing
from ols.phantoms.targets import LesionConfig, write_lesion_phantoms
from ols.runs.export import export_model, run_normalization
from ols.runs.run_model import build_run_model
from ols.tasks import build_task

pytestmark = pytest.mark.slow

STUDY = yaml.safe_load(errors.STUDY.read_text())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Patients with several images, folds by patient and by image, and two exports."""
    root = tmp_path_factory.mktemp("errors")
    write_lesion_phantoms(root / "lesions", LesionConfig(patients=24, most_images=4, image_size=16))
    table = Table(root / "lesions" / "targets.csv", targets=["malignant"])
    ids = [table.sample_id(index) for index in range(len(table))]
    save_folds(root / errors.BY_PATIENT, make_folds(table, folds=2, val_share=0.5))
    save_folds(root / errors.BY_IMAGE, make_folds(table, folds=2, val_share=0.5, groups=ids))
    for seed, name in enumerate(("source", "previous")):
        torch.manual_seed(seed)
        model = build_model("test_resnet", 2)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
        preprocessing = Preprocessing(image_size=16, resize_size=18)
        metrics, groups = {}, ["", ""]
        export_model(
            root / name, model, architecture="test_resnet", classes=["0", "1"], groups=groups,
            preprocessing=preprocessing, metrics=metrics, task="binary",
        )  # fmt: skip
    return root


@pytest.fixture
def config(root):
    """The right way on fold 0, before an arm has changed anything."""
    return Config(
        task="binary",
        data=DataConfig(root=str(root / "lesions" / "targets.csv"), targets=["malignant"], image_size=16, workers=0),
        model=ModelConfig("test_resnet", start=f"run:{root / 'source'}"),
        split=SplitOptions(file=str(root / errors.BY_PATIENT)),
    )


def _place(previous=None):
    return errors.Place(frozen_lr=0.5, previous=previous)


def _model(config):
    """The model that a run of this configuration begins with."""
    torch.manual_seed(5)
    mean, std = run_normalization(config)
    config = replace(config, data=config.data.with_normalization(mean, std))
    task = build_task("binary", ["0", "1"], ["", ""])
    return build_run_model(config, task, images=lambda: torch.rand(4, 1, 16, 16))[0]


def _same(model, tensors):
    return [torch.equal(value, tensors[name]) for name, value in model.state_dict().items()]


def test_the_second_fold_starts_from_the_bits_of_the_first_only_where_weights_are_carried_over(config, root):
    source, previous = (load_file(root / name / "model.safetensors") for name in ("source", "previous"))
    with errors.right(config, _place(root / "previous")) as right:
        assert all(_same(_model(right), source))
    with errors.weights_carried_over(config, _place(root / "previous")) as carried:
        model = _model(carried)
        assert all(_same(model, previous))
        assert not all(_same(model, source))
    with errors.weights_carried_over(config, _place(None)) as first:
        assert first == config


def test_nothing_loaded_is_a_fresh_model_and_says_nothing_and_the_package_is_whole_afterwards(config, root):
    source = load_file(root / "source" / "model.safetensors")
    fresh = _model(replace(config, model=replace(config.model, start="none")))
    with errors.nothing_loaded(config, _place()) as wrong:
        assert wrong == config
        assert all(_same(_model(wrong), fresh.state_dict()))
    assert all(_same(_model(config), source))


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        (errors.inputs_255_times_too_small, (128 / 255 / 255 - 0.5) / 0.5),
        (errors.inputs_255_times_too_large, (128 - 0.5) / 0.5),
        (errors.scaling_of_another_source, (128 - (103.939 + 116.779 + 123.68) / 3) / 255),
        (errors.right, (128 / 255 - 0.5) / 0.5),
    ],
)
def test_a_gray_pixel_reaches_the_network_as_the_mistake_says(config, arm, expected):
    with arm(config, _place()) as changed:
        mean, std = run_normalization(changed)
        scaling = Preprocessing.from_options(changed.data.with_normalization(mean, std))
    assert (128 / 255 - scaling.mean[0]) / scaling.std[0] == pytest.approx(expected)


@pytest.mark.parametrize("arm", [name for name in errors.ARMS if name.startswith("frozen_inputs")])
def test_below_a_frozen_trunk_the_scaling_is_wrong_in_the_same_way(config, arm):
    twin = errors.ARMS[arm.removeprefix("frozen_")]
    with errors.ARMS[arm](config, _place()) as frozen, twin(config, _place()) as whole:
        assert frozen.data == whole.data
        assert frozen.freeze.scheme == "head"
        assert frozen.optim.peak_lr == 0.5


@pytest.mark.parametrize(("arm", "drifts"), [("right_frozen", False), ("frozen_batch_norm_in_train_mode", True)])
def test_buffers_of_a_frozen_trunk_drift_in_train_mode_and_parameters_do_not(config, arm, drifts):
    with errors.ARMS[arm](config, _place()) as changed:
        model = _model(changed)
    frozen = [name for name, _ in model.named_parameters() if not name.startswith("fc.")]
    freezing = Freezing(model, changed.freeze)
    freezing.enter(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model(torch.rand(4, 1, 16, 16)).sum().backward()
    assert all(model.get_parameter(name).grad is None for name in frozen)
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert any("running_mean" in name for name in moved) is drifts
    assert bool(moved) is drifts


def test_a_patient_lies_in_training_and_test_only_where_folds_are_by_image(config):
    def crossing(changed):
        data = open_data(changed.data, changed.split)
        table = Table(changed.data.root, targets=["malignant"])
        patients = table.attributes["patient"]
        return set(patients[data.pools["train"]]) & set(patients[data.pools["test"]])

    assert not crossing(config)
    with errors.folds_by_image(config, _place()) as wrong:
        assert crossing(wrong)
    with pytest.raises(ValueError, match="lies in two splits"):
        open_data(wrong.data, wrong.split)  # which the package refuses


def test_shares_that_shrink_the_test_set_train_on_the_same_images(config):
    with errors.right_share(config, _place()) as right:
        whole = open_data(right.data, right.split).pools
    with errors.shares_that_shrink_the_test_set(config, _place()) as wrong:
        shrunk = open_data(wrong.data, wrong.split).pools
    assert np.array_equal(whole["train"], shrunk["train"])
    for split in ("val", "test"):
        assert set(shrunk[split]) < set(whole[split])
        assert len(shrunk[split]) < 0.5 * len(whole[split])


def test_measures_that_are_mixed_up_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    score, positive, counts = rng.normal(size=40) + 0.3, rng.random(40) < 0.3, rng.integers(0, 3, (1, 40))
    drawn = np.repeat(np.arange(40), counts[0])
    truth, found = positive[drawn], score[drawn]
    assert sizes.recall(score, positive, counts)[0] == pytest.approx(recall_score(truth, found > 0))
    assert sizes.precision(score, positive, counts)[0] == pytest.approx(precision_score(truth, found > 0))
    p = 1 / (1 + np.exp(-found))
    expected = roc_auc_score(np.eye(2)[truth.astype(int)].ravel(), np.stack([1 - p, p], 1).ravel())
    assert sizes.flattened_auc(score, positive, counts)[0] == pytest.approx(expected)


def test_the_interval_over_trainings_ends_at_0_where_the_test_of_overlapping_folds_has_p_of_5_percent():
    shape = np.array([0.02, -0.01, 0.04, 0.01, 0.03])
    (low, high), spread = sizes.over_trainings(shape, test_share=0.2), shape - shape.mean()
    for shift in ((high - low) / 2, -(high - low) / 2):
        assert corrected_t_test(list(spread + shift), test_share=0.2) == pytest.approx(0.05)
    assert sizes.over_trainings(shape[:1], test_share=0.2) is None


def test_the_best_cell_is_the_one_of_the_split_that_chooses_and_waits_for_the_whole_grid(root):
    values = {"right": (0.7, 0.6), "lower_lr": (0.6, 0.9), "higher_lr": (0.5, 0.5), "right_frozen": (0.65, 0.7)}
    cells = [
        {"arm": arm, "seed": 0, "fold": 0, "val_auc": val, "test_auc": test} for arm, (val, test) in values.items()
    ]
    results = sizes.Results(root, cells)
    assert results.arm_of("val", 0, 0) == "right"
    assert results.arm_of("test", 0, 0) == "lower_lr"
    assert sizes.Results(root, cells[:3]).arm_of("test", 0, 0) is None


def test_every_mistake_compares_arms_that_are_trained_and_every_table_of_the_study_is_a_configuration():
    arms = {arm for mistake in sizes.MISTAKES.values() for arm in mistake[:2]} - {"val", "test"}
    assert arms | set(sizes.GRID_ARMS) == set(errors.ARMS)
    for name, study in STUDY.items():
        assert config_from(study["config"]).task == "binary", name


@pytest.mark.slow
def test_the_last_ten_layers_of_keras_are_anything_from_192_numbers_to_millions():
    found = sizes.top_10_layers()
    assert found["inception_v3"] == 192
    assert found["resnet50"] > 3e6
    assert len(found) == 4


@pytest.mark.slow
def test_the_right_way_is_that_of_the_recipe_to_the_bit_and_a_cell_is_trained_once(config, root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(errors.ROOT / "recipes"))
    options = {"epochs": 1, "global_batch_size": 8, "device": "cpu", "threads": 1}
    config = replace(config, train=replace(config.train, **options))
    study = {"folds": 2, "seeds": [0], "frozen_lr": 0.01}
    (tmp_path / "lesions").mkdir()
    with accelerate_begins_anew():
        errors.run_table("lesions", study, tmp_path, config, ["right", "weights_carried_over"])
        lines = (tmp_path / "lesions" / "cells.jsonl").read_text().splitlines()
        errors.run_table("lesions", study, tmp_path, config, ["right", "weights_carried_over"])
    again = (tmp_path / "lesions" / "cells.jsonl").read_text().splitlines()
    assert [json.loads(line)["arm"] for line in again[1:5]] == ["right"] * 2 + ["weights_carried_over"] * 2
    assert again[:5] == lines  # and a line of the second command's environment
    assert len(again) == 6

    recipe = errors.load_recipe()
    (tmp_path / "empty.yaml").write_text("loss: {}\n")
    argv = [f"--train.{key}={value}" for key, value in options.items()] + [
        f"--data.root={config.data.root}", "--data.targets=[malignant]", "--data.image_size=16", "--data.workers=0",
        f"--split.file={config.split.file}", "--split.fold=all", "--task=binary", "--model.name=test_resnet",
        f"--model.start={config.model.start}", f"--run_dir={tmp_path / 'recipe'}",
    ]  # fmt: skip
    with accelerate_begins_anew(), figures_as_a_pixel():
        recipe.main(parse_config(tmp_path / "empty.yaml", argv, FinetuneConfig))
    for fold in (0, 1):
        ours, theirs, carried = (
            load_file(folder / f"fold{fold}" / "export" / "model.safetensors")
            for folder in (
                tmp_path / "lesions" / "runs" / "right" / "seed0",
                tmp_path / "recipe" / "run",
                tmp_path / "lesions" / "runs" / "weights_carried_over" / "seed0",
            )
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert all(torch.equal(ours[name], carried[name]) for name in ours) is (fold == 0)
    for name in ("finetune", "pretrain"):
        sys.modules.pop(name, None)

    # What is said of the cells is what scikit-learn says of their predictions
    save_folds(tmp_path / "lesions" / errors.BY_PATIENT, load_folds(Path(str(config.split.file))))
    cells = [json.loads(line) for line in lines[1:]]
    found = sizes.Results(tmp_path / "lesions", cells).compare(sizes.Mistake("weights_carried_over"), study)
    expected = {}
    for arm in ("right", "weights_carried_over"):
        runs = [tmp_path / "lesions" / "runs" / arm / "seed0" / f"fold{fold}" for fold in (0, 1)]
        read = [load_file(run / "evaluation" / "test.safetensors") for run in runs]
        expected[arm] = np.mean(
            [roc_auc_score(one["targets"], one["logits"][:, 1] - one["logits"][:, 0]) for one in read]
        )
    assert found["difference"] == pytest.approx(expected["weights_carried_over"] - expected["right"])
    assert found["pairs"] == found["planned"] == 2
    assert found["over_patients"][0] <= found["over_patients"][1]
