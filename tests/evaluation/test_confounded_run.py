"""A run with a confounder, from its training to the forms of its test, through the recipes."""

import numpy as np
import pytest
import torch

from ols.evaluation.predictions import load_predictions
from recipes import evaluate

pytestmark = pytest.mark.slow  # trains


def test_a_run_is_tested_in_each_form_into_a_folder_of_its_own(train):
    carrying = ["--data.confounder=tag", "--data.confounder_strength=0.4", "--data.confounder_share=1"]
    run = train("tagged", *carrying, "--data.confounder_class=us-a")
    found, validated = {}, {}
    for form in (None, "matched", "clean", "inverted"):
        options = ["--device=cpu", "--threads=1", "--data.workers=0", "--report=false"]
        evaluate.main(evaluate.parse_options([str(run), *options, *([f"--confounder_test={form}"] if form else [])]))
        folder = run / "evaluation" / (form or "")
        found[form] = load_predictions(folder / "test.safetensors")
        validated[form] = load_predictions(folder / "val.safetensors")
    assert all(torch.equal(val.logits, validated[None].logits) for val in validated.values())
    assert torch.equal(found[None].logits, found["matched"].logits)
    tagged = found["clean"].targets == found["clean"].classes.index("us-a")
    for form, carries in (("matched", tagged), ("inverted", ~tagged)):
        changed = (found[form].logits != found["clean"].logits).any(dim=1)
        np.testing.assert_array_equal(changed, carries)


def test_a_form_of_the_test_is_refused_of_a_run_without_a_confounder(train, capsys):
    run = train("plain", "--train.epochs=1")
    with pytest.raises(SystemExit):
        evaluate.main(evaluate.parse_options([str(run), "--device=cpu", "--confounder_test=clean"]))
    assert "was trained without a confounder" in capsys.readouterr().err
