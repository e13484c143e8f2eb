"""BYOL's target network: fixed, moving at several rates, or none (Grill et al. 2020, table 5a).

    python -m byol_jax.study --study configs/studies/byol_target.py --workdir studies/target

On the digits. tau is constant, but for the recipe's own, which rises to 1; it is fast there, since
a run has 600 steps. Published figures: ImageNet, linear, ResNet-50, 300 epochs; the recipe's target
starts from 0.99 there, and the others rise to 1 too.
"""

from byol_jax.study.plan import FEW_LABELS, LAST_ONLY, Row, Study


def get_study() -> Study:
    """The study."""
    published = {1.0: 18.8, 0.999: 69.8, 0.99: 72.5, 0.9: 68.4, 0.0: 0.3}
    return Study(
        name="BYOL's target",
        config="../digits.py",
        argument="byol",
        rows=[
            Row(
                "cosine from tau 0.9 (the recipe)",
                {"byol.tau": 0.9, "byol.tau_schedule": "cosine"},
            ),
            *(
                Row(
                    f"tau {tau:g}" + {1.0: ", fixed", 0.0: ", no average"}.get(tau, ""),
                    {"byol.tau": tau, "byol.tau_schedule": "constant"},
                    published=figure,
                )
                for tau, figure in published.items()
            ),
        ],
        overrides=LAST_ONLY,
        protocols={"fewshot": {}},
        columns=FEW_LABELS,
        shown="5 labels",
        published="ImageNet, linear, ResNet-50, 300 epochs (Grill et al. 2020, table 5a)",
    )
