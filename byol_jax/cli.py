"""What the command lines share: config flags, and errors printed as one line."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from byol_jax import processes
from byol_jax.config import default_config, flatten, nearest
from byol_jax.faults import TrainingError
from byol_jax.views.spec import OVERRIDES, check_override

# Set before anything imports TensorFlow: log only its errors, and switch off oneDNN, so that input
# operations give the same numbers on every machine (oneDNN also announces itself in four lines).
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# What a wrong command line, config, input or installation raises; anything else is a bug of ours
# and shows its traceback.
USER_ERRORS = (ValueError, TrainingError, OSError, ImportError, flags.Error)


# Flags that name a file or folder: no shell expands the ~ of --workdir=~/runs/mine.
PATHS = (
    *("workdir", "study", "encoder", "status", "out", "save", "json", "hlo", "config"),
    *("config.data.dir", "config.init_from", "config.distill.teacher"),
)


def expand_home(argv: Sequence[str]) -> list[str]:
    """The arguments with ~ at the beginning of a path replaced by the home folder."""
    found: list[str] = []
    for arg in argv:
        name, equals, value = arg.partition("=")
        last = found[-1] if found else ""
        if equals and name.startswith("-") and name.lstrip("-") in PATHS:
            arg = f"{name}={os.path.expanduser(value)}"
        elif last.startswith("-") and last.lstrip("-") in PATHS:
            arg = os.path.expanduser(arg)
        found.append(arg)
    return found


def open_streams() -> None:
    """Give closed standard streams (`2>&-`) somewhere to go.

    Otherwise the next file opened takes their number, and what libraries log goes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


_OF_VIEWS = "views.overrides."


def _keys(argv: Sequence[str]) -> list[str]:
    """The config keys that a command line sets: of --config.KEY=VALUE and of --noconfig.KEY."""
    names = [arg.split("=", 1)[0].lstrip("-") for arg in argv if arg.startswith("-")]
    names = [name.removeprefix("no") for name in names]
    return [n.removeprefix("config.") for n in names if n.startswith("config.")]


def check_overrides(argv: Sequence[str]) -> None:
    """Refuse `--config.KEY` if no such key exists, naming the nearest.

    Raises:
      ValueError: the key is unknown.
    """
    known = flatten(default_config())
    for key in _keys(argv):
        if key.startswith(_OF_VIEWS):
            check_override(key.removeprefix(_OF_VIEWS))
        elif key not in known:
            names = [*known, *(_OF_VIEWS + field for field in OVERRIDES)]
            raise ValueError(f"Unknown config key {key}: {nearest(key, names)}")


def with_overrides(config: Any, argv: Sequence[str]) -> Any:
    """A config in which the view overrides of a command line can be set.

    ml_collections sets only keys that a config has, and takes the type of a value from the one that
    is there: the overrides that `argv` sets start from the defaults of a view.

    Args:
      config: what --config holds; changed in place.
      argv: the command line.

    Returns:
      `config`.
    """
    fields = [k.removeprefix(_OF_VIEWS) for k in _keys(argv) if k.startswith(_OF_VIEWS)]
    if fields and isinstance(config, ConfigDict):
        with config.unlocked():
            overrides = config.views.overrides
            for field in fields:
                if field in overrides:  # of the type in the config file, e.g. 0 for 0.0
                    del overrides[field]
                overrides[field] = OVERRIDES[field]
    return config


class _ConfigParser(flags.ArgumentParser):
    """The parser of --config, with room for view overrides."""

    def __init__(self, parser: flags.ArgumentParser, argv: Sequence[str]) -> None:
        self._parser, self._argv = parser, argv

    def parse(self, argument: Any) -> Any:
        return with_overrides(self._parser.parse(argument), self._argv)

    def flag_type(self) -> str:
        return str(self._parser.flag_type())


