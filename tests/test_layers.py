"""A module imports only from lower layers, in no circle, and TensorFlow only where it belongs."""

import ast
from pathlib import Path

import pytest

import byol_jax

ROOT = Path(byol_jax.__file__).parent

# docs/architecture.md, from the bottom up. A folder stands for all that lies in it.
LAYERS = {
    # The types that everything shares; what is read of files that others may have written.
    "core": 0,
    "untrusted": 0,
    "pulse": 0,
    "schedules": 0,
    "writing": 0,
    "config": 0.75,
    "config_table": 0,
    "hardware": 0.5,
    "losses": 0.5,
    "manifest": 0.5,
    "optim": 0.5,
    "processes": 0.5,
    "views": 0.5,
    "checkpoint": 1,
    "config_file": 1,
    "data": 1,
    "events": 1,
    "log": 1,
    "mesh": 1,
    "models": 1,
    "convert": 2,
    "faults": 2,
    "guard": 1,
    "methods": 2,
    "run_lock": 2,
    "watch": 2,
    "loop": 3,
    "run_folder": 3,
    "train_step": 3,
    "evals": 4,
    "cli": 5,
    "experiment": 5,
    "report": 5,
    # The tools that compile what `experiment` makes.
    "bench": 5.5,
    "detect": 5.5,
    "preflight": 5.5,
    "evaluate": 6,
    "export": 6,
    "train": 6,
    "study": 7,
}
TENSORFLOW = ("tensorflow", "tensorflow_datasets", "clu.metric_writers")
USES_TENSORFLOW = ("data.", "views.host")
TREES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path.read_text()
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}


def _for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(source, top_level=False):
    """Every dotted name that a module imports; with `top_level` only those of its import."""
    tree = ast.parse(source)
    skipped = set()
    if top_level:
        functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        later = [n for n in ast.walk(tree) if isinstance(n, functions) or _for_types(n)]
        skipped = {id(n) for node in later for n in ast.walk(node)}
    names = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def modules(source, top_level=False):
    """The modules of byol_jax that a module imports, as `folder.file`; a folder by its name."""
    found = set()
    for name in imports(source, top_level):
        if name == "byol_jax" or not name.startswith("byol_jax."):
            continue
        parts = name.split(".")[1:]
        # `from byol_jax.core import Batch` names a thing in a module: cut back to the module.
        while len(parts) > 1 and ".".join(parts) not in TREES:
            parts.pop()
        found.add(".".join(parts))
    return found


def violations(module, source):
    """What a module imports and must not, as readable lines."""
    own = module.split(".")[0]
    layer = 6 if module.endswith("__main__") else LAYERS[own]
    wrong = []
    for target in modules(source):
        theirs = target.split(".")[0]
        inside = "." in module and theirs == own
        if not inside and LAYERS.get(theirs, 7) >= layer:
            wrong.append(f"{module} (layer {layer}) imports {target}")
    for name in imports(source):
        if name.startswith(TENSORFLOW) and not module.startswith(USES_TENSORFLOW):
            lazily = module == "log" and name not in imports(source, top_level=True)
            if not lazily:
                wrong.append(f"{module} imports {name}")
    return wrong


def files(trees):
    """{file: the files of byol_jax that it imports}, in functions too."""

    def file_of(target):
        return target if target in trees else f"{target}.__init__"

    return {
        module: {file_of(t) for t in modules(source)} & set(trees)
        for module, source in trees.items()
    }


def circle(edges):
    """Files of which each imports the next, and the last the first; None where there are none."""
    done = set()

    def walk(file, path):
        if file in path:
            return path[path.index(file) :]
        if file in done:
            return None
        found = (walk(target, [*path, file]) for target in sorted(edges.get(file, ())))
        found = next((c for c in found if c), None)
        done.add(file)
        return found

    return next((c for c in (walk(file, []) for file in sorted(edges)) if c), None)


def test_every_module_has_a_layer():
    """Fails if a new module is not placed, or one that is gone stays in the table."""
    assert {module.split(".")[0] for module in TREES} == set(LAYERS)


