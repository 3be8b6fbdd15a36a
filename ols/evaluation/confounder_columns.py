"""What a confounder does to a trained classifier, as numbers by name: one line of a study's table."""

import math
from collections.abc import Mapping

import numpy as np

from ols.evaluation.draws import BinaryOutputs

SHOWN = ("auc", "ece", "confidence_less_accuracy")


def confounder_columns(tests: Mapping[str, BinaryOutputs]) -> dict[str, float]:
    """Measure each form of the test.

    Args:
        tests: Outputs by form: `matched`, `clean` and `inverted`.

    Returns:
        `confounder/<form>_auc`, `_ece` with its `_ece_null`, and `_confidence_less_accuracy`; a measure that is
        undefined has no column.
    """
    columns: dict[str, float] = {}
    for form, outputs in tests.items():
        measures, once = outputs.measures(), np.ones((1, len(outputs.positive)))
        columns |= {f"confounder/{form}_{name}": float(measures[name](once)[0]) for name in SHOWN}
        columns[f"confounder/{form}_ece_null"] = outputs.ece_null()
    return {name: value for name, value in columns.items() if not math.isnan(value)}
