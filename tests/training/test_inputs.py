"""What a run can be made: phantoms, and folds of its table."""

from dataclasses import replace

import pytest

from ols.config import Config, DataConfig, FinetuneConfig
from ols.data.splits import load_folds
from ols.phantoms import PhantomConfig
from ols.training import inputs
from ols.training.inputs import make_inputs


@pytest.fixture
def table(tmp_path):
    """A table of twenty patients with one image each, which nobody opens."""
    for number in range(20):
        (tmp_path / f"{number}.png").touch()
    rows = [f"{number}.png,p{number},{number % 2}" for number in range(20)]
    (tmp_path / "targets.csv").write_text("\n".join(["filename,patient,ill", *rows]) + "\n")
    return FinetuneConfig(
        task="binary", data=DataConfig(root=str(tmp_path / "targets.csv"), phantoms=False, targets=["ill"])
    )


def test_folds_are_made_once_and_only_where_they_are_asked_for(table, tmp_path):
    make_inputs(table)
    assert list(tmp_path.glob("*.json")) == []
    file = tmp_path / "folds.json"
    make_inputs(table, folds=file)
    made = file.read_bytes()
    assert sorted(load_folds(file).groups) == sorted(f"p{number}" for number in range(20))
    assert len(load_folds(file).folds) == 5
    (tmp_path / "targets.csv").unlink()
    make_inputs(table, folds=file)  # which does not open the table
    assert file.read_bytes() == made


def test_phantoms_have_targets_for_fine_tuning_and_classes_otherwise(table, tmp_path, monkeypatch):
    written = []
    for name in ("write_phantoms", "write_lesion_phantoms"):
        monkeypatch.setattr(
            inputs, name, lambda root, config, name=name: written.append((name, str(root), config.seed))
        )
    data = DataConfig(root=str(tmp_path / "set"), phantoms=True)
    make_inputs(Config(data=data, phantoms=PhantomConfig(seed=3)))
    lesions = replace(data, root=str(tmp_path / "set" / "targets.csv"), targets=["ill"])
    make_inputs(FinetuneConfig(task="binary", data=lesions, phantoms=PhantomConfig(seed=4)))
    folder = str(tmp_path / "set")
    assert written == [("write_phantoms", folder, 3), ("write_lesion_phantoms", folder, 4)]
    make_inputs(table)
    assert len(written) == 2
