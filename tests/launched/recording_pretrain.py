"""`recipes/pretrain.py`, writing the sample ids of every step of this process to the file named first."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ols.config import parse_config
from ols.trainer import Trainer
from recipes.pretrain import QUICKSTART, main

train_step, ids = Trainer.train_step, []


def recording_train_step(self, batch):
    ids.append([self.train_loader.source.sample_id(index) for index in batch["index"].tolist()])
    train_step(self, batch)


if __name__ == "__main__":
    Trainer.train_step = recording_train_step
    main(parse_config(QUICKSTART, sys.argv[2:]))
    Path(f"{sys.argv[1]}.{os.environ['RANK']}.json").write_text(json.dumps(ids))