def check_config_file(argv: Sequence[str]) -> None:
    """Refuse a `--config FILE[:ARGUMENT]` that does not exist, naming the configs next to it.

    Raises:
      ValueError: there is no such file.
    """
    for i, arg in enumerate(argv):
        name, _, value = arg.partition("=")
        if name.lstrip("-") != "config" or not arg.startswith("-"):
            continue
        value = value or (argv[i + 1] if i + 1 < len(argv) else "")
        path = Path(value if Path(value).exists() else value.rsplit(":", 1)[0])
        if not path.is_file():
            beside = sorted(p.name for p in path.parent.glob("*.py"))
            there = f"{path.parent} has {', '.join(beside)}" if beside else "no configs there"
            raise ValueError(f"--config {value} does not exist; {there}.")


def parse_flags(
    argv: Sequence[str],
    values: flags.FlagValues = flags.FLAGS,
    config: ConfigDict | None = None,
) -> list[str]:
    """Parse a command line, --config and its keys included.

    Args:
      argv: the command line, the program's name first.
      values: where the flags are defined, and set.
      config: what --config.KEY changes if there is no --config FILE.

    Returns:
      The arguments that are no flags.

    Raises:
      ValueError: anything wrong with a flag, a key or the config file, in one line.
    """
    check_overrides(argv)
    check_config_file(argv)
    if "config" in values:
        values["config"].parser = _ConfigParser(values["config"].parser, argv)
    try:
        if config is not None:
            with_overrides(config, argv)
            config_flags.DEFINE_config_dict(
                "config", config, flag_values=values, sys_argv=list(argv)
            )
        return values(argv)
    except flags.Error as e:
        # An error inside a config file comes with its whole traceback as text.
        text = str(e).strip()
        if "Traceback" in text:
            text = f"the config file: {text.splitlines()[-1]}"
        raise ValueError(text) from e
    except (AttributeError, KeyError, TypeError, ValueError, SyntaxError, RecursionError) as e:
        # ml_collections raises many kinds of bare errors for a config it cannot use, and so does
        # absl when it searches for flags similar to a very long one.
        raise ValueError(f"{_one_line(e)} (while reading --config)") from e


def run(
    main: Callable[..., int | None],
    argv: Sequence[str] | None = None,
    config: ConfigDict | None = None,
    *,
    arguments: bool = False,
) -> None:
    """Parse the flags and call main; an error becomes one line `error: ...` and exit code 2.

    With --debug the traceback is shown. Messages go to stderr, results to stdout.

    Args:
      main: returns the exit code; None: 0.
      argv: the command line; None: that of the process.
      config: for a command without --config FILE: what --config.KEY changes.
      arguments: `main` takes a list of the arguments that are no flags; otherwise they are refused.
    """
    open_streams()
    argv = expand_home(sys.argv if argv is None else argv)
    debug = "--debug" in argv

    def guarded(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except USER_ERRORS as e:
            if debug:
                raise
            full = isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)
            _fail(f"{e}: make room for what is written; the same command goes on" if full else e)
        except KeyboardInterrupt:
            _fail("interrupted", 130)
        except Exception as e:
            if not jax.distributed.is_initialized():
                raise
            # Collective operations fail if one of several processes is gone.
            if isinstance(e, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(e):
                _fail(f"another process was lost: {str(e)[:200]}", processes.RESTART)
            traceback.print_exc()
            processes.leave(1)

    def parse(args: Sequence[str]) -> list[str]:
        return guarded(lambda: parse_flags(args, config=config))

    logging.set_verbosity(logging.ERROR)  # of orbax, tfds and clu; --debug shows more
    if debug:
        logging.set_verbosity(logging.INFO)

    def call(rest: Sequence[str]) -> None:
        if arguments:
            sys.exit(main(list(rest[1:])) or 0)
        _call(main, rest)

    app.run(lambda rest: guarded(lambda: call(rest)), argv=argv, flags_parser=parse)


def _call(main: Callable[[], int | None], rest: Sequence[str]) -> None:
    if len(rest) > 1:
        raise ValueError(f"Unexpected argument {rest[1]!r}; every option begins with --.")
    sys.exit(main() or 0)


def _one_line(error: Any) -> str:
    return " ".join(str(error).split())


def _fail(error: Any, code: int = 2) -> NoReturn:
    with contextlib.suppress(OSError):  # nobody reads it any more
        print(f"error: {_one_line(error)}", file=sys.stderr, flush=True)
    processes.leave(code)
