"""Augmentations alone and in pairs, on one branch (Chen et al. 2020, figure 5).

    python -m byol_jax.study --study configs/studies/augmentations.py --workdir studies/pairs
    python -m byol_jax.study --study configs/studies/augmentations.py:cifar10 \\
        --workdir studies/pairs_cifar --config.epochs=1

The argument is the data. The first view is transformed, the second is the whole image
(`views.one_branch`). NOTE: in the paper both start from one random crop, since its images are of
different sizes; and the order of a pair matters there, which here is always that of a view
(docs/studies.md), so that half of the matrix is enough. Sobel and noise are left out.
The paper's finding: of single ones none is good, and crop with colour is the best pair.
"""

from typing import Any

from byol_jax.study.plan import LAST_ONLY, Row, Study

CROP = {"aspect": (3 / 4, 4 / 3)}
CUTOUT = {"erase": 1.0, "erase_area": (0.05, 0.25)}
# Transformation -> fields of the view.
TRANSFORMS: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {
        "crop": {**CROP, "area": (0.35, 1.0)},
        "cutout": CUTOUT,
        "colour": {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4},
        "blur": {"blur": 1.0},
        "rotate": {"rotate": 17.0},
    },
    "cifar10": {
        "crop": {**CROP, "area": (0.2, 1.0)},
        "cutout": CUTOUT,
        "colour": {"jitter": 0.8, "grey": 0.2},
        "blur": {"blur": 1.0},
        "rotate": {"rotate": 45.0},
    },
}
NONE: dict[str, Any] = {
    **{"area": (1.0, 1.0), "aspect": (1.0, 1.0), "flip": 0.0, "rotate": 0.0},
    **{"jitter": 0.0, "grey": 0.0, "blur": 0.0, "solarize": 0.0},
}
CONFIGS = {"cifar10": "../cifar10_cpu.py", "digits": "../digits.py"}


def get_study(data: str = "digits") -> Study:
    """The study on digits or cifar10.

    Raises:
      ValueError: on anything else.
    """
    if data not in CONFIGS:
        raise ValueError(f"{data!r} has no such study; give one of {', '.join(CONFIGS)}.")
    transforms = TRANSFORMS[data]
    names = list(transforms)
    rows = []
    for i, first in enumerate(names):
        for second in names[i:]:
            fields = {**NONE, **transforms[first], **transforms[second]}
            overrides = {f"views.overrides.{k}": v for k, v in fields.items()}
            name = first if first == second else f"{first} and {second}"
            rows.append(Row(name, overrides, cell=(first, second)))
    return Study(
        name=f"Augmentations of one branch, {data}",
        config=CONFIGS[data],
        argument="simclr",
        rows=rows,
        overrides={**LAST_ONLY, "views.one_branch": True},
        protocols={"knn": {}} if data == "cifar10" else {"knn": {}, "fewshot": {}},
        columns={"kNN": "knn/top1"} | ({} if data == "cifar10" else {"5 labels": "fewshot/5"}),
        shown="kNN" if data == "cifar10" else "5 labels",
    )
