"""Nothing that a file holds is executed, leaves its folder, or takes memory beyond its limit."""

import ast
import io
import json
import shutil
import zipfile
from pathlib import Path

import fork_server
import numpy as np
import pytest

import byol_jax
from byol_jax import untrusted
from byol_jax.config import default_config
from byol_jax.config_file import load_config, save_config
from byol_jax.data.opening import open_source
from byol_jax.manifest import what_is_wrong, write_manifest
from byol_jax.untrusted import read_json

ROOT = Path(byol_jax.__file__).parent
UNPICKLE = {"load", "loads", "Unpickler", "load_url", "load_state_dict_from_url"}
SOURCES = {p.relative_to(ROOT.parent).as_posix(): p.read_text() for p in ROOT.rglob("*.py")}
FORBIDDEN = {"pickle", "dill", "marshal", "shelve", "cloudpickle", "joblib", "yaml", "torch"}


def dangers(source):
    """What a module does that could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            last = name.rsplit(".", 1)[-1]
            unpickles = name.startswith(("pickle.", "torch.")) and last in UNPICKLE
            runs = ("eval", "exec", "compile", "__import__", "os.system", "os.popen")
            if unpickles or name in runs:
                found.append(name)
            loads = last in ("load", "fromfile", "memmap") and name.split(".")[0] in ("np", "numpy")
            arguments = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if arguments.get("allow_pickle", "False") != "False":
                found.append("allow_pickle")
            if loads and arguments.get("allow_pickle") != "False":
                found.append(f"{name} without allow_pickle=False")
            if arguments.get("shell", "False") != "False":
                found.append("shell")
            if name == "json.load" or (name == "json.loads" and "dumps" not in ast.unparse(node)):
                found.append(name)
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_no_source_runs_what_a_file_holds(name):
    """Fails if a pickle, an eval, a shell or loose JSON comes in; seen with the lines below.

    JSON of others is read by `untrusted.read_json` alone; log.py reads rows that it wrote itself.
    detectron2.py writes a pickle, and detection runs in torch; neither reads one.
    """
    allowed = {
        "byol_jax/untrusted.py": ["json.loads"],
        "byol_jax/log.py": ["json.loads"],
        "byol_jax/convert/detectron2.py": ["pickle"],
        "byol_jax/detect/model.py": ["torch"],
    }
    assert [d for d in dangers(SOURCES[name]) if d not in allowed.get(name, [])] == []


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "def f():\n    from torch import load",
        "np.load(p)",
        "x = pickle.loads(p)",
        "x = pickle.Unpickler(p)",
        "def f(torch):\n    return torch.load(p)",
        "torch.hub.load(a, b)",
        "np.load(p, allow_pickle=True)",
        "eval('1')",
        "subprocess.run(x, shell=True)",
        "json.loads(p.read_text())",
        "import yaml",
    ],
)
def test_a_planted_danger_is_seen(planted):
    """Fails if the walk misses a form of danger."""
    assert dangers(planted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested deeper than 16"),
        ('{"a":' * 20 + "1" + "}" * 20, "nested deeper than 16"),
        ('{"a": NaN}', "NaN is not finite"),
        ('{"a": -Infinity}', "-Infinity is not finite"),
        ('{"a": 1e999}', "1e999 is not finite"),
        ('{"a": ' + "9" * 5000 + "}", "more than 64 bits"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' occurs twice"),
        ('{"a": 1', "delimiter"),
        (b"\xff\xfe", "codec can't decode"),
        (" " * (untrusted.MAX_JSON + 1), "more than 16,777,216"),
    ],
)
def test_json_is_strict(tmp_path, text, message):
    """Fails if such JSON passes, or the error is another's (RecursionError for the first)."""
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_json(path)


def test_json_of_ours_is_read(tmp_path):
    """Fails if the limits refuse what the project writes."""
    value = {"a": [1, -2.5, "x", None, True, {"b": [[1], []]}], "seed": 2**63 - 1}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "x.json") == value
    with pytest.raises(OSError, match="not a plain file"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": True}, "seed cannot be True; expected a int"),
        ({"seed": "1"}, "seed cannot be '1'; expected a int"),
        ({"encoder.width": None}, "encoder.width cannot be None"),
        ({"encoder.name": "x" * 5000}, r"encoder.name cannot be 'x{50,80}; expected a str"),
        ({"eval.lrs": {"a": 1}}, "eval.lrs.a cannot be 1"),
        ({"eval.lrs": [None]}, r"eval.lrs cannot be \[None\]"),
        ({"views.overrides": {"a.b": 1}}, "unknown config key"),
        ({"views.overrides": {"__class__": []}}, "unknown config key"),
        ({"": 1}, "unknown config key"),
    ],
)
def test_a_config_of_a_wrong_kind_is_refused(tmp_path, change, message):
    """Fails if a value of another kind passes, or raises another error than a ValueError."""
    values = default_config().to_dict()
    for key, value in change.items():
        *groups, name = key.split(".")
        holder = values
        for group in groups:
            holder = holder[group]
        holder[name] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as e:
        load_config(tmp_path / "config.json")
    assert "\n" not in str(e.value)


