"""Features that are kept: the same figures from one pass, and never those of something else."""

import dataclasses
import os

import jax
import numpy as np
import pytest
from test_elsewhere import exported
from test_results import one_device  # noqa: F401

from byol_jax.convert.native import save_encoder
from byol_jax.evals import features
from byol_jax.evaluate import config_for_export
from byol_jax.experiment import cache, evaluation
from byol_jax.experiment.evaluation import open_eval_data
from byol_jax.run_folder import read_export


@pytest.fixture
def passes(monkeypatch):
    """The number of images in each pass over data."""
    found = []

    def counting(outputs, weights, batches, mesh, poll=lambda: None):
        result = features.extract(outputs, weights, batches, mesh, poll)
        found.append(len(result.rows))
        return result

    monkeypatch.setattr(evaluation, "extract", counting)
    return found


@pytest.mark.usefixtures("quick", "one_device")
def test_features_are_kept_and_never_out_of_date(tmp_path, passes, capsys):
    """Fails if kept features differ in a bit from those that are made, images that cannot be read
    are forgotten, or an image, a label or a view that changed is not seen.
    """
    random = np.random.RandomState(0)
    x, y = random.randint(0, 256, (21, 8, 8, 3)).astype(np.uint8), np.arange(21) % 2
    encoder = {"name": "tiny", "width": 0.25, "channels": 3}
    folder, _ = exported(tmp_path / "export", save_encoder, **encoder)
    config = config_for_export()
    config.data.name, config.data.dir, config.data.max_damaged = "npz", str(tmp_path / "x.npz"), 0.5
    config.eval.batch_size = 8
    kept = cache.Cache(tmp_path / "features", 2**20)

    def asked(kept=kept, **options):
        """The features of both parts, and how many images have been read for them."""
        passes.clear()
        for key, value in options.items():
            config.eval[key] = value
        np.savez(tmp_path / "x.npz", x_train=x[:11], y_train=y[:11], x_test=x[11:], y_test=y[11:])
        run = read_export(folder, config)
        data = dataclasses.replace(open_eval_data(run), cache=kept)
        test = dataclasses.replace(data.test, intact=np.arange(10) != 3)
        data = dataclasses.replace(data, test=test)
        start = run.params, run.stats
        found = [data.features(run.encoder, start, part) for part in (data.train, data.test)]
        assert data.damage[1].seen == {data.test.describe(3)}
        return found, list(passes)

    bare, reads = asked(None)
    assert (reads, kept.folder.exists()) == ([11, 9], False)
    made, reads = asked()
    files = sorted(kept.folder.iterdir())
    assert (reads, len(files)) == ([11, 9], 2)
    capsys.readouterr()
    taken, reads = asked()
    assert reads == []
    assert "features of 11 images taken from" in capsys.readouterr().err
    for others in (made, taken):
        for one, other in zip(bare, others, strict=True):
            arrays = [(*found[1:], found.outputs["h"]) for found in (one, other)]
            for a, b in zip(*arrays, strict=True):
                assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())
    # Another crop may change the last bits; other images and labels everything.
    assert asked(antialias=False)[1] == [11, 9]
    assert asked(antialias=True)[1] == []
    x[10, 7, 7, 2] ^= 1
    assert asked()[1] == [11]
    y[20] ^= 1
    assert asked()[1] == [9]
    # A file that is damaged is made anew; one that is foreign is not taken.
    assert len(list(kept.folder.iterdir())) == 6
    for i, file in enumerate(sorted(kept.folder.iterdir())):
        file.write_bytes(b"x" * 99)
        if i % 2:
            nothing = np.zeros(1, int)
            h = np.zeros((1, 3), np.float32)
            np.savez(file, h=h, labels=nothing, damaged=nothing, rows=nothing)
    assert asked()[1] == [11, 9]
    assert capsys.readouterr().err.count("cannot be used") == 2
    assert asked(cache.Cache(kept.folder, 100))[1] == [11, 9]  # larger than all that may be kept


def test_the_folder_stays_within_its_bound_and_is_never_half_written(tmp_path, monkeypatch):
    """Fails if the newest is removed, the bound is not kept, the file of a process that was killed
    stays for ever, or that of one that is at work goes.
    """
    found = features.Extracted({"h": np.ones((10, 25), np.float32)}, *(np.zeros(10, int),) * 3)
    for i in range(5):
        path = tmp_path / f"{i}.npz"
        cache._write(path, found, 8000)
        os.utime(path, (i, i))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.npz", "2.npz", "3.npz", "4.npz"]
    assert cache._read(tmp_path / "1.npz", 20, 25) is not None  # used: no longer the oldest
    assert cache._read(tmp_path / "3.npz", 20, 24) is None  # of another width
    os.utime(tmp_path / "3.npz", (3, 3))
    (tmp_path / "old.tmp").write_bytes(b"x")
    os.utime(tmp_path / "old.tmp", (0, 0))
    (tmp_path / "new.tmp").write_bytes(b"x")
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    cache._write(tmp_path / "5.npz", found, 8000)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["1.npz", "3.npz", "4.npz", "new.tmp"]


def test_a_name_is_that_of_weights_program_and_views():
    """Fails if one of them is left out of it."""
    spec = evaluation.EvalSpec(8, 8, (0.0,), (1.0,))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    two = jax.sharding.Mesh(np.array(jax.devices()[:2]).reshape(2, 1), ("data", "fsdp"))

    def program(factor):
        return jax.jit(lambda w, x: {"h": factor * x[:, :, 0, 0] * w["a"]})

    weights, once = {"a": np.float32(3)}, program(1)
    names = [
        cache._name(*arguments)
        for arguments in (
            (once, weights, "c", spec, 4, mesh),
            (once, {"a": weights["a"] * np.float32(1 + 1e-7)}, "c", spec, 4, mesh),
            (program(2), weights, "c", spec, 4, mesh),
            (once, weights, "d", spec, 4, mesh),
            (once, weights, "c", evaluation.EvalSpec(8, 9, (0.0,), (1.0,)), 4, mesh),
            (once, weights, "c", spec, 8, mesh),
            (once, weights, "c", spec, 4, two),
        )
    ]
    assert len(set(names)) == len(names)
    assert cache._name(program(1), weights, "c", spec, 4, mesh) == names[0]
