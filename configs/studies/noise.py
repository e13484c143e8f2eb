"""NPID's negatives: noise-contrastive estimation with K, and the softmax (Wu et al. 2018, table 1).

    python -m byol_jax.study --study configs/studies/noise.py --workdir studies/noise

On the digits. As long as all embeddings are alike, the gradients of K negatives are hundreds of
times those of the softmax; all rows clip them.
"""

from byol_jax.study.plan import FEW_LABELS, LAST_ONLY, Row, Study

PUBLISHED = {1: 42.5, 10: 63.4, 512: 78.4, 4096: 80.4, 0: 80.8}


def get_study() -> Study:
    """The study."""
    return Study(
        name="NPID's negatives",
        config="../digits.py",
        argument="npid",
        rows=[
            Row(f"K {k}" if k else "softmax", {"npid.negatives": k}, published=figure)
            for k, figure in PUBLISHED.items()
        ],
        overrides={**LAST_ONLY, "optimizer.clip_norm": 1.0},
        protocols={"fewshot": {}},
        columns=FEW_LABELS,
        shown="kNN",
        published="CIFAR-10, kNN, ResNet-18, 200 epochs (Wu et al. 2018, table 1)",
    )
