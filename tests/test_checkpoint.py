"""Checkpoints: bitwise, on other devices, the newest kept, and errors that name the array."""

import shutil

import fork_server
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import first_devices, named

from byol_jax.checkpoint import Checkpoints
from byol_jax.core import TrainState
from byol_jax.mesh import replicated


def make_state(step=0, devices=1, **extra):
    """A small state of many dtypes, its numbers a function of the step."""
    random = np.random.RandomState(step)
    params = {
        "encoder": {"conv1": {"kernel": random.randn(3, 3, 1, 2).astype(np.float32)}},
        "probe": {"bias": random.randn(4).astype(np.float32)},
        "low": jnp.asarray(random.randn(5), jnp.bfloat16),
    }
    extra = {"stats": {"encoder": {"bn1": {"mean": random.randn(2).astype(np.float32)}}}} | extra
    state = TrainState(np.int32(step), np.int32(8 * step), params, extra, (np.float32(step), {}))
    return jax.device_put(state, replicated(first_devices(devices)))


def shapes_of(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoint of step 7, saved from one device."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(7, make_state(7), {"epoch": 2, "damaged": [3, 5], "encoder": {"name": "tiny"}})
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


def same(a, b):
    a, b = named(a), named(b)
    assert a.keys() == b.keys()
    for k in a:
        assert a[k].dtype == b[k].dtype
        np.testing.assert_array_equal(a[k], b[k], err_msg=k)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_state_comes_back_bitwise_on_other_devices(saved, devices):
    """Fails if an array is lost or cast, or the devices of the save are needed."""
    sharding = replicated(first_devices(devices))
    back = saved.restore(7, shapes_of(make_state()), sharding)
    same(back, make_state(7))
    assert all(x.sharding == sharding for x in jax.tree.leaves(back))


def test_a_save_is_of_the_moment_it_is_called(tmp_path):
    """Fails if an array that the next step donates is read after save() returned."""
    checkpoints = Checkpoints(tmp_path)
    state = make_state(1, devices=4)
    checkpoints.save(1, state, {})
    jax.tree.map(lambda x: x.delete(), state)
    checkpoints.wait()
    same(
        checkpoints.restore(1, shapes_of(make_state()), replicated(first_devices(1))), make_state(1)
    )
    checkpoints.close()


def test_meta_comes_back(saved):
    """Fails if the JSON beside the arrays is lost."""
    assert saved.meta(7) == {"epoch": 2, "damaged": [3, 5], "encoder": {"name": "tiny"}}


def test_a_second_process_finds_the_latest(saved, tmp_path):
    """Fails if the steps are known to the saving manager alone."""
    again = Checkpoints(tmp_path)
    assert again.latest() == 7
    same(again.restore(7, shapes_of(make_state()), replicated(first_devices(1))), make_state(7))
    again.close()
    empty = Checkpoints(tmp_path / "new")
    assert empty.latest() is None
    empty.close()


def test_saving_a_step_again_keeps_it(saved):
    """Fails if a second save of a step raises, or replaces what is there."""
    saved.save(7, make_state(8), {})
    saved.wait()
    same(saved.restore(7, shapes_of(make_state()), replicated(first_devices(1))), make_state(7))


@pytest.mark.parametrize(("keep_every", "left"), [(0, [8, 10]), (4, [4, 8, 10])])
def test_the_newest_and_every_mth_are_kept(tmp_path, keep_every, left):
    """Fails if old ones pile up, or those to keep for good are deleted."""
    checkpoints = Checkpoints(tmp_path, keep=2, keep_every=keep_every)
    for step in (2, 4, 6, 8, 10):
        checkpoints.save(step, make_state(step), {})
    checkpoints.wait()
    checkpoints.close()
    on_disk = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert on_disk == left


def missing(state):
    del state.params["probe"]


def extra_one(state):
    state.extra["queue"] = np.zeros(3)


def other_shape(state):
    state.params["encoder"]["conv1"]["kernel"] = np.zeros((3, 3, 3, 2), np.float32)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (missing, "params/probe/bias"),
        (extra_one, "extra/queue"),
        (other_shape, "params/encoder/conv1/kernel"),
    ],
)
def test_arrays_that_do_not_fit_are_named(saved, change, name):
    """Fails if half a checkpoint is loaded in silence, or the message names no array."""
    like = jax.tree.map(np.asarray, make_state())
    change(like)
    with pytest.raises(ValueError, match=rf"Checkpoint 7.*1 arrays.*{name}.*another config"):
        saved.restore(7, like, replicated(first_devices(1)))


def test_only_the_first_few_are_named(saved):
    """Fails if an error lists a thousand arrays."""
    like = make_state(queue={str(i): np.zeros(1) for i in range(50)})
    with pytest.raises(ValueError, match=r"50 arrays") as e:
        saved.restore(7, like, replicated(first_devices(1)))
    assert str(e.value).count("extra/queue/") == 3


def test_what_a_killed_save_left_is_cleared(saved, tmp_path):
    """Fails if leftovers pile up, count as a checkpoint, or take a whole one with them."""
    left = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp-123"
    (left / "state").mkdir(parents=True)
    (left / "state" / "torn").write_text("half")
    Checkpoints(tmp_path).close()
    assert left.exists(), "another process may be saving"
    again = Checkpoints(tmp_path, clear=True)
    assert not left.exists()
    assert again.latest() == 7
    again.close()


