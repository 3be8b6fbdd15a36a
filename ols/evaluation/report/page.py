"""A report as one HTML page that needs nothing else, and as Markdown."""

import base64
import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from ols.data.sources.protocol import ImageSource
from ols.data.transforms import EvalTransform, Preprocessing
from ols.evaluation.report.markdown import markdown_text
from ols.evaluation.report.model_report import ModelReport
from ols.figures import outlined
from ols.files import write_file
from ols.tasks.report.parts import Exhibit, Part, Report

THUMBNAIL_SIZE = 176  # pixels
OUTLINED_SIZE = 2 * THUMBNAIL_SIZE  # so that outlines are thin


def write_page(
    folder: Path, model: ModelReport, report: Report, *, source: ImageSource, preprocessing: Preprocessing
) -> None:
    """Write `report.json`, `report.md` and `report.html`.

    Args:
        folder: Where to.
        model: What the report is of.
        report: What the task says of the predictions.
        source: The split that is reported in full, whose images are shown.
        preprocessing: How the model sees an image, on which masks are outlined.
    """
    write_file(folder / "report.json", json.dumps(asdict(model) | report.record, indent=1, allow_nan=False))
    write_file(folder / "report.md", render_markdown(model, report))
    write_file(folder / "report.html", render_page(model, report, source=source, preprocessing=preprocessing))


def render_markdown(model: ModelReport, report: Report) -> str:
    """Return facts, sentences and the table of measures as Markdown."""
    return report_environment().get_template("report.md.j2").render(model=model, report=report)


def render_page(model: ModelReport, report: Report, *, source: ImageSource, preprocessing: Preprocessing) -> str:
    """Return the page; arguments as in `write_page`."""

    def picture(exhibit: Exhibit) -> str:
        image = source.read(exhibit.index)
        if exhibit.masks is None:
            image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        else:
            seen = EvalTransform(preprocessing)(image, np.array([0.5, 0.5, 1.0]))
            image = outlined(seen, exhibit.masks.true, exhibit.masks.found, side=OUTLINED_SIZE)
        return _picture_uri(image)

    environment = report_environment()
    environment.globals["picture"] = picture
    conditions = json.dumps(model.conditions, indent=1)
    return environment.get_template("page.html.j2").render(model=model, report=report, conditions=conditions)


def _form(part: Part) -> str:
    """Return the name of the macro that shows a part."""
    return type(part).__name__


def report_environment() -> Environment:
    """Return what fills in templates of pages: those of this folder, and `parts.html.j2`, which shows any part."""
    environment = Environment(
        loader=PackageLoader("ols.evaluation.report", ""),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"figure_uri": _figure_uri, "form": _form}
    environment.filters |= {"count": "{:,}".format, "escaped": markdown_text}
    return environment


def _picture_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _figure_uri(figure: Figure) -> str:
    file = io.BytesIO()
    # A fixed salt and no date: the same findings give the same page.
    with rc_context({"svg.hashsalt": "ols"}):
        figure.savefig(file, format="svg", dpi=160, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
