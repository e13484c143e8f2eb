"""Pre-train image encoders without labels: BYOL and its relatives, from a laptop to a TPU pod."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder"]


def __getattr__(name: str) -> Any:
    # Lazily, so that importing one module does not import JAX and Orbax for all of them.
    if name == "load_encoder":
        from byol_jax.convert.load import load_encoder

        return load_encoder
    raise AttributeError(f"module 'byol_jax' has no attribute {name!r}")
