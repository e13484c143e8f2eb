"""What is lost without some augmentations, BYOL beside SimCLR (Grill et al. 2020, figure 3b).

    python -m byol_jax.study --study configs/studies/byol_augmentations.py --workdir studies/removed
    python -m byol_jax.study --study configs/studies/byol_augmentations.py:cifar10 \\
        --workdir studies/removed_cifar --config.epochs=2

The argument is the data: the digits, of one channel, without what belongs to colours; or CIFAR-10,
to which neither recipe adds blur. Published: ImageNet, 300 epochs, second-hand.
"""

from typing import Any

from byol_jax.study.plan import LAST_ONLY, Row, Study

CROP: dict[str, Any] = {"jitter": 0.0, "grey": 0.0, "solarize": 0.0}
# Row -> fields of the views, and the published figures of BYOL and SimCLR.
REMOVED: dict[str, dict[str, tuple[dict[str, Any], float | None, float | None]]] = {
    "cifar10": {
        "all": ({}, 72.5, 67.9),
        "without grey": ({"grey": 0.0}, 70.3, 61.9),
        "without jitter": ({"jitter": 0.0}, 71.8, 63.7),
        "without colour (jitter and grey)": ({"jitter": 0.0, "grey": 0.0}, 63.4, 45.7),
        "crop and flip": (CROP, 60.1, 40.2),
        "crop": ({**CROP, "flip": 0.0}, 59.4, 40.3),
    },
    "digits": {
        "all": ({}, 72.5, 67.9),
        "without brightness and contrast": ({"jitter": 0.0}, 63.4, 45.7),
        "without rotation": ({"rotate": 0.0}, None, None),
        "crop": ({"jitter": 0.0, "rotate": 0.0}, 59.4, 40.3),
        "rotation": ({"jitter": 0.0, "area": (1.0, 1.0), "aspect": (1.0, 1.0)}, None, None),
    },
}
CONFIGS = {"cifar10": "../cifar10_cpu.py", "digits": "../digits.py"}


def get_study(data: str = "digits") -> Study:
    """The study on digits or cifar10.

    Raises:
      ValueError: on anything else.
    """
    if data not in REMOVED:
        raise ValueError(f"{data!r} has no such study; give one of {', '.join(REMOVED)}.")
    rows = [
        Row(
            f"{method}, {name}",
            {f"views.overrides.{k}": v for k, v in fields.items()},
            argument=method,
            published=figures[i],
        )
        for i, method in enumerate(("byol", "simclr"))
        for name, (fields, *figures) in REMOVED[data].items()
    ]
    return Study(
        name=f"Augmentations removed, {data}",
        config=CONFIGS[data],
        rows=rows,
        overrides=LAST_ONLY,
        protocols={"knn": {}} if data == "cifar10" else {"knn": {}, "fewshot": {}},
        columns={"kNN": "knn/top1", "probe": "metrics/probe/test_top1"}
        | ({} if data == "cifar10" else {"5 labels": "fewshot/5"}),
        shown="kNN" if data == "cifar10" else "5 labels",
        published="ImageNet, linear, ResNet-50, 300 epochs (Grill et al. 2020, figure 3b)",
    )
