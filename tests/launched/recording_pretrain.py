"""`recipes/pretrain.py`, writing the sample ids of every step of this process to the file named first.

With STOP_BEFORE_STEP in the environment, SIGTERM reaches the last process, and only it, before that step.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ols.command_line import parse_config
from ols.training.trainer import Trainer
from recipes.pretrain import QUICKSTART, main

RANK = int(os.environ.get("RANK", 0))
train_step, ids = Trainer.train_step, []


def recording_train_step(self, batch):
    ids.append([self.train_loader.source.sample_id(index) for index in batch["index"].tolist()])
    if (os.environ.get("STOP_BEFORE_STEP"), RANK + 1) == (str(self.progress.step), self.accelerator.num_processes):
        os.kill(os.getpid(), signal.SIGTERM)
    train_step(self, batch)


if __name__ == "__main__":
    Trainer.train_step = recording_train_step
    try:
        main(parse_config(QUICKSTART, sys.argv[2:]))
    finally:
        Path(f"{sys.argv[1]}.{RANK}.json").write_text(json.dumps(ids))
