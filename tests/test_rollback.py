"""Rolling back: to the last checkpoint, and on without the stretch of data that did the damage."""

import dataclasses
import json

import few_digits
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import mesh
from byol_jax import train as command
from byol_jax.checkpoint import Checkpoints
from byol_jax.data.order import epoch_permutation
from byol_jax.events import read_events
from byol_jax.faults import TrainingError
from configs import digits

BATCH, STEPS = 16, few_digits.STEPS_PER_EPOCH


def config(**more):
    c = digits.get_config()
    c.epochs, c.log_every, c.checkpoint_every, c.evaluate_every = 2, 1, 2, 0
    c.encoder.width, c.byol.hidden, c.byol.out = 0.25, 16, 8
    c.data.placement, c.data.steps_per_dispatch = "stream", 0
    c.data.name, c.data.dir, c.batch_size = "npz", few_digits.path(), BATCH
    c.update(more)
    return c


def poisoned(index):
    """`build_step` whose step is not finite where a batch holds an example."""
    build = command.build_step

    def build_step(e, feed, constants):
        step = build(e, feed, constants)

        def poison(state, batch, key):
            state, metrics = step(state, batch, key)
            bad = jnp.where((batch["index"] == index).any(), jnp.nan, 0.0)
            params = dict(state.params)
            params["probe"] = {k: v + bad for k, v in params["probe"].items()}
            loss = metrics["train/loss"] + bad
            return dataclasses.replace(state, params=params), {**metrics, "train/loss": loss}

        return poison

    return build_step


@pytest.fixture
def bad_step(monkeypatch, quick):
    """An example that comes at step 6 of the first epoch poisons every batch it is in."""
    original = mesh.make_mesh
    monkeypatch.setattr(mesh, "make_mesh", lambda *_: original(jax.devices()[:1]))
    index = int(epoch_permutation(0, 0, few_digits.EXAMPLES)[5 * BATCH + 3])
    monkeypatch.setattr(command, "build_step", poisoned(index))
    return index


def last_state(folder):
    saved = Checkpoints(folder)
    step = saved.latest()
    out, meta = saved.arrays(step, ""), saved.meta(step)
    saved.close()
    return step, out, meta


def test_the_stretch_is_skipped_and_the_run_ends(tmp_path, bad_step, capsys):
    """Fails if the same data come again, or what is not finite gets into a checkpoint.

    Step 6 is not finite: back to step 4, and on with the data after step 6: two steps' worth are
    never trained on. The example comes again once an epoch.
    """
    assert command.train(config(rollbacks=5), tmp_path).code == 0
    step, arrays, meta = last_state(tmp_path)
    assert step == 2 * STEPS
    assert all(np.isfinite(x).all() for x in arrays.values() if x.dtype.kind == "f")
    events = read_events(tmp_path)
    back = [e for e in events if e["event"] == "rollback"]
    assert len(back) == meta["rollbacks"] >= 1
    assert back[0]["step"] == 4
    assert back[0]["position"] == 6 * BATCH
    skipped = sum(
        d["step"] - b["step"]
        for d, b in zip([e for e in events if e["event"] == "diverged"], back, strict=True)
    )
    assert arrays["position"] == (2 * STEPS + skipped) * BATCH
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, 2 * STEPS + 1))
    assert all(np.isfinite(r["train/loss"]) for r in rows)
    err = capsys.readouterr().err
    assert "rolling back (1 of at most 5)" in err
    assert "resumed from step 4" in err


def test_before_the_first_save_it_begins_anew(tmp_path, bad_step):
    """Fails if there must be a checkpoint to go back to."""
    assert command.train(config(rollbacks=5, checkpoint_every=50, epochs=1), tmp_path).code == 0
    back = [e for e in read_events(tmp_path) if e["event"] == "rollback"]
    assert (back[0]["step"], back[0]["position"]) == (0, 6 * BATCH)
    assert last_state(tmp_path)[1]["position"] > STEPS * BATCH


def test_at_most_so_many_times(tmp_path, bad_step):
    """Fails if a run that always diverges goes round for ever."""
    with pytest.raises(TrainingError, match="rolled back 1 times"):
        command.train(config(rollbacks=1), tmp_path)
    assert read_events(tmp_path)[-1]["event"] == "error"
    assert last_state(tmp_path)[0] >= 4
