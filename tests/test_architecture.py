"""Who may import whom, by folder, read off the import statements, those for types only included."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ols"

# A folder or module of `ols`, and what it may import of `ols` beside itself. Longer names win.
MAY_IMPORT = {
    "ols": set(),
    "ols.keyed": set(),
    "ols.files": set(),
    "ols.figures": set(),
    "ols.losses": set(),
    "ols.metrics": set(),
    "ols.phantoms": {"ols.keyed", "ols.files"},
    "ols.data": {"ols.keyed", "ols.files"},
    "ols.models": {"ols.files"},
    "ols.tasks": {"ols.losses", "ols.metrics", "ols.figures"},
    # Constructors are the schema of what they construct.
    "ols.config": {"ols.losses", "ols.phantoms", "ols.tasks", "ols.data.options", "ols.models.options"},
    "ols.command_line": {"ols.config", "ols.losses", "ols.tasks"},
    "ols.runs": {"ols.config", "ols.files", "ols.models", "ols.tasks", "ols.data.transforms"},
    "ols.evaluation": {"ols.tasks", "ols.metrics", "ols.data", "ols.files", "ols.models", "ols.runs", "ols.figures"},
    "ols.tracking": {"ols.evaluation", "ols.tasks", "ols.metrics.measures", "ols.files", "ols.runs", "ols.figures"},
    "ols.audit": {"ols.data", "ols.files"},
    "ols.studies": {
        "ols.data.options",
        "ols.localisation.options",
        "ols.evaluation",
        "ols.files",
        "ols.runs",
        "ols.config",
        "ols.command_line",
        "ols.metrics",
        "ols.phantoms",
        "ols.tasks",
    },
    "ols.training": {
        "ols.config",
        "ols.data",
        "ols.evaluation",
        "ols.files",
        "ols.losses",
        "ols.metrics",
        "ols.models",
        "ols.phantoms",
        "ols.runs",
        "ols.tasks",
        "ols.tracking",
    },
    "ols.integrations": {"ols.losses"},
    "ols.representations": {
        "ols.evaluation",
        "ols.models",
        "ols.metrics",
        "ols.data",
        "ols.files",
        "ols.keyed",
        "ols.tasks",
    },
    "ols.localisation": {
        "ols.data",
        "ols.evaluation",
        "ols.figures",
        "ols.files",
        "ols.keyed",
        "ols.metrics",
        "ols.models",
    },
}
MOST_LINES = 450  # of a module
MOST_IN_ROOT = 8  # modules

# Packages that cost seconds, and who must not load them.
HEAVY = ("torchmetrics", "torchvision", "timm", "accelerate", "tensorboard", "matplotlib", "sklearn")
LIGHT = {
    "ols.losses": HEAVY,
    "ols.command_line": HEAVY,  # with ols.config
    "ols.tasks": HEAVY,
    "ols.data": ("torch", "numpy", "PIL", *HEAVY),
    "ols.data.options": ("torch", "numpy", "PIL", *HEAVY),
    "ols.metrics.measures": ("torch", "numpy", *HEAVY),
    "ols.phantoms": ("torch", *HEAVY),
}
LOSSES_MAY_IMPORT = {"torch"} | set(sys.stdlib_module_names)


def _modules() -> dict[str, Path]:
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def _imports(path: Path) -> set[str]:
    modules, found = _modules(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from ols.runs import checkpoint` imports the module ols.runs.checkpoint
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (members & modules.keys()) or {node.module}
    return found


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_table_names_every_module_of_the_package():
    modules = _modules()
    assert len(modules) >= 20
    unnamed = [name for name in modules if not _within(name, set(MAY_IMPORT) - {"ols"}) and name != "ols"]
    assert unnamed == []


@pytest.mark.parametrize("module", sorted(_modules()))
def test_a_module_imports_only_what_the_table_allows(module):
    rule = max((name for name in MAY_IMPORT if _within(module, {name})), key=len)
    ours = {name for name in _imports(_modules()[module]) if _within(name, {"ols"})}
    assert {name for name in ours if not _within(name, MAY_IMPORT[rule] | {rule})} == set()


def test_no_modules_import_each_other_in_a_circle():
    modules = _modules()
    graph = {name: (_imports(path) & modules.keys()) - {name} for name, path in modules.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)  # a circle raises, and names it


def test_the_root_is_a_table_of_contents():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_IN_ROOT


def test_a_module_can_be_read_in_one_sitting():
    lines = {name: len(path.read_text().splitlines()) for name, path in _modules().items()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_losses_import_torch_and_nothing_else():
    foreign = {
        (module, name)
        for module, path in _modules().items()
        if _within(module, {"ols.losses"})
        for name in _imports(path)
        if name.split(".")[0] not in LOSSES_MAY_IMPORT | {"ols"}
    }
    assert foreign == set()


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {_canonical(re.match(r"[\w.-]+", wanted)[0]) for group in groups for wanted in group}
    paths = [*_modules().values(), *(ROOT / "recipes").glob("*.py")]
    imported = {name.split(".")[0] for path in paths for name in _imports(path)}
    foreign = (
        imported - set(sys.stdlib_module_names) - {"ols", "recipes", "pretrain"}
    )  # a recipe beside the one that imports it
    assert foreign >= {"torch", "yaml", "scipy", "pydicom"}
    made_by = packages_distributions()
    undeclared = {name for name in foreign if not declared & set(map(_canonical, made_by.get(name, [])))}
    assert undeclared == set()


def test_nobody_imports_recipes_tests_or_benchmarks():
    importing = {
        (module, name)
        for module, path in _modules().items()
        for name in _imports(path)
        if _within(name, {"recipes", "tests", "benchmarks"})
    }
    assert importing == set()


@pytest.mark.parametrize("module", LIGHT)
def test_what_should_be_light_loads_nothing_heavy(module):
    code = f"import sys; import {module}; print(*[name for name in {LIGHT[module]!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_module_is_named_for_having_no_idea():
    assert {name.rsplit(".", 1)[-1] for name in _modules()} & {"utils", "common", "helpers", "misc"} == set()
