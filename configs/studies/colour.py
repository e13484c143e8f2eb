"""SimCLR by the strength of its colour distortion (Chen et al. 2020, table 1).

    python -m byol_jax.study --study configs/studies/colour.py --workdir studies/colour
    python -m byol_jax.study --study configs/studies/colour.py:cifar10 \\
        --workdir studies/colour_cifar --config.epochs=2

The argument is the data; the digits have one channel, and so brightness and contrast alone.
Published figures: second-hand.
"""

from typing import Any

from byol_jax.study.plan import LAST_ONLY, Row, Study

PUBLISHED = {"1/8": 59.6, "1/4": 61.0, "1/2": 62.6, "1": 63.2}
CONFIGS = {"cifar10": "../cifar10_cpu.py", "digits": "../digits.py"}


def _jitter(strength: float, data: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"brightness": 0.8 * strength, "contrast": 0.8 * strength}
    if data == "cifar10":
        fields |= {"saturation": 0.8 * strength, "hue": 0.2 * strength, "grey": 0.2}
    return {"jitter": 0.8, "brightness_scales": True, **fields}


def _share(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def get_study(data: str = "digits") -> Study:
    """The study on digits or cifar10.

    Raises:
      ValueError: on anything else.
    """
    if data not in CONFIGS:
        raise ValueError(f"{data!r} has no such study; give one of {', '.join(CONFIGS)}.")
    views = {name: (_jitter(_share(name), data), f) for name, f in PUBLISHED.items()}
    views["1, blur"] = ({**_jitter(1.0, data), "blur": 0.5}, 64.5)
    return Study(
        name=f"Strength of the colour distortion, {data}",
        config=CONFIGS[data],
        argument="simclr",
        rows=[
            Row(
                f"strength {name}",
                {f"views.overrides.{k}": v for k, v in fields.items()},
                published=figure,
            )
            for name, (fields, figure) in views.items()
        ],
        overrides=LAST_ONLY,
        protocols={"knn": {}} if data == "cifar10" else {"knn": {}, "fewshot": {}},
        columns={"kNN": "knn/top1"} | ({} if data == "cifar10" else {"5 labels": "fewshot/5"}),
        shown="kNN" if data == "cifar10" else "5 labels",
        published="ImageNet, linear, ResNet-50, 100 epochs (Chen et al. 2020, table 1)",
    )
