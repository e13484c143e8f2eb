"""Every method on CIFAR-10 with the same encoder, views and number of images, on a laptop.

    python -m byol_jax.study --study configs/studies/cifar10.py --workdir studies/cifar10 \\
        --seeds 0 [--config.data.dir=/path/to/tensorflow_datasets]
    python -m byol_jax.study --study configs/studies/cifar10.py:byol,simclr,moco,vicreg \\
        --workdir studies/cifar10_seeds

100,000 images each, which is two epochs: five to seven minutes of two cores per run. The recipes
are those of configs/cifar10_cpu.py. "10,000 labels" is logistic regression on the frozen features
of so many training images; kNN has all 50,000. Published figures: none that all have in common.
"""

from byol_jax.study.plan import LAST_ONLY, Row, Study

METHODS = (
    *("byol", "siamese", "simclr", "supcon", "barlow", "vicreg", "moco", "mocov3", "simsiam"),
    *("nnclr", "swav", "dino", "npid"),
)
# Raw pixels would take longer than all else.
JUDGED = {
    "eval.shots": (10,),
    "eval.draws": 3,
    "eval.train_examples": 10_000,
    "eval.pixels": False,
}


def get_study(names: str = ",".join(METHODS)) -> Study:
    """The study of some methods, with commas between them."""
    return Study(
        name="Every method on CIFAR-10",
        config="../cifar10_cpu.py",
        rows=[Row(name, argument=name) for name in names.split(",")],
        overrides={**LAST_ONLY, "epochs": 2},
        protocols={"fewshot": JUDGED},
        columns={
            "kNN": "metrics/knn/test_top1",
            "10 labels per class": "fewshot/10",
            "10,000 labels": "fewshot/all",
            "std of z": "metrics/features/z_std",
        },
        shown="10,000 labels",
    )
