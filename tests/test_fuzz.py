"""A short fuzz run: the same cases every time. `tests/faults/fuzz.py` runs as long as wanted."""

import sys
from pathlib import Path

import fork_server
import pytest

FUZZ = Path(__file__).parent / "faults" / "fuzz.py"
sys.path.insert(0, str(FUZZ.parent))

import fuzz  # noqa: E402

CASES = {
    "config": 300,
    "npz": 600,
    "overrides": 100,
    "safetensors": 8,
    "checkpoint": 60,
    "records": 1,
    "images": 1,
}


@pytest.mark.parametrize("target", CASES)
def test_damaged_input_gives_a_clear_error(target):
    """Fails if an input crashes a process, takes its memory or time, or raises a foreign error.

    Found so, and mended: a RecursionError (JSON), a UnicodeDecodeError (TensorFlow's messages), a
    segmentation fault (a record of 2^60 bytes), a ZeroDivisionError (accumulate=0), errors of
    Orbax's and safetensors' own.
    """
    done = fork_server.run(FUZZ, "--target", target, "--cases", CASES[target], timeout=500)
    assert "FAILURE" not in done.stdout.split("| --- |")[-1], done.stdout
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {target} | {CASES[target]:,} |" in done.stdout


def test_the_verdicts(tmp_path):
    """Fails if a foreign error, a long or empty message, or a wrong result counts as clear."""

    def raised(error):
        try:
            raise error
        except Exception as e:
            return fuzz.verdict(e)[0]

    assert fuzz.verdict(None)[0] == "fine"
    assert raised(KeyError("x")) == "FAILURE"
    assert raised(AssertionError("x")) == "FAILURE"
    assert raised(ValueError("two\nlines")) == "FAILURE"
    assert raised(OSError("no such file")) == "error"
    with pytest.raises(ValueError, match="invalid literal") as e:
        int("x")
    assert fuzz.verdict(e.value)[0] == "FAILURE"  # not raised by the project
    with pytest.raises(ValueError, match="does not exist") as e:
        fuzz_config(tmp_path)
    assert fuzz.verdict(e.value)[0] == "error"


def fuzz_config(folder):
    from byol_jax.config_file import load_config

    load_config(folder / "config.json")
