"""The import table: who may import whom, read off the import statements."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ols"

# A module, or a package for all its modules, and what it may import of `ols`. Longer names win.
MAY_IMPORT = {
    "ols": set(),
    "ols.losses": {"ols.losses"},
    "ols.metrics": {"ols.metrics"},
    "ols.data": {"ols.data"},
    "ols.models": set(),
    "ols.optim": set(),
    "ols.config": {"ols.losses", "ols.data.phantom"},  # constructors are the schema of what they construct
    "ols.checkpoint": set(),
    "ols.figures": set(),
    "ols.interruption": set(),
    "ols.reproducibility": set(),
    "ols.dashboard": set(),
    "ols.tracking": {"ols.dashboard"},
    "ols.runs": {"ols.checkpoint"},
    "ols.sweep": {"ols.checkpoint", "ols.config", "ols.runs"},
    "ols.integrations": {"ols.losses"},
    "ols.predictions": set(),
    "ols.comparison": {"ols.data.phantom", "ols.metrics", "ols.predictions", "ols.runs"},
    "ols.comparison_report": {"ols.comparison", "ols.metrics.resampling"},
    "ols.evaluation": {"ols.data.loading", "ols.metrics", "ols.predictions"},
    "ols.export": {"ols.data.transforms"},
    "ols.trained": {"ols.checkpoint", "ols.data.transforms", "ols.export", "ols.models"},
    "ols.report": set(),
    "ols.report.console": {"ols.data", "ols.evaluation"},
    "ols.report.findings": {"ols.metrics", "ols.predictions", "ols.trained"},
    "ols.report.tables": {"ols.report.findings"},
    "ols.report.page": {"ols.figures", "ols.metrics", "ols.predictions", "ols.report"},
    "ols.run_log": {"ols.evaluation", "ols.figures", "ols.tracking"},
    "ols.step_clock": set(),
    "ols.step_guard": set(),
    "ols.agreement": set(),
    "ols.resumption": {"ols.checkpoint", "ols.trainer"},  # the trainer as a type only
    "ols.trainer": {
        "ols.agreement",
        "ols.checkpoint",
        "ols.config",
        "ols.data.loading",
        "ols.evaluation",
        "ols.interruption",
        "ols.losses.base",
        "ols.optim",
        "ols.reproducibility",
        "ols.resumption",
        "ols.run_log",
        "ols.runs",
        "ols.step_clock",
        "ols.step_guard",
        "ols.tracking",
    },
}
# Packages that cost seconds, and who must not import them before it is used.
LOSSES_MAY_IMPORT = {"torch"} | set(sys.stdlib_module_names)
LIGHT_MODULES = ("ols.losses", "ols.config")
HEAVY = ("torchmetrics", "torchvision", "timm", "accelerate", "tensorboard", "matplotlib", "sklearn")


def _modules() -> dict[str, Path]:
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from ols import checkpoint` imports the module ols.checkpoint
            found |= {f"ols.{alias.name}" for alias in node.names} if node.module == "ols" else {node.module}
    return found


def _within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_table_names_every_module_of_the_package():
    modules = _modules()
    assert len(modules) >= 20
    unnamed = [name for name in modules if not _within(name, set(MAY_IMPORT) - {"ols"}) and name != "ols"]
    assert unnamed == []
    assert [name for name in MAY_IMPORT if name not in modules] == []


@pytest.mark.parametrize("module", sorted(_modules()))
def test_a_module_imports_only_what_the_table_allows(module):
    rule = max((name for name in MAY_IMPORT if _within(module, {name})), key=len)
    ours = {name for name in _imports(_modules()[module]) if _within(name, {"ols"})}
    assert {name for name in ours if not _within(name, MAY_IMPORT[rule])} == set()


def test_losses_import_torch_and_nothing_else():
    foreign = {
        (module, name)
        for module, path in _modules().items()
        if _within(module, {"ols.losses"})
        for name in _imports(path)
        if name.split(".")[0] not in LOSSES_MAY_IMPORT | {"ols"}
    }
    assert foreign == set()


def test_phantoms_need_no_torch():
    names = {name.split(".")[0] for path in (PACKAGE / "data" / "phantom").glob("*.py") for name in _imports(path)}
    assert names <= {"numpy", "PIL", "tqdm", "ols"} | set(sys.stdlib_module_names)


def test_nobody_imports_recipes_tests_or_benchmarks():
    importing = {
        (module, name)
        for module, path in _modules().items()
        for name in _imports(path)
        if _within(name, {"recipes", "tests", "benchmarks"})
    }
    assert importing == set()


def test_losses_and_config_load_nothing_heavy():
    code = f"import sys; import {', '.join(LIGHT_MODULES)}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_module_is_named_for_having_no_idea():
    assert {name.rsplit(".", 1)[-1] for name in _modules()} & {"utils", "common", "helpers", "misc"} == set()
