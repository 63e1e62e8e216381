"""The floors of the package: who may import whom, what is public, how long it may get."""

from __future__ import annotations

import ast
import importlib
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import trainlab as tl

PACKAGE = Path(tl.__file__).parent
FLOORS = (
    ("errors", "randomness", "paths", "distributed"),
    ("data",),
    ("losses", "models", "adapters", "optimizers"),
    ("events",),
    ("precision", "schedules"),
    ("state",),
    ("loop",),
    ("observers", "diagnostics", "doctor", "memory", "checkpoint", "rates", "sweeps"),
    ("plots", "launcher"),
    ("widgets", "course"),
    ("cli", "__main__"),
)
CORE = ("errors", "randomness", "paths", "distributed", "data", "losses")
CORE = (*CORE, "events", "precision", "state", "loop", "observers", "checkpoint")
# what one chooses from: `train` imports none of it, and each entry reads alone
MENUS = ("models", "adapters", "optimizers", "schedules")
READ = (*CORE, *MENUS, "plots", "rates", "sweeps", "diagnostics", "doctor", "memory", "widgets")


def modules() -> dict[str, Path]:
    """Every module by its name below the package: "loop.step", "data" for a folder's own file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            found[name] = path
    return found


def floor_of(name: str) -> int:
    room = name.split(".")[0]
    for height, rooms in enumerate(FLOORS):
        if room in rooms:
            return height
    raise AssertionError(f"{name} is on no floor: say in this test where it belongs")


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _runtime_nodes(node)


def imports(name: str, path: Path) -> set[str]:
    """The modules of the package that a module imports, at its top or inside a function."""
    known = modules()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in _runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                root = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "trainlab":
                root = []
            else:
                continue
            inner = (node.module or "").split(".") if node.level else (node.module or "").split(".")[1:]
            source = ".".join([*root, *(part for part in inner if part)])
            for alias in node.names:
                below = f"{source}.{alias.name}".lstrip(".")
                found |= {below if below in known else source}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("trainlab.") for a in node.names if a.name.startswith("trainlab.")}
    return {target for target in found if target in known}


def test_a_module_imports_only_from_below() -> None:
    wrong = []
    for name, path in modules().items():
        for target in imports(name, path):
            same_room = name.split(".")[0] == target.split(".")[0]
            if floor_of(target) > floor_of(name) or (
                floor_of(target) == floor_of(name) and not same_room and not _comes_first(target, name)
            ):
                wrong.append(f"{name} imports {target}")
    assert not wrong


def _comes_first(target: str, name: str) -> bool:
    rooms = FLOORS[floor_of(name)]
    return rooms.index(target.split(".")[0]) < rooms.index(name.split(".")[0])


def test_there_is_no_circle_of_imports() -> None:
    graph = {name: imports(name, path) for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_check_of_the_imports_sees_them() -> None:
    assert {"errors", "precision"} <= imports("loop.config", PACKAGE / "loop/config.py")
    assert "state" in imports("observers", PACKAGE / "observers.py")
    assert "loop.finite" not in imports("loop.run", PACKAGE / "loop/run.py")  # for type checkers only


def test_public_names_resolve_and_no_submodule_hides_one() -> None:
    code = """