@pytest.mark.parametrize("module", TREES)
def test_imports_go_down(module):
    """Fails if a module imports from its own layer or a higher one."""
    assert violations(module, TREES[module]) == []


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("losses.reductions", "from byol_jax import optim"),  # its own layer
        ("core", "from byol_jax.models import make_encoder"),  # a higher one
        ("models.heads", "import byol_jax.methods.byol"),
        ("methods.byol", "def f():\n    from byol_jax.loop import fit"),  # lazily
        ("evals.knn", "import byol_jax.experiment.build as e"),
        ("train", "from byol_jax import evaluate"),
        ("core", "from byol_jax.untrusted import read_json"),  # both at the bottom
        ("core", "from byol_jax.optim import Schedule"),  # above the types that it imports
        ("experiment.feed", "from byol_jax.preflight.lower import lower"),
        ("bench.step", "from byol_jax.preflight import hlo"),  # a tool beside it
        ("loop", "import tensorflow as tf"),
        ("experiment.evaluation", "def f():\n    import tensorflow as tf"),
        ("convert.timm", "def f():\n    import tensorflow_datasets"),
        ("views.spec", "from tensorflow import nn"),
        ("log", "from clu import metric_writers"),  # not lazily
        ("core", "from byol_jax import load_encoder"),  # the package's front door
    ],
)
def test_a_planted_violation_is_seen(module, planted):
    """Fails if the walk misses a form of import."""
    assert violations(module, planted)


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("models.heads", "from byol_jax.models.norm import GroupBatchNorm"),
        ("losses.reductions", "from byol_jax.core import Array"),
        ("optim", "from byol_jax.core import Tree"),
        ("evals.linear", "from byol_jax import loop, log"),
        ("bench.__main__", "from byol_jax.bench.step import bench"),
        ("views.host", "import tensorflow as tf"),
        ("log", "def f():\n    from clu import metric_writers"),
    ],
)
def test_what_is_allowed_passes(module, allowed):
    """Fails if the walk forbids everything."""
    assert violations(module, allowed) == []


def test_no_file_imports_itself_by_a_detour():
    """Fails if two files import one another, by any chain, in a function or on import.

    (Import `byol_jax.data.pipeline` in a function of data/stream.py.)
    """
    edges = files(TREES)
    assert circle(edges) is None
    assert "data.stream" in edges["data.pipeline"]  # an import in a function
    assert "models.__init__" in edges["experiment.methods.parts"]  # a folder by its name


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ({"data.stream": "from byol_jax.data import pipeline"}, {"data.pipeline", "data.stream"}),
        (
            {"losses.collapse": "def f():\n    from byol_jax.losses.predictive import regression",
             "losses.predictive": "import byol_jax.losses.collapse"},
            {"losses.collapse", "losses.predictive"},
        ),
        ({"models.norm": "from byol_jax.models import make_encoder"}, {"models.norm"}),
        ({"optim": "import byol_jax.optim"}, {"optim"}),
    ],
)  # fmt: skip
def test_a_planted_circle_is_seen(planted, expected):
    """Fails if the walk ends early, or misses a folder's `__init__` or an import in a function."""
    trees = {**TREES, **{m: f"{TREES[m]}\n{more}" for m, more in planted.items()}}
    assert expected <= set(circle(files(trees)))


@pytest.mark.parametrize("command", ["train", "evaluate", "export"])
def test_the_command_lines_import_without_tensorflow(command):
    """Fails if a module imports TensorFlow on import, by any chain from a command line."""
    seen, todo = set(), {command}
    while todo:
        module = todo.pop()
        seen.add(module)
        source = TREES.get(module) or TREES[f"{module}.__init__"]
        names = imports(source, top_level=True)
        assert not [n for n in names if n.startswith(TENSORFLOW)], module
        found = modules(source, top_level=True)
        todo |= (found | {name.split(".")[0] for name in found}) - seen
    assert {"core", "log", "models.resnet"} <= seen
