"""Who may import whom, no circles, no long files or functions, nothing that runs foreign code: read from the source itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "regsim"
LONGEST_FILE, LONGEST_FUNCTION = 400, 50

GROUND = {"errors", "checks", "settings", "output", "kernels"}
BELOW = GROUND | {"images", "transforms", "prepare"}
ALGORITHMS = BELOW | {"misalign", "training", "metrics", "registration"}
# The rows (no torch) stand on their own: they are all that the report may know.
ROWS = {
    "evaluation.results",
    "evaluation.landscape_rows",
    "evaluation.training_rows",
    "evaluation.batch_rows",
    "evaluation.shot_rows",
    "evaluation.sweep_rows",
    "evaluation.calibration_rows",
    "evaluation.check_rows",
}
MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND),
    "images": GROUND,
    "transforms": GROUND | {"images"},
    "metrics": GROUND,
    "prepare": GROUND | {"images", "transforms"},
    "misalign": BELOW,
    "training": BELOW | {"misalign", "metrics"},
    "registration": BELOW | {"metrics"},
    "evaluation.results": GROUND,
    "evaluation.training_rows": GROUND,
    "evaluation.shot_rows": GROUND,
    "evaluation.calibration_rows": GROUND,
    "evaluation.landscape_rows": GROUND | {"evaluation.results"},
    "evaluation.check_rows": GROUND | {"evaluation.results"},
    "evaluation.batch_rows": GROUND | {"evaluation.results"},
    "evaluation.sweep_rows": GROUND | {"evaluation.results", "evaluation.batch_rows"},
    "evaluation": ALGORITHMS | ROWS,
    "report": GROUND | ROWS,
    "applications": ALGORITHMS | ROWS | {"evaluation", "report"},
    "cli": ALGORITHMS | ROWS | {"evaluation", "report", "applications", "__init__"},
    "__main__": {"cli"},
}
# The package's front page offers the library's names, from wherever they are.
EXEMPT = {"__init__"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "torch.load", "torch.jit.load", "torch.hub.load"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
SLOW_MODULES = {"nilearn"}

FILES = {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def module_of(path: Path) -> str:
    """`metrics/mind.py` as `metrics.mind`; a package's `__init__.py` as the package; the front page as `__init__`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def part_of(module: str) -> str:
    return module if module in MAY_IMPORT else module.split(".")[0]


MODULES = {module_of(path): tree for path, tree in FILES.items()}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module of regsim that a piece of code imports, as `metrics.base`; `__init__` for the front page."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "regsim" or name.startswith("regsim."):
                yield _existing(name.removeprefix("regsim").removeprefix("."))


def _existing(name: str) -> str:
    """The module that a dotted name lies in: the name itself, or what is left of it."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or "__init__"


def at_start(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported: no function bodies, nothing under TYPE_CHECKING."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, FUNCTION) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            continue
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, FUNCTION))


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Lines of the body that hold code: no docstring, comment or blank line (a command's options are its signature)."""
    body = function.body
    first = body[1] if ast.get_docstring(function) is not None and len(body) > 1 else body[0]
    written = [line.strip() for line in lines[first.lineno - 1 : function.end_lineno]]
    return sum(bool(line) and not line.startswith("#") for line in written)


def test_every_part_is_in_the_plan() -> None:
    unknown = {part_of(module) for module in MODULES} - set(MAY_IMPORT) - EXEMPT
    assert not unknown, f"say in MAY_IMPORT what these may import: {sorted(unknown)}"


@pytest.mark.parametrize("module", sorted(set(MODULES) - EXEMPT))
def test_imports_go_down_only(module: str) -> None:
    part = part_of(module)
    allowed = MAY_IMPORT[part] | {part}
    wrong = {other for other in imports(MODULES[module]) if part_of(other) not in allowed}
    assert not wrong, f"{module} imports {sorted(wrong)}; {part} may import {sorted(allowed)}"


def test_no_circles() -> None:
    """Walks what each module imports when it is imported; a package's `__init__` is one of them."""
    needs = {
        module: {
            other for node in at_start(tree) if isinstance(node, ast.Import | ast.ImportFrom) for other in imports(node)
        }
        for module, tree in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"circle: {' -> '.join([*way[way.index(module) :], module])}"
        if module not in done:
            for other in sorted(needs[module] - {module}):
                visit(other, (*way, module))
            done.add(module)

    for module in sorted(needs):
        visit(module, ())


def test_imports_are_absolute() -> None:
    relative = [
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


@pytest.mark.parametrize("path", sorted(FILES), ids=str)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_FILE, f"{path}: {len(lines)} lines; split it"
    long = {function.name: code_lines(function, lines) for function in functions(FILES[path])}
    long = {name: count for name, count in long.items() if count > LONGEST_FUNCTION}
    assert not long, f"{path}: functions over {LONGEST_FUNCTION} lines of code: {long}"


@pytest.mark.parametrize("path", sorted(FILES), ids=str)
def test_nothing_runs_foreign_code(path: Path) -> None:
    called = {ast.unparse(node.func) for node in ast.walk(FILES[path]) if isinstance(node, ast.Call)}
    assert not called & FORBIDDEN_CALLS
    imported = {name.split(".")[0] for node in ast.walk(FILES[path]) for name in _outside(node)}
    assert not imported & FORBIDDEN_MODULES
    pickles = [
        node
        for node in ast.walk(FILES[path])
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    ]
    assert not pickles, f"{path}: allow_pickle"


@pytest.mark.parametrize("path", sorted(FILES), ids=str)
def test_slow_libraries_are_not_imported_at_start(path: Path) -> None:
    found = {name.split(".")[0] for node in at_start(FILES[path]) for name in _outside(node)}
    assert not found & SLOW_MODULES, f"{path}: import {found & SLOW_MODULES} where it is needed"


def _outside(node: ast.AST) -> list[str]:
    """The modules named by one import statement."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
