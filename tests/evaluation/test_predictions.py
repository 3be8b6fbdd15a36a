import pytest
import torch
from safetensors.torch import save_file

from ols.evaluation.predictions import Predictions, load_predictions, save_predictions


def test_predictions_come_back_as_they_were_saved(tmp_path):
    saved = Predictions(
        logits=torch.randn(3, 2).t().contiguous().t(),
        targets=torch.tensor([0, 1, 1]),
        indices=torch.tensor([0, 1, 2]),
        sample_ids=["a.png", "ü.png", "c/d.png"],
        patients=["p", "p", "ä"],
        classes=["normal", "edema"],
        groups=["CT lung", "CT lung"],
        task="binary",
        features=torch.randn(3, 4),
    )
    save_predictions(tmp_path / "new" / "test.safetensors", saved)
    found = load_predictions(tmp_path / "new" / "test.safetensors")
    for name in ("logits", "targets", "indices", "features"):
        torch.testing.assert_close(getattr(found, name), getattr(saved, name), rtol=0, atol=0)
    assert (found.sample_ids, found.classes, found.groups) == (saved.sample_ids, saved.classes, saved.groups)
    assert found.task == "binary"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["test.safetensors"]


def test_another_file_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"test\.safetensors does not exist"):
        load_predictions(tmp_path / "test.safetensors")
    save_file({"logits": torch.zeros(1, 2)}, tmp_path / "test.safetensors")
    with pytest.raises(ValueError, match=r"test\.safetensors has predictions format None, expected 1"):
        load_predictions(tmp_path / "test.safetensors")
