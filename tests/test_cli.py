"""The command lines: a user's mistake is one line and exit code 2, before anything compiles."""

import json
import subprocess
import sys
from pathlib import Path

import fork_server
import pytest

from byol_jax import train as train_module

ROOT = Path(__file__).parents[1]


def run(module, *args):
    return fork_server.run("-m", f"byol_jax.{module}", *args, timeout=120)


def start_python(module, *args):
    """The same in a new interpreter, as from a shell."""
    return subprocess.run(
        [sys.executable, "-m", f"byol_jax.{module}", *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=fork_server.environment(),
        timeout=120,
    )


DIGITS = ("--config", "configs/digits.py")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((*DIGITS, "--config.optimizer.leraning_rate=1.0"), "did you mean optimizer.lr"),
        ((*DIGITS, "--config.batchsize=8"), "did you mean batch_size"),
        ((*DIGITS, "--config.batch_size=0.5"), "batch_size"),
        ((*DIGITS, "--config.batch_size=100000"), "more than the 1297 examples"),
        ((*DIGITS, "--config.data.name=imagnet2012"), "imagenet2012"),
        ((*DIGITS, "--config.data.name=folder"), "data.dir"),
        ((*DIGITS, "--config.encoder.name=resnet51"), "resnet50"),
        ((*DIGITS, "--config.method.name=byoll"), "byol"),
        ((*DIGITS, "stray"), "stray"),
        (("--config", "configs/digit.py"), "digits.py"),
        (("--config", "configs/byol_imagenet_r50.py:77"), "expected one of [40, 100, 300, 1000]"),
        ((), "--config is missing"),
    ],
)
def test_train_refuses_in_one_line(args, said, tmp_path):
    """Fails if the error is a traceback, or comes after the run folder was begun."""
    out = run("train", "--workdir", str(tmp_path / "run"), *args)
    last = out.stderr.strip().splitlines()[-1]
    assert out.returncode == 2, out.stderr
    assert last.startswith("error: ")
    assert said in last
    assert "Traceback" not in out.stderr
    assert "compiling" not in out.stderr
    assert not (tmp_path / "run" / "config.json").exists()


def test_debug_shows_the_traceback(tmp_path):
    """Fails if --debug is swallowed."""
    wrong = ("--config.batch_size=-1", "--debug")
    out = start_python("train", "--workdir", str(tmp_path), *DIGITS, *wrong)
    assert "Traceback" in out.stderr
    assert "batch_size is -1" in out.stderr


@pytest.mark.parametrize("module", ["evaluate", "export"])
def test_a_folder_that_is_no_run_is_refused(module, tmp_path):
    """Fails if the folder is not looked at first."""
    more = ("--out", str(tmp_path / "out")) if module == "export" else ()
    out = start_python(module, "--workdir", str(tmp_path), *more)
    assert out.returncode == 2
    assert out.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "expected the folder of a run" in out.stderr
    assert not (tmp_path / "out").exists()


def test_a_damaged_config_file_of_a_run_is_refused(tmp_path):
    """Fails if a torn config.json is a traceback."""
    (tmp_path / "config.json").write_text(json.dumps({"seed": 0})[:-3])
    out = run("train", "--workdir", str(tmp_path), *DIGITS)
    assert out.returncode == 2
    assert "is not JSON" in out.stderr


@pytest.mark.parametrize(
    ("tunables", "libc", "pages", "lacks"),
    [
        ("", ("glibc", "2.36"), "always [madvise] never", True),
        ("glibc.malloc.hugetlb=1", ("glibc", "2.36"), "always [madvise] never", False),
        ("", ("glibc", "2.34"), "always [madvise] never", False),
        ("", ("glibc", "2.36"), "always madvise [never]", False),
        ("", ("", ""), "", False),
    ],
)
def test_huge_pages_are_recommended_where_there_are_some(monkeypatch, tunables, libc, pages, lacks):
    """Fails if the hint is given where it cannot help, or was followed."""
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    monkeypatch.setattr(train_module.platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(train_module.Path, "is_file", lambda _: bool(pages))
    monkeypatch.setattr(train_module.Path, "read_text", lambda _: pages)
    assert train_module._lacks_huge_pages() is lacks
