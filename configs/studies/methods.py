"""Every method with the same encoder, views and images.

    python -m byol_jax.study --study configs/studies/methods.py --workdir studies/methods

On the digits, which have a recipe for each; `configs/cifar10_cpu.py` has one for most
(methods.py:byol,simclr are rows of a smaller table).
Published figures: none that all of these have in common at this scale.
"""

from byol_jax.study.plan import FEW_LABELS, LAST_ONLY, Row, Study

METHODS = (
    *("byol", "siamese", "simclr", "supcon", "barlow", "vicreg", "moco", "mocov3", "simsiam"),
    *("nnclr", "swav", "dino", "npid", "mae", "rotation", "jigsaw", "inpainting"),
)


def get_study(names: str = ",".join(METHODS)) -> Study:
    """The study of some methods, with commas between them."""
    return Study(
        name="Every method",
        config="../digits.py",
        rows=[Row(name, argument=name) for name in names.split(",")],
        overrides=LAST_ONLY,
        protocols={"fewshot": {}},
        columns={"probe": "metrics/probe/test_top1", **FEW_LABELS},
        shown="5 labels",
    )
