"""timm's own augmentations, read as single files: importing timm takes seconds."""

import functools
import importlib.util
from pathlib import Path


@functools.cache
def timm_data(name):
    """The module timm.data.NAME."""
    folder = Path(importlib.util.find_spec("timm").origin).parent / "data"
    spec = importlib.util.spec_from_file_location(f"timm_data_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
