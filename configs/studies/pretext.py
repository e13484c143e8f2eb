"""Pretext tasks on CIFAR-10: easier puzzles beside harder ones, and what each stage learns.

    python -m byol_jax.study --study configs/studies/pretext.py --workdir studies/pretext \\
        [--seeds 0] [--config.data.dir=/path/to/tensorflow_datasets]
    python -m byol_jax.study --study configs/studies/pretext.py:rotation,jigsaw \\
        --workdir studies/two

50,000 images each, which is one epoch: three to six minutes of two cores per run. The argument is
the rows' names, with commas between them. "Right" is the share of right answers about test images
(chance: rotation 25, relative 12.5, jigsaw 4.2 percent; of colorization, of the right bin among
all pixels), "dB" the peak signal-to-noise ratio in inpainting's hole, "relative" the right answers
about places in `several`; the stages are logistic regression on 10,000 images, global means of the
maps. Published: Doersch et al. 2015 and Noroozi and Favaro 2016
say that networks solve these puzzles by edges that continue and by the lens's colour shifts, and
then learn less; no figure is comparable.
"""

from typing import Any

from byol_jax.study.plan import LAST_ONLY, Row, Study

# Row -> method, overrides.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "rotation": ("rotation", {}),
    "relative": ("relative", {}),
    "relative-touching": ("relative", {"relative.tile": 10, "relative.jitter": 0}),
    "relative-dropped": ("relative", {"relative.drop": True}),
    "jigsaw": ("jigsaw", {}),
    "jigsaw-touching": (
        "jigsaw",
        {"jigsaw.tile": 16, "jigsaw.jitter": 0, "jigsaw.shift": 0, "jigsaw.normalise": False},
    ),
    "inpainting": ("inpainting", {}),
    "colorization": ("colorization", {}),
    "several": ("several", {}),
    "simclr": ("simclr", {"eval.task": 0}),
}
STAGES = {"eval.penalties": 5, "eval.train_examples": 10_000}


def get_study(names: str = ",".join(ROWS)) -> Study:
    """The study of some rows, with commas between their names.

    Raises:
      ValueError: there is no row of a name.
    """
    unknown = [n for n in names.split(",") if n not in ROWS]
    if unknown:
        raise ValueError(f"There is no row {unknown[0]!r}; give some of {', '.join(ROWS)}.")
    rows = []
    for name in names.split(","):
        method, overrides = ROWS[name]
        rows.append(Row(name, {"eval.task": 1, **overrides}, argument=method))
    return Study(
        name="Pretext tasks on CIFAR-10",
        config="../cifar10_cpu.py",
        rows=rows,
        overrides={**LAST_ONLY, "epochs": 1},
        protocols={"stages": STAGES},
        columns={
            "right": "metrics/task/test_top1",
            "dB": "metrics/task/test_psnr",
            "relative": "metrics/relative/test_top1",
            **{f"stage {i}": f"stages/{i}" for i in (1, 2, 3)},
        },
        shown="stage 3",
    )