def test_a_number_that_is_not_finite_is_not_saved(tmp_path):
    """Fails if a run is started whose config cannot be read back."""
    config = default_config()
    config.optimizer.lr = float("inf")
    with pytest.raises(ValueError, match=r"optimizer.lr is inf; expected a finite"):
        save_config(config, tmp_path / "config.json")
    assert not (tmp_path / "config.json").exists()


# Manifests and links.


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../secret", "x" * 5000, "a\0b", "link"]
)
def test_a_manifest_stays_in_its_folder(tmp_path, name):
    """Fails if a name leads out of the folder, or its error is no phrase."""
    (tmp_path / "secret").write_text("s")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("a")
    write_manifest(folder)
    assert what_is_wrong(folder) == ""
    if name == "link":
        (folder / "link").symlink_to(tmp_path / "secret")
    else:
        path = folder / "manifest.json"
        sums = json.loads(path.read_text())
        path.write_text(json.dumps(sums | {name: "0" * 64}))
    expected = "leads out of the folder" if name == "link" else "is missing"
    assert what_is_wrong(folder).endswith(expected)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "link", "/dev/zero"])
def test_an_export_with_a_link_out_is_refused(tmp_path, target):
    """Fails if an import follows a link out of its folder; a link inside it is fine."""
    folder = tmp_path / "export"
    folder.mkdir()
    (tmp_path / "outside").write_text("{}")
    (folder / "encoder.json").symlink_to(target)
    (folder / "link").symlink_to("link")
    with pytest.raises(ValueError, match="is a link that leads out of the folder; replace it"):
        byol_jax.load_encoder(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "real.json").write_text("{}")
    (folder / "encoder.json").symlink_to("real.json")
    with pytest.raises(ValueError, match="is not an encoder written by byol_jax"):
        byol_jax.load_encoder(folder)


# Archives of arrays.


def archive(path, header, body, how=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(path, "w", how) as z:
        z.writestr("images.npy", file.getvalue() + body)


def test_a_bomb_of_an_archive_is_refused(tmp_path, monkeypatch):
    """Fails if memory is taken for what a header promises; seen without the sum, and the sizes."""
    path = tmp_path / "a.npz"
    described = {"descr": "|u1", "fortran_order": False, "shape": (10**13, 1, 1)}
    archive(path, described, b"x" * 100)
    with pytest.raises(ValueError, match=r"'images' does not have the size \(10{13}, 1, 1\)"):
        open_source("npz", str(path))
    archive(path, described | {"shape": (2**24, 4, 4)}, bytes(2**28))
    assert path.stat().st_size < 2**20
    monkeypatch.setattr("os.sysconf", lambda name: 2**14)  # a machine of 256 MiB
    with pytest.raises(ValueError, match=r"take 0.2 GiB, more than half of this machine's memory"):
        open_source("npz", str(path))


def test_labels_cost_memory_for_each_class(tmp_path):
    """Fails if a label of 10^12 makes as many class names."""
    images = np.zeros((50, 4, 4), np.uint8)
    images[:, 0, 0] = np.arange(50)
    np.savez(tmp_path / "a.npz", images=images, labels=np.full(50, 10**12))
    with pytest.raises(ValueError, match="labels contains 1000000000000; expected classes below"):
        open_source("npz", str(tmp_path / "a.npz"))


def test_other_arrays_of_an_archive_are_not_read(tmp_path):
    """Fails if arrays that nobody asked for take memory or are loaded."""
    images = np.arange(800, dtype=np.uint8).reshape(50, 4, 4)
    objects = np.array([{}], object)
    np.savez(tmp_path / "a.npz", images=images, other=objects)
    assert open_source("npz", str(tmp_path / "a.npz")).num_examples > 30


def test_a_very_long_flag_is_one_line():
    """Fails if absl's search for a similar flag ends in a RecursionError (found by fuzz)."""
    done = fork_server.run("-m", "byol_jax.train", "--" + "1" * 3000)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
