"""From BYOL to SimCLR: predictor, target network, negatives (Grill et al. 2020, table 5b).

    python -m byol_jax.study --study configs/studies/byol_ablation.py --workdir studies/ablation

On the digits. beta is the weight of the negatives in the InfoNCE loss of the paper's appendix.
Without a target network the projections are their own targets, without a gradient; "gradient to
both" lets it through, as SimCLR does, and is the paper's row where there are negatives.
"""

from typing import Any

from byol_jax.study.plan import FEW_LABELS, LAST_ONLY, Row, Study

PUBLISHED = "ImageNet, linear, ResNet-50, 300 epochs (Grill et al. 2020, table 5b)"


def _target(name: str, published: float, **options: Any) -> Row:
    return Row(name, {f"byol.{k}": v for k, v in options.items()}, "byol", published)


def _alone(name: str, published: float | None, **options: Any) -> Row:
    return Row(name, {f"siamese.{k}": v for k, v in options.items()}, "siamese", published)


def get_study() -> Study:
    """The study."""
    negatives: dict[str, Any] = {"beta": 1.0, "temperature": 0.1}
    both: dict[str, Any] = {"stop_gradient": False}
    return Study(
        name="From BYOL to SimCLR",
        config="../digits.py",
        rows=[
            _target("BYOL", 72.5),
            _target("BYOL, negatives", 70.9, **negatives),
            _target("no predictor, negatives", 70.7, predictor=False, **negatives),
            _alone("negatives alone (SimCLR)", 69.4, predictor=False,
                   **negatives, **both),
            _alone("no target, negatives", 69.1, **negatives, **both),
            _alone("no target", 0.3),
            _alone("no target, gradient to both", None, **both),
            _target("no predictor", 0.2, predictor=False),
            _alone("no predictor, no target", 0.1, predictor=False, **both),
        ],
        # One rate for all parts: rows without a predictor cannot have one for it.
        overrides={**LAST_ONLY, "optimizer.lr_factors": ()},
        protocols={"fewshot": {}},
        columns=FEW_LABELS,
        shown="5 labels",
        published=PUBLISHED,
    )  # fmt: skip