import importlib, pkgutil, sys, types
import trainlab as tl
for module in pkgutil.walk_packages(tl.__path__, "trainlab."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name, home in tl._HOMES.items():
    value = getattr(tl, name)
    source = importlib.import_module("trainlab." + home)
    expected = source if home.split(".")[-1] == name else getattr(source, name)
    assert value is expected, name
    if home.split(".")[-1] != name:
        assert not isinstance(value, types.ModuleType), name + " is hidden by a submodule"
assert set(tl._HOMES) <= set(dir(tl))
for name in ("train", "fit", "evaluate", "split", "load", "datasets", "make_loader", "check", "progress"):
    assert callable(getattr(tl, name)), name
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        tl.trian  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = """
import sys
before = set(sys.modules)
import trainlab
heavy = {"torch", "numpy", "matplotlib", "pandas", "transformers", "ipywidgets", "sklearn", "tqdm"}
assert not heavy & (set(sys.modules) - before), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def _code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code: no blank line, no comment, no docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (
            tokenize.COMMENT,
            tokenize.NL,
            tokenize.NEWLINE,
            tokenize.INDENT,
            tokenize.DEDENT,
            tokenize.ENDMARKER,
        ):
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def test_the_core_reads_in_an_evening() -> None:
    sizes = {name: len(_code_lines(path.read_text(encoding="utf-8"))) for name, path in modules().items()}
    # where data sets come from is not what one reads to understand training
    fetching = {f"data.{name}" for name in ("catalogue", "fetch", "readers", "pickles", "tables")}
    fetching |= {name for name in sizes if name.startswith("data.own")}
    # nor is what looks data over: a report is read, not the counting behind it
    inspecting = tuple(name for name in sizes if name.startswith(("data.leaks", "data.cleaning")))
    # the augmentations of texts are a menu like the models, on the floor of the data that they change
    choosing = {name for name in sizes if name.split(".")[0] in MENUS} | {"data.augmentation"}
    # nor how a run lies on a disk: the loop knows nothing of it, and it is read by itself, as a safe is
    storing = tuple(name for name in sizes if name.split(".")[0] == "checkpoint")
    apart = {*fetching, *inspecting, *choosing, *storing}
    core = sum(size for name, size in sizes.items() if name.split(".")[0] in CORE and name not in apart)
    menus = sum(sizes[name] for name in choosing)
    print(f"core: {core} lines of code, menus: {menus}, ", end="")
    # exercises, drawings and panels of one chapter are its text, kept here so that tests can reach them
    own = re.compile(r"course\.chapter\d\d|widgets\.panels\..*")
    chapters = sum(size for name, size in sizes.items() if own.fullmatch(name))
    stored = sum(sizes[name] for name in storing)
    # the meter and the budget of a step are read with chapter 13, by themselves: no run imports them
    measuring = sum(size for name, size in sizes.items() if name.split(".")[0] == "memory")
    # what measures a model and finds its faults is read on a bad day, by itself: no run imports any of it.
    # It is a collection of questions, each of which reads alone, and a table of what is said of the answers.
    diagnosing = {name for name in sizes if name.split(".")[0] in ("doctor", "diagnostics")}
    clinic = {name for name in sizes if name.startswith("course.clinic")}  # broken programs are text too
    doctor = sum(sizes[name] for name in diagnosing - {"diagnostics", "doctor.codes"})
    inspected = sum(sizes[name] for name in inspecting)
    read_apart = stored + measuring + inspected + sum(sizes[name] for name in diagnosing | clinic)
    package = sum(sizes.values()) - chapters - read_apart
    print(f"fetching: {sum(sizes[name] for name in fetching)}, storing: {stored}, ", end="")
    print(f"inspecting: {inspected}, chapters: {chapters}, package: {package}")
    print(f"measuring: {measuring}, doctor: {doctor}, diagnostics: {sizes['diagnostics']}")
    assert measuring < 400
    assert doctor < 3800
    assert sizes["diagnostics"] < 300
    assert core < 2200  # of it, some 250 are the menu of losses
    assert menus < 800
    assert stored < 340
    assert inspected < 1400
    assert package < 8000


def _functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield f"{path.relative_to(PACKAGE)}:{node.name}", node


@pytest.mark.parametrize("name", [name for name in modules() if name.split(".")[0] in READ])
def test_a_function_fits_a_screen(name: str) -> None:
    path = modules()[name]
    code = _code_lines(path.read_text(encoding="utf-8"))
    long = {
        label: size
        for label, node in _functions(path)
        if (size := len(code & set(range(node.lineno, (node.end_lineno or 0) + 1)))) > 40
    }
    assert not long


@pytest.mark.parametrize("name", [name for name in modules() if name.split(".")[0] in READ])
def test_what_is_public_says_what_it_means(name: str) -> None:
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or name == ""
    # `forward` is said by its class, and a method that a class promises by the one it replaces
    silent = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            silent += [] if ast.get_docstring(node) else [node.name]
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not _replaces(node):
            silent += [
                f"{node.name}.{part.name}"
                for part in node.body
                if isinstance(part, ast.FunctionDef)
                and not part.name.startswith("_")
                and not ast.get_docstring(part)
            ]
    assert not silent


def _replaces(node: ast.ClassDef) -> bool:
    bases = {ast.unparse(base) for base in node.bases}
    known = {
        "nn.Module",
        "nn.Sequential",
        "nn.Linear",
        "Protocol",
        "Loader",
        "Chart",
        "Job",
        "Panel",
        "RunPanel",
        "_TaskPanel",
    }
    return bool(bases & known)


def test_every_module_can_be_imported_first() -> None:
    """No module leans on another having been imported before it."""
    code = "import importlib, sys; importlib.import_module(sys.argv[1])"
    for name in ("loop.finite", "data.batches", "observers"):
        subprocess.run([sys.executable, "-c", code, f"trainlab.{name}"], check=True, cwd=PACKAGE.parent)
    assert importlib.import_module("trainlab.loop.training").train is tl.train