def test_arrays_by_prefix(saved):
    """Fails if other arrays come along, or the names keep the prefix."""
    found = saved.arrays(7, "params/encoder/")
    assert found.keys() == {"conv1/kernel"}
    expected = named(make_state(7).params["encoder"])["conv1/kernel"]
    np.testing.assert_array_equal(found["conv1/kernel"], expected)
    assert isinstance(found["conv1/kernel"], np.ndarray)
    stats = saved.arrays(7, "extra/stats/encoder/")
    np.testing.assert_array_equal(
        stats["bn1/mean"], make_state(7).extra["stats"]["encoder"]["bn1"]["mean"]
    )


# Damage on disk. Orbax restores a flipped bit in silence: of 96 flips 93 came back as numbers.


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints of steps 7 and 9."""
    checkpoints = Checkpoints(tmp_path)
    for step in (7, 9):
        checkpoints.save(step, make_state(step), {"damaged": []})
        checkpoints.wait()
    checkpoints.close()
    return tmp_path


def flip(path):
    data = bytearray(path.read_bytes() or b"x")
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] if data else b"more")


DAMAGE = {
    "flipped": flip,
    "cut": cut,
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_file_is_watched(two, kind):
    """Fails if a file of a checkpoint can change without being noticed."""
    folder = two / "checkpoints" / "9"
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    later = ("_CHECKPOINT_METADATA", "commit_success.txt")  # they hold none of our numbers
    watched = [p for p in files if str(p) not in later]
    assert len(watched) >= 6
    assert any("ocdbt" in str(p) for p in watched)
    checkpoints = Checkpoints(two)
    assert checkpoints.newest_good() == (9, [])
    for name in watched:
        before = (folder / name).read_bytes()
        DAMAGE[kind](folder / name)
        step, wrong = checkpoints.newest_good()
        assert step == 7, name
        assert len(wrong) == 1
        assert "checkpoint 9 is damaged" in wrong[0]
        (folder / name).write_bytes(before)
    assert checkpoints.newest_good() == (9, [])
    checkpoints.close()


def test_a_damaged_checkpoint_is_set_aside_and_can_be_saved_again(two):
    """Fails if Orbax takes the damaged folder for the step that is to be saved."""
    flip(two / "checkpoints" / "9" / "manifest.json")
    checkpoints = Checkpoints(two)
    assert checkpoints.newest_good(set_aside=True)[0] == 7
    assert (two / "checkpoints" / "damaged-9").is_dir()
    same(
        checkpoints.restore(7, shapes_of(make_state()), replicated(first_devices(1))), make_state(7)
    )
    checkpoints.save(9, make_state(9), {"damaged": []})
    checkpoints.wait()
    assert checkpoints.newest_good() == (9, [])
    checkpoints.close()
    again = Checkpoints(two)
    assert again.newest_good() == (9, [])
    again.close()


def test_where_all_are_damaged_none_is_taken(two):
    """Fails if the last hope is taken unseen, or an empty folder counts."""
    for step in (7, 9):
        for path in (two / "checkpoints" / str(step)).rglob("manifest.json"):
            path.unlink()
    (two / "checkpoints" / "11").mkdir()
    for _ in range(2):  # and the second start must not find an empty folder
        checkpoints = Checkpoints(two)
        step, wrong = checkpoints.newest_good(set_aside=True)
        assert step is None
        assert [w.split()[1] for w in wrong] == ["11", "9", "7"]
        checkpoints.close()


# A disk without room.


def test_a_save_that_would_not_fit_is_refused_ahead(saved, tmp_path, monkeypatch):
    """Fails if the disk is filled up before it is looked at."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(ValueError, match=r"takes 0\.00195 GiB.*has 0\.000977 GiB free.*Free some"):
        saved.save(9, make_state(9), {})
    monkeypatch.undo()
    assert saved.latest() == 7
    saved.save(9, make_state(9), {})
    saved.wait()
    assert saved.latest() == 9


def test_a_start_looks_at_the_disk_by_shapes_alone(saved, tmp_path, monkeypatch):
    """Fails if shapes count as nothing: a run would train until its first save."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**29))
    weights = {"w": jax.ShapeDtypeStruct((2**28,), np.float32)}
    scalar = jax.ShapeDtypeStruct((), np.int32)
    with pytest.raises(ValueError, match=r"takes 1\.1 GiB.*has 0\.5 GiB free"):
        saved.check_room(TrainState(scalar, scalar, weights, {}, {}))


FULL = """
import pathlib, resource, signal, sys
import numpy as np
from byol_jax.checkpoint import Checkpoints
from byol_jax.core import TrainState

def state(step):
    numbers = np.random.RandomState(step).randn(200_000)
    return TrainState(np.int32(step), np.int32(0), {"w": numbers}, {}, {})

saved = Checkpoints(pathlib.Path(sys.argv[1]))
saved.save(1, state(1), {})
saved.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    saved.save(2, state(2), {})
    saved.wait()
except OSError as e:
    print("refused:", e)
print("newest", saved.newest_good())
"""


def test_a_save_that_fails_leaves_nothing_and_says_so(tmp_path):
    """Fails if a torn folder stays, counts as a checkpoint, or the failure is kept quiet."""
    done = fork_server.run("-c", FULL, tmp_path)
    assert "refused: A checkpoint could not be saved in" in done.stdout, done.stderr
    assert "The newest is step 1" in done.stdout
    assert done.stdout.endswith("newest (1, [])\n")
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
