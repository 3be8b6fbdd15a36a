import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
SCRIPTS = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "__main__" in block]


def test_the_commands_of_the_first_screen_are_those_of_ci():
    assert "pip install uv && uv run accelerate launch recipes/pretrain.py" in README
    assert "pip install uv && uv run pytest" in README
    assert "pip install uv && uv run pytest" in (Path(__file__).parents[1] / ".ci" / "run").read_text()


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert len(links) >= 2
    assert [link for link in links if not (Path(__file__).parents[1] / link).exists()] == []


@pytest.mark.slow
def test_the_scripts_of_the_readme_run_as_printed(tmp_path):
    assert len(SCRIPTS) == 2
    for script in SCRIPTS:
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=300)
