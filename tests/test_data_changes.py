"""What is compared of the data when a run is resumed."""

import json

import pytest

from byol_jax.run_folder import check_data, data_changes

DATA = {"examples": 60, "classes": ["cat", "dog"], "digest": "00aa"}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, ""),
        ({"digest": ""}, ""),  # not known: nothing to compare
        ({"examples": 61}, "60 images then, 61 now"),
        ({"classes": ["cat", "wolf"]}, "class 'dog' is missing; class 'wolf' is new"),
        (
            {"classes": ["dog", "cat"]},
            "classes in another order: ['cat', 'dog'] then, ['dog', 'cat'] now",
        ),
        ({"classes": ["cat", "dog", "eel"]}, "2 classes then, 3 now; class 'eel' is new"),
        ({"classes": 5}, "2 classes then, 5 now"),
        ({"digest": "00bb"}, "digest 00aa then, 00bb now"),
    ],
)
def test_what_changed_is_said_with_both_values(now, said):
    """Fails if a difference is passed over, or one is seen where there is none."""
    found = data_changes(DATA, DATA | now)
    assert found.endswith(said)
    assert bool(found) == bool(said)


def test_a_schedule_never_stretches(tmp_path, capsys):
    """Fails if a checkpoint of another total goes on, or one past the end ("step 100 of 20")."""
    check_data(tmp_path, {"data": DATA, "total_steps": 20, "step": 20}, DATA, 20)
    with pytest.raises(ValueError, match="of 30 steps, and would now be of 20"):
        check_data(tmp_path, {"data": DATA, "total_steps": 30, "step": 10}, DATA, 20)
    assert not capsys.readouterr().err
    # A checkpoint of an earlier version: the events tell how long the run was, if they are there.
    check_data(tmp_path, {"step": 10}, DATA, 20)
    assert "kept no record of its data" in capsys.readouterr().err
    with pytest.raises(ValueError, match="at step 100, and would now be of 20"):
        check_data(tmp_path, {"step": 100}, DATA, 20)
    start = {"time": 1.0, "event": "start", "step": 0, "total_steps": 60}
    (tmp_path / "events.jsonl").write_text(json.dumps(start) + "\n")
    with pytest.raises(ValueError, match="of 60 steps, and would now be of 100"):
        check_data(tmp_path, {"step": 10}, DATA, 100)
