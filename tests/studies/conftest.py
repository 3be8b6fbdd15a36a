"""Runs that were evaluated, made of logits alone."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from ols.command_line import parse_config
from ols.evaluation.predictions import Predictions, save_predictions
from ols.studies.evaluated_runs import EvaluatedRun, load_runs

QUICKSTART = Path(__file__).parents[2] / "recipes" / "configs" / "quickstart.yaml"
K = 7


def _logits(split: str, *, strength: float, scale: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a softmax model whose posterior is known up to `scale`: 1 is calibrated, 2 is over-confident."""
    generator = torch.Generator().manual_seed({"val": 1, "test": 2}[split])
    targets = torch.randint(K, (600,), generator=generator)
    evidence = torch.randn(600, K, generator=generator)
    evidence += 0.2 * torch.randn(600, K, generator=torch.Generator().manual_seed(10 + seed))
    return scale * strength * (evidence + strength * torch.eye(K)[targets]), targets


def _writer(folder: Path) -> Callable[..., Path]:
    def write(
        loss, seed, *overrides, strength=1.5, scale=1.0, ids=None, only=("val", "test"), name=None, features=False
    ):
        run_dir = folder / "runs" / (name or f"{loss}-seed{seed}")
        argv = [f"--loss.name={loss}", f"--seed={seed}", f"--run_dir={run_dir}", *overrides]
        run_dir.mkdir(parents=True)
        (run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(parse_config(QUICKSTART, argv))))
        for split in only:
            logits, targets = _logits(split, strength=strength, scale=scale, seed=seed)
            names = ids or [f"{split}/{i}.png" for i in range(600)]
            path = run_dir / "evaluation" / f"{split}.safetensors"
            classes = [f"class {k}" for k in range(K)]
            tensors = (logits, targets, torch.arange(600))
            kept = logits[:, :5].contiguous() if features else None
            save_predictions(path, Predictions(*tensors, names, names, classes, ["group"] * K, "multiclass", kept))
        return run_dir

    write.logits = _logits
    return write


@pytest.fixture
def write_run(tmp_path) -> Callable[..., Path]:
    """Write the folder of a run with predictions of both splits."""
    return _writer(tmp_path)


@pytest.fixture(scope="session")
def runs_of_six_seeds(tmp_path_factory) -> list[EvaluatedRun]:
    """Six seeds of `hard`, of `ols`, which is worse, and of `max_sup`, which predicts the same as `hard`."""
    write = _writer(tmp_path_factory.mktemp("six"))
    losses = {"hard": 1.5, "ols": 1.0, "max_sup": 1.5}
    dirs = [write(loss, seed, strength=strength) for loss, strength in losses.items() for seed in range(6)]
    return load_runs(dirs, resamples=200)
