"""The fuzz run's command lines: wrong overrides of the config. See `targets.py`."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import mutate


def prepare_overrides(folder):
    """The keys of the config, and a config file."""
    # Imported once, before cases fork; nothing here starts a thread.
    import byol_jax.cli
    import byol_jax.experiment.methods
    import byol_jax.experiment.views
    from byol_jax.config import default_config, flatten

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.py"
    file.write_text("from byol_jax.config import default_config as get_config  # noqa: F401\n")
    assert byol_jax.experiment.methods.build_encoder
    assert byol_jax.experiment.views.build_views
    assert byol_jax.cli.run
    return {"file": str(file), "keys": flatten(default_config())}


def overrides(shared, folder, draw):
    """A wrong command line, in a process of its own: exit 0, or 2 with one line `error: ...`."""
    argv = ["train", f"--config={shared['file']}"]
    for _ in range(draw.randint(1, 4)):
        key = draw.choice(list(shared["keys"]))
        value = draw.choice(
            (*map(str, mutate.VALUES), "(" * 400, "1" * 5000, "(1,", "True", "1e400")
        )
        text = f"--config.{key}={value}"
        kind = draw.randrange(6)
        if kind == 0:
            raw = mutate.mutate(draw, text.encode("utf-8", "surrogatepass"))
            text = raw.replace(b"\0", b"").decode("utf-8", "surrogateescape")
        elif kind == 1:
            text = f"--config.{key}"
        elif kind == 2:
            text = f"--config.views.overrides.{draw.choice(('jitter', 'x', 'a.b', ''))}={value}"
        argv.append(text)
    if any(a.lstrip("-").split("=")[0] in ("config", "help", "helpfull") for a in argv[2:]):
        return 0  # another config file is another program
    with tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            _parse(argv, err.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        err.seek(0)
        text = err.read().decode("utf-8", "replace")
    lines = text.strip().splitlines()
    assert status in (0, 2), f"exit {status} of {argv!r:.600}: {lines[-3:]}"
    if status == 2:
        clear = len(lines) == 1 and lines[0].startswith("error: ")
        assert clear, f"{argv!r:.600}: {lines[-3:]}"
        raise ValueError(lines[0][:500])
    return 1


def _parse(argv, err):
    """What `python -m byol_jax.train` does with its arguments, short of opening the data."""
    from absl import flags
    from ml_collections import config_flags

    from byol_jax import cli
    from byol_jax.config import resolve
    from byol_jax.config_file import load_config, save_config
    from byol_jax.experiment.methods import build_encoder
    from byol_jax.experiment.views import build_views

    os.dup2(err, 2)
    sys.argv = argv
    code = 99
    try:
        config_flags.DEFINE_config_file("config", None, "config file")
        flags.DEFINE_string("workdir", "", "")
        flags.DEFINE_bool("debug", False, "")

        def main():
            config = resolve(flags.FLAGS.config)
            build_views(config, 3)
            build_encoder(config, 3)
            with tempfile.TemporaryDirectory() as folder:
                save_config(config, Path(folder, "config.json"))
                load_config(Path(folder, "config.json"))
            return 0

        cli.run(main, argv)
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 98
    except BaseException:
        import traceback

        traceback.print_exc()
    with contextlib.suppress(BaseException):
        sys.stderr.flush()
    os._exit(code)
