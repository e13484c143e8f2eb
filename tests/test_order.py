"""The order against a plain reading of its description."""

import numpy as np
import pytest

from byol_jax.data import order


def test_every_example_once_an_epoch():
    """Fails if an epoch repeats an example, or two epochs or seeds share an order."""
    first = order.epoch_permutation(0, 0, 1000)
    assert first.dtype == np.int64
    assert sorted(first) == list(range(1000))
    np.testing.assert_array_equal(first, order.epoch_permutation(0, 0, 1000))
    for seed, epoch in ((0, 1), (1, 0), (2**40, 0), (-1, 0)):
        assert (order.epoch_permutation(seed, epoch, 1000) != first).mean() > 0.9


def test_order_of_old():
    """Runs of old must resume. Fails if the key of the generator, or NumPy's shuffle, changes."""
    assert order.epoch_permutation(7, 3, 10).tolist() == [8, 4, 5, 3, 6, 0, 9, 7, 1, 2]
    assert order.window_permutation(7, 3, 2, 6, 1).tolist() == [1, 0, 5, 2, 3, 4]


def rows_at(position, p, processes, n=50, batch=8):
    """The examples of the batch at a position that one process reads."""
    epoch, first = order.locate(position, batch, n // batch)
    return order.epoch_rows(5, epoch, n, batch, p, processes, first)[: batch // processes]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_global_batch_does_not_depend_on_processes(processes):
    """Fails if the processes' rows are strided or overlap."""
    n, batch = 50, 8
    for position in (0, 8, 40, 48, 80):
        parts = [rows_at(position, p, processes) for p in range(processes)]
        epoch, k = divmod(position // batch, n // batch)
        want = order.epoch_permutation(5, epoch, n)[k * batch : (k + 1) * batch]
        np.testing.assert_array_equal(np.concatenate(parts), want)


def test_epoch_rows_are_its_batches():
    """Fails if `first` skips batches of the wrong size, or the remainder is kept."""
    whole = [order.epoch_rows(5, 2, 50, 8, p, 2) for p in (0, 1)]
    assert [len(w) for w in whole] == [24, 24]
    for k in range(6):
        for p in (0, 1):
            want = rows_at((2 * 6 + k) * 8, p, 2)
            np.testing.assert_array_equal(whole[p][4 * k : 4 * k + 4], want)
            np.testing.assert_array_equal(order.epoch_rows(5, 2, 50, 8, p, 2, k)[:4], want)


@pytest.mark.parametrize("position", [-8, 3])
def test_position_inside_a_batch_is_refused(position):
    """Fails if a position is rounded in silence."""
    with pytest.raises(ValueError, match=f"position is {position}; expected a multiple of"):
        order.locate(position, 8, 6)


def read_stream(lengths, seed, epoch, p, processes):
    """One process's epoch by walking: (shard, record) in the order in which they are read."""
    own = list(range(p, len(lengths), processes))
    groups = order.stream_groups(seed, epoch, lengths, p, processes)
    shards = [piece.shard for g in groups for piece in g]
    assert sorted(shards) == own
    sequence = []
    for start in range(0, len(shards), order.GROUP):
        left = dict.fromkeys(shards[start : start + order.GROUP], 0)
        while left:
            for s in list(left):
                sequence.append((s, left[s]))
                left[s] += 1
                if left[s] == lengths[s]:
                    del left[s]
    return sequence


@pytest.mark.parametrize("processes", [1, 3])
def test_stream_reads_every_record_once(processes):
    """Fails if shards are shared by processes, or an ended shard stops its group."""
    lengths = np.random.default_rng(0).integers(1, 12, 41).tolist()
    read = [r for p in range(processes) for r in read_stream(lengths, 0, 4, p, processes)]
    assert sorted(read) == [(s, i) for s, n in enumerate(lengths) for i in range(n)]
    firsts = {tuple(g.shard for g in order.stream_groups(0, e, lengths)[0]) for e in range(5)}
    assert len(firsts) == 5


def test_stream_resumes_anywhere():
    """Fails if the turn within a group, or the count of an ended shard, is lost on a skip."""
    lengths = np.random.default_rng(1).integers(1, 9, 37).tolist()
    whole = read_stream(lengths, 3, 1, 0, 1)
    for skip in range(len(whole) + 1):
        sequence = []
        for pieces in order.stream_groups(3, 1, lengths, skip=skip):
            left = {p.shard: [p.skip, p.skip + p.take] for p in pieces}
            while left:
                for s in list(left):
                    sequence.append((s, left[s][0]))
                    left[s][0] += 1
                    if left[s][0] == left[s][1]:
                        del left[s]
        assert sequence == whole[skip:]


def test_stream_steps_are_those_of_the_shortest_process():
    """Fails if the longest, or the sum, decides."""
    assert order.stream_steps([10, 10, 10], 8, 1) == 3
    assert order.stream_steps([10, 10, 10], 8, 2) == 2
    assert order.stream_steps([10], 8, 2) == 0


def test_windows_differ():
    """Fails if epoch, window or process is left out of the permutation."""
    base = order.window_permutation(0, 0, 0, 100, 0)
    assert sorted(base) == list(range(100))
    for e, w, p in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert (order.window_permutation(0, e, w, 100, p) != base).mean() > 0.8
