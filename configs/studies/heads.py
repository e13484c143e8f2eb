"""SimCLR's projector: none, linear, an MLP (Chen et al. 2020, figure 8).

    python -m byol_jax.study --study configs/studies/heads.py --workdir studies/heads

On the digits. The published figures are read off a chart, and hardly depend on the width.
"""

from byol_jax.study.plan import FEW_LABELS, LAST_ONLY, Row, Study


def get_study() -> Study:
    """The study."""
    return Study(
        name="SimCLR's projector",
        config="../digits.py",
        argument="simclr",
        rows=[
            Row("none", {"simclr.layers": 0}, published=50.0),
            Row("linear", {"simclr.layers": 1}, published=60.0),
            Row("MLP, 2 layers", {"simclr.layers": 2}, published=63.0),
            Row("MLP, 3 layers", {"simclr.layers": 3}),
        ],
        overrides=LAST_ONLY,
        protocols={"fewshot": {}},
        columns=FEW_LABELS,
        shown="5 labels",
        published="about, ImageNet, linear, ResNet-50, 100 epochs (Chen et al. 2020, figure 8)",
    )
