"""The loop: when it logs, saves, evaluates and stops. The step is a counter, no network."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import log
from byol_jax.core import TrainState
from byol_jax.faults import Damage, Diverged, TrainingError
from byol_jax.loop import Hooks, Options, Program, fit
from byol_jax.mesh import make_mesh
from byol_jax.watch import RunMonitor, Stop

ROWS = 8


def batches(damaged_at=(), start=0):
    """Endless batches; batch k has index 10 k .. 10 k + 7, row 3 damaged where asked."""
    k = start
    while True:
        mask = np.ones(ROWS, np.float32)
        if k in damaged_at:
            mask[3] = 0
        index = np.arange(ROWS, dtype=np.int32) + 10 * k
        yield {"views": np.zeros((ROWS, 1), np.float32), "index": index, "mask": mask}
        k += 1


def state(step=0):
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero + step, zero + step * ROWS, {"w": jnp.zeros(2)}, {}, {})


def make_step(loss=lambda step: 1.0, norm=lambda step: 1.0, z_std=lambda step: 1.0):
    """A step whose metrics are functions of the number of the step just done."""

    def step_fn(s, batch, key):
        n = int(s.step) + 1
        values = {"train/loss": loss(n), "train/grad_norm": norm(n), "features/z_std": z_std(n)}
        new = TrainState(s.step + 1, s.position + ROWS, s.params, s.extra, s.opt_state)
        return new, {k: jnp.float32(v) for k, v in values.items()}

    return step_fn


class Record:
    """Hooks that remember what was called."""

    def __init__(self):
        self.saved, self.rows, self.evaluated, self.saved_rows = [], {}, [], {}

    def hooks(self):
        def evaluate(s, poll):
            poll()
            self.evaluated.append(int(s.step))
            return {"knn/test_top1": 50.0}

        def write(step, row):
            self.rows[step] = row

        def last():
            return self.saved[-1] if self.saved else None

        def save(step, _, row):
            self.saved.append(step)
            self.saved_rows[step] = row

        return Hooks(evaluate, save, write, last)


def run(step_fn, options, feed=None, record=None, *, start=None, damage=None, stop=None, owed=None):
    record = record or Record()
    one = make_mesh(jax.devices()[:1])
    out = fit(
        state() if start is None else start,
        Program(step_fn, feed or batches(), jax.random.key(0), one),
        options,
        dataclasses.replace(record.hooks(), damage=damage),
        None if stop is None else RunMonitor(stop),
        owed,
    )
    return out, record


def test_rows_saves_and_evaluations_come_at_their_steps():
    """Fails if a row is written a step late, or the last step is not saved."""
    options = Options(10, ROWS, log_every=4, checkpoint_every=3, evaluate_every=5)
    out, record = run(make_step(loss=float), options)
    assert int(out.step) == 10
    assert record.saved == [3, 6, 9, 10]
    assert sorted(record.rows) == [4, 5, 8, 10]
    assert record.evaluated == [5, 10]
    assert all(row["train/loss"] == step for step, row in record.rows.items())
    assert "knn/test_top1" in record.rows[5]
    assert "knn/test_top1" not in record.rows[4]
    assert all("time/steps_per_dispatch" in row for row in record.rows.values())


@pytest.mark.parametrize("key", ["loss", "norm"])
def test_a_step_that_is_not_finite_is_never_saved(key):
    """Fails if the check of a step comes after its save."""
    bad = {key: lambda n: float("nan") if n == 6 else 1.0}
    record = Record()
    with pytest.raises(TrainingError, match=r"Step 6: .* is nan; the last good checkpoint is .* 3"):
        run(make_step(**bad), Options(10, ROWS, checkpoint_every=3), record=record)
    assert record.saved == [3]


def make_steps(sizes, **metrics):
    """What `make_step` makes, as several steps a dispatch; remembers how many each call took."""
    one = make_step(**metrics)

    def steps(s, batches, key):
        count, most = int(batches["count"]), len(batches["index"])
        sizes.append(count)
        rows = []
        for i in range(count):
            assert int(batches["index"][i][0]) == 10 * int(s.step)
            s, found = one(s, None, key)
            rows.append(found)
        return s, {k: jnp.stack([r[k] for r in rows] + [0.0] * (most - count)) for k in rows[0]}

    return steps


def test_dispatches_end_at_rows_saves_and_evaluations():
    """Fails if a dispatch runs past a row, a save, an evaluation or the end, or reads too far."""
    sizes = []
    options = Options(
        13, ROWS, log_every=4, checkpoint_every=6, evaluate_every=9, steps_per_dispatch=3
    )
    out, record = run(make_steps(sizes, loss=float), options)
    assert sizes == [3, 1, 2, 2, 1, 3, 1]
    assert int(out.step) == 13
    assert record.saved == [6, 12, 13]
    assert sorted(record.rows) == [4, 8, 9, 12, 13]
    assert all(row["train/loss"] == step for step, row in record.rows.items())
    assert record.evaluated == [9, 13]
    sizes.clear()
    run(make_steps(sizes), options, batches(start=5), start=state(5))
    assert sizes == [1, 2, 1, 3, 1]


def test_a_step_that_is_not_finite_inside_of_a_dispatch_is_named():
    """Fails if only the last step of a dispatch is looked at, or the padding is."""
    steps = make_steps([], loss=lambda n: float("inf") if n == 5 else 1.0)
    record = Record()
    options = Options(9, ROWS, log_every=0, checkpoint_every=3, steps_per_dispatch=4)
    with pytest.raises(TrainingError, match=r"Step 5: train/loss is inf; .* step 3"):
        run(steps, options, record=record)
    assert record.saved == [3]


def test_a_step_that_is_not_finite_between_saves_is_noticed():
    """Fails if only the metrics of saved steps are looked at."""
    record = Record()
    with pytest.raises(TrainingError, match="Step 4"):
        run(make_step(loss=lambda n: np.inf if n == 4 else 1.0), Options(10, ROWS), record=record)
    assert record.saved == []


def test_collapse_warns_once_and_stops_where_asked(capsys):
    """Fails if the threshold is compared the other way round, or the option is not read."""
    step = make_step(z_std=lambda n: 0.01 if n > 2 else 1.0)
    run(step, Options(6, ROWS, collapse_threshold=0.1))
    assert capsys.readouterr().err.count("COLLAPSE at step 3") == 1
    with pytest.raises(TrainingError, match="COLLAPSE at step 3"):
        run(step, Options(6, ROWS, collapse_threshold=0.1, collapse_stop=True))
    run(make_step(), Options(6, ROWS, collapse_threshold=0.1))
    assert "COLLAPSE" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(number):
    """Fails if the flag is looked at only every checkpoint, or the state is not saved."""

    def step_fn(s, batch, key):
        if int(s.step) == 4:
            os.kill(os.getpid(), number)
        return make_step()(s, batch, key)

    before = signal.getsignal(number)
    with Stop().listen() as stop:
        out, record = run(step_fn, Options(100, ROWS, checkpoint_every=50), stop=stop)
    assert stop.signal == number
    assert record.saved == [int(out.step)] == [5]
    assert signal.getsignal(number) is before


def test_a_stop_in_an_evaluation_saves_and_owes_the_row():
    """Fails if an evaluation holds a stop up, its step is lost, or its row is never written."""
    stop = Stop()

    class Long(Record):
        def hooks(self):
            def evaluate(s, poll):
                stop.signal = signal.SIGTERM
                for _ in range(3):
                    poll()
                raise AssertionError("the evaluation went on")

            return dataclasses.replace(super().hooks(), evaluate=evaluate)

    options = Options(10, ROWS, log_every=5, evaluate_every=5)
    out, record = run(make_step(loss=float), options, record=Long(), stop=stop)
    assert record.saved == [int(out.step)] == [5]
    assert record.rows == {}
    row = record.saved_rows[5]
    assert row["train/loss"] == 5.0
    # The next start evaluates, and writes the row as if nothing had happened.
    _, again = run(make_step(loss=float), options, batches(start=5), start=state(5), owed=row)
    assert again.evaluated == [5, 10]
    assert again.rows[5] == row | {"knn/test_top1": 50.0, "time/steps_per_dispatch": 1}


def test_a_signal_while_a_step_is_checked_saves_it():
    """Fails if the loop stops at a step that it was not going to save. (Save only if `saving`.)"""
    stop = Stop()

    class Late(Damage):
        def add(self, indices):
            self.seen.add(len(self.seen))
            if len(self.seen) == 2:
                stop.signal = signal.SIGTERM

    late = Late(9, str)
    options = Options(10, ROWS, evaluate_every=2)
    out, record = run(make_step(), options, damage=late, stop=stop)
    assert record.saved == [int(out.step)] == [2]
    assert record.evaluated == []


def test_a_row_is_saved_before_it_is_evaluated():
    """Fails if a kill in an evaluation loses the step before it, which was to be saved."""
    order = []

    class Ordered(Record):
        def hooks(self):
            hooks = super().hooks()

            def note(name, call):
                return lambda *a: (
                    order.append((name, int(a[0].step) if name == "evaluate" else a[0])),
                    call(*a),
                )[1]

            return dataclasses.replace(
                hooks,
                evaluate=note("evaluate", hooks.evaluate),
                save=note("save", hooks.save),
                write=note("write", hooks.write),
            )

    run(make_step(), Options(4, ROWS, log_every=4, checkpoint_every=2), record=Ordered())
    assert order == [("save", 2), ("save", 4), ("evaluate", 4), ("write", 4)]


def test_an_owed_row_of_a_finished_run_is_written():
    """Fails if a run that was killed in its last evaluation is taken for complete."""
    _, record = run(make_step(), Options(5, ROWS), start=state(5), owed={"train/loss": 1.0})
    assert record.evaluated == [5]
    assert record.rows[5]["train/loss"] == 1.0


def test_where_a_run_diverges_is_told():
    """Fails if a rollback would not know which step to skip."""
    with pytest.raises(Diverged) as e:
        run(make_step(loss=lambda n: np.inf if n == 4 else 1.0), Options(10, ROWS))
    assert e.value.step == 4


def test_damaged_images_are_counted_once_and_named(capsys):
    """Fails if an image is counted each time it is met, or its name is not said."""
    damage = Damage(10, lambda i: f"image-{i}: empty file", seen=[73])
    feed = batches(damaged_at=(1, 2, 7))
    _, record = run(make_step(), Options(9, ROWS, log_every=1), feed, damage=damage)
    assert damage.seen == {13, 23, 73}
    assert [record.rows[s]["data/damaged"] for s in (1, 2, 3, 9)] == [1, 2, 3, 3]
    assert capsys.readouterr().err.count("image-13: empty file") == 1


def test_too_many_damaged_images_stop_the_run():
    """Fails if the limit is a share of the batch, or is not looked at."""
    damage = Damage(1.5, lambda i: f"image-{i}")
    with pytest.raises(TrainingError, match=r"2 images cannot be read.*data.max_damaged"):
        run(make_step(), Options(9, ROWS), batches(damaged_at=range(9)), damage=damage)


def test_a_finished_run_does_nothing():
    """Fails if the loop takes one step too many after a resume at the end."""
    out, record = run(make_step(), Options(5, ROWS), start=state(5))
    assert int(out.step) == 5
    assert record.saved == []
    assert record.rows == {}


def test_metrics_are_cut_back_to_the_restored_step(tmp_path):
    """Fails if later rows stay, or a torn last line is kept."""
    path = tmp_path / "metrics.jsonl"
    writer = log.MetricsWriter(tmp_path)
    for step in (10, 20, 30):
        writer.write(step, {"train/loss": float(step)})
    writer.close()
    with path.open("a") as f:
        f.write('{"step": 40, "train/lo')
    log.MetricsWriter(tmp_path, 20).close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20]


def test_a_run_goes_on_without_tensorboard(tmp_path, monkeypatch, capsys):
    """Fails if a full disk that TensorBoard's thread meets first ends a run with its traceback."""
    from clu import metric_writers

    def full(*_):
        raise RuntimeError("x.tfevents; No space left on device\n\tFailed to flush 11 events")

    monkeypatch.setattr(metric_writers.SummaryWriter, "write_scalars", full)
    writer = log.MetricsWriter(tmp_path)
    for step in (10, 20):
        writer.write(step, {"train/loss": 1.0})
        writer._board._pool.join()  # its thread has met it
    writer.write(30, {"train/loss": 1.0})
    writer.close()
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in rows] == [10, 20, 30]
    said = capsys.readouterr().err
    assert said.count("TensorBoard's events end here") == 1
    assert "No space left on device" in said
