"""A study whose runs only say that they ran, for tests of who starts them."""

import sys
from dataclasses import asdict
from pathlib import Path

import yaml

from recipes.sweep import main, parse_study

ROOT = Path(__file__).parents[2]
LAUNCHER = [sys.executable, str(ROOT / "tests" / "launched" / "recording_launcher.py")]
NAMES = ["test_resnet-hard-seed0", "test_resnet-soft-seed0", "test_resnet-hard-seed1", "test_resnet-soft-seed1"]


class Recorded:
    """A study whose runs are those of the recording launcher."""

    def __init__(self, folder: Path):
        self.record, self.folder, self.file = folder / "record", folder / "study", folder / "study.yaml"
        self.record.mkdir()
        self.data = folder / "data"
        for split in ("train", "val", "test"):
            (self.data / split).mkdir(parents=True)
        self.write()

    def write(self, **changes) -> None:
        study = {
            "folder": str(self.folder),
            "configs": [str(ROOT / "recipes" / "configs" / "radiology13.yaml")],
            "axes": {
                "model": ["test_resnet"],
                "loss": {"hard": {"name": "hard"}, "soft": {"name": "label_smoothing", "smoothing": 0.2}},
                "seed": [0, 1],
            },
            "overrides": {"data": {"root": str(self.data)}},
            "command": LAUNCHER,
        }
        self.file.write_text(yaml.safe_dump(study | changes, sort_keys=False))

    def parse(self, *arguments):
        return parse_study([str(self.file), *arguments])

    def run(self, *arguments) -> int:
        study, runs, dry_run = self.prepare(*arguments)
        return main(study, runs, dry_run=dry_run)

    def prepare(self, *arguments):
        """Parse the study, and write down what its runs are to say that they are."""
        study, runs, dry_run = self.parse(*arguments)
        for run in runs:
            (self.record / f"{run.run_dir.name}.yaml").write_text(yaml.safe_dump(asdict(run.config)))
        return study, runs, dry_run

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
