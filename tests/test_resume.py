"""A run killed at any moment and started again ends bitwise equal to one never stopped."""

import json
import random
import signal
import time

import few_digits
import fork_server
import jax
import numpy as np
import pytest

from byol_jax.checkpoint import Checkpoints

STEPS = 40


def command(workdir, *more):
    return [
        *("-m", "byol_jax.train"),
        *("--config", "configs/digits.py", "--workdir", str(workdir)),
        *("--config.epochs=4", "--config.log_every=1", "--config.checkpoint_every=9"),
        *("--config.keep=2", "--config.evaluate_every=2", "--config.encoder.width=0.25"),
        *few_digits.flags(),
        *more,
    ]


def start(workdir, *more, stderr=fork_server.PIPE):
    return fork_server.Process(*command(workdir, *more), stderr=stderr)


def finish(workdir, *more):
    process = start(workdir, *more)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


def arrays(workdir):
    saved = Checkpoints(workdir)
    assert saved.latest() == STEPS
    out = saved.arrays(STEPS, "")
    saved.close()
    return out


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def steps_done(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


# The demo's placement, and views made by tf.data on the host.
STREAM = ("--config.data.placement=stream", "--config.views.placement=host")
STREAM_DEVICE = ("--config.data.placement=stream", "--config.data.steps_per_dispatch=0")
PLACEMENTS = {"resident": (), "stream": STREAM, "stream, device views": STREAM_DEVICE}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder)
    return folder


@pytest.fixture(scope="module", params=PLACEMENTS)
def placed(request, tmp_path_factory, undisturbed):
    """(What places the data, an undisturbed run of it)."""
    more = PLACEMENTS[request.param]
    folder = undisturbed
    if more:
        folder = tmp_path_factory.mktemp("placed")
        finish(folder, *more)
    return more, folder


def assert_equal(workdir, undisturbed):
    ours, theirs = arrays(workdir), arrays(undisturbed)
    assert ours.keys() == theirs.keys()
    assert any("momentum" in k or "trace" in k for k in ours), "the optimizer's state is saved"
    assert any(k.startswith("extra/target") for k in ours)
    assert any(k.startswith("params/probe") for k in ours)
    different = [k for k in ours if not np.array_equal(ours[k], theirs[k])]
    assert different == []
    assert rows(workdir) == rows(undisturbed)


def test_killed_at_random_moments(tmp_path, placed):
    """Fails if any state, or the place in the data order, is not saved or not restored."""
    more, folder = placed
    random.seed(0)
    kills = 0
    targets = [random.randint(1, 8), random.randint(14, 24), random.randint(28, 38)]
    targets = targets[1:2] if more else targets
    for target in targets:
        process = start(tmp_path, *more)
        while steps_done(tmp_path) < target and process.poll() is None:
            time.sleep(0.01)
        # Anywhere between two steps, or in a save.
        time.sleep(random.random() * 0.1)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills == len(targets)
    assert "resumed from step" in finish(tmp_path, *more)
    assert_equal(tmp_path, folder)


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, undisturbed):
    """Fails if a stop loses steps, or exits as if the run were complete."""
    process = start(tmp_path)
    while steps_done(tmp_path) < 10:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    saved = Checkpoints(tmp_path)
    step = saved.latest()
    saved.close()
    assert 10 <= step < STEPS
    assert f"saved step {step}" in err
    assert f"resumed from step {step}" in finish(tmp_path)
    assert_equal(tmp_path, undisturbed)


def test_sigterm_in_an_evaluation_is_heeded_and_its_row_made_again(tmp_path, undisturbed):
    """Fails if an evaluation must end first, or the row that it belongs to is lost."""
    with (tmp_path / "said").open("w") as said:
        process = start(tmp_path / "run", stderr=said)
    while "evaluating (kNN) ..." not in (tmp_path / "said").read_text():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 128 + signal.SIGTERM
    assert [r["step"] for r in rows(tmp_path / "run")] == list(range(1, 20))
    assert "resumed from step 20" in finish(tmp_path / "run")
    assert_equal(tmp_path / "run", undisturbed)


def test_another_config_is_refused_and_some_keys_may_change(undisturbed):
    """Fails if a changed key is taken over in silence, or log_every is refused."""
    process = start(undisturbed, "--config.optimizer.lr=0.3")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "optimizer.lr: 0.2 -> 0.3" in err
    finish(undisturbed, "--config.log_every=5", "--config.keep=3")
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["optimizer"]["lr"] == 0.2


def test_the_saved_state_fits_another_number_of_devices(undisturbed):
    """Fails if the sharding of the saving run is baked in."""
    from byol_jax.mesh import make_mesh, replicated

    saved = Checkpoints(undisturbed)
    like = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in saved.arrays(STEPS, "").items()}
    mesh = make_mesh(jax.devices()[:4])
    restored = saved.restore(STEPS, like, replicated(mesh))
    saved.close()
    assert all(x.sharding.mesh == mesh for x in restored.values())
