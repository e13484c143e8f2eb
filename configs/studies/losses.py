"""SimCLR's losses, each with two settings (Chen et al. 2020, table 4; N-pair: Sohn 2016).

    python -m byol_jax.study --study configs/studies/losses.py --workdir studies/losses

On the digits. The paper's figure is that of the best setting of each loss, so the better of two
rows is the one to compare. Its losses have one negative; here they are means over all of them.
"""

from byol_jax.study.plan import FEW_LABELS, LAST_ONLY, Row, Study

LOSSES = (
    ("nt_logistic", "temperature", (0.2, 1.0), 51.6),
    ("nt_logistic_semi_hard", "temperature", (0.2, 1.0), 57.9),
    ("triplet", "margin", (0.4, 0.8), 50.9),
    ("triplet_semi_hard", "margin", (0.4, 0.8), 57.5),
    ("n_pair", "l2", (0.002,), None),
)


def get_study() -> Study:
    """The study."""
    return Study(
        name="SimCLR's losses",
        config="../digits.py",
        argument="simclr",
        rows=[
            Row("nt_xent", published=63.9),
            *(
                Row(
                    f"{loss}, {key} {value:g}",
                    # That of configs/digits.py is NT-Xent's, and refused where it is not read.
                    {"simclr.loss": loss, "simclr.temperature": 0.1, f"simclr.{key}": value},
                    published=figure,
                )
                for loss, key, values, figure in LOSSES
                for value in values
            ),
        ],
        overrides=LAST_ONLY,
        protocols={"fewshot": {}},
        columns=FEW_LABELS,
        shown="5 labels",
        published="ImageNet, linear, ResNet-50, 100 epochs (Chen et al. 2020, table 4)",
    )
