"""Export the encoder of a run for use elsewhere.

python -m byol_jax.export --workdir DIR --format orbax|timm|detectron2 --out DIR2
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from byol_jax import cli, log
from byol_jax.config import nearest
from byol_jax.convert.detectron2 import save_detectron2
from byol_jax.convert.native import save_encoder
from byol_jax.convert.timm import save_timm
from byol_jax.processes import check_devices
from byol_jax.run_folder import read_run

FORMATS = {"orbax": save_encoder, "timm": save_timm, "detectron2": save_detectron2}


def export(workdir: str | Path, kind: str, out: str | Path) -> None:
    """Export the encoder of a run's newest checkpoint.

    Args:
      workdir: folder of the run.
      kind: "orbax" (for byol_jax.load_encoder and init_from) "timm" (timm and torchvision) or
        "detectron2" (ResNets, for its backbones).
      out: a folder that does not exist yet.

    Raises:
      ValueError: no such format or run, the folder exists, or the format does not fit the encoder.
    """
    if kind not in FORMATS:
        raise ValueError(
            f"--format is {kind!r}; expected {' or '.join(FORMATS)}: {nearest(kind, FORMATS)}"
        )
    workdir, out = Path(workdir).expanduser(), Path(out).expanduser()
    check_devices()
    run = read_run(workdir)
    FORMATS[kind](out, run.params, run.stats, run.info)
    log.say(f"exported the encoder of step {run.info.step} to {out} ({kind})")


def main() -> int:
    """The command line."""
    for name in ("workdir", "out"):
        if not flags.FLAGS[name].value:
            raise ValueError(f"--{name} is missing; give a folder.")
    export(flags.FLAGS.workdir, flags.FLAGS.format, flags.FLAGS.out)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "folder of the run")
    flags.DEFINE_string("format", "orbax", "orbax, timm or detectron2")
    flags.DEFINE_string("out", "", "folder to write")
    flags.DEFINE_bool("debug", False, "show tracebacks and the libraries' logs")
    cli.run(main)
