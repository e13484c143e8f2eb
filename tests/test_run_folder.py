"""What lies beside a run folder."""

import jax
import pytest

from byol_jax.run_folder import keep_compiled

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture(autouse=True)
def restored():
    before = {name: jax.config.values[name] for name in NAMES}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_compiled_programs_are_kept_beside_the_run(tmp_path, monkeypatch):
    """Fails if the cache moves with the folder from which the command is called."""
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled((tmp_path / "runs" / "one").relative_to(tmp_path))
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "runs" / ".jax_cache")
    assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] < 1


def test_a_set_place_wins(tmp_path):
    """Fails if JAX_COMPILATION_CACHE_DIR is overruled."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "set"))
    keep_compiled(tmp_path / "runs" / "one")
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "set")
