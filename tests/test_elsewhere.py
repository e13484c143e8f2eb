"""Encoders judged on other data than they were trained on, from a run and from exports."""

import json
from pathlib import Path

import fork_server
import jax
import numpy as np
import pytest
from conftest import filled
from test_results import one_device, pictures, tiny  # noqa: F401

from byol_jax import evaluate as command
from byol_jax.convert.info import EncoderInfo, expected_shapes
from byol_jax.convert.native import save_encoder
from byol_jax.convert.timm import save_timm
from byol_jax.evaluate import config_for_export, evaluate, table
from byol_jax.experiment import frozen
from byol_jax.experiment.build import open_data
from byol_jax.experiment.evaluation import EvalData, open_eval_data
from byol_jax.models import make_encoder
from byol_jax.run_folder import read_export


def exported(folder, save, method="simclr", **config):
    """The folder of an export with drawn weights, and its parts."""
    encoder = make_encoder(**config)
    params, stats = filled(expected_shapes(encoder))
    n = encoder.channels
    info = EncoderInfo(encoder.config, 8, (0.4,) * n, (0.2,) * n, resize=8, method=method)
    save(folder, params, stats, info)
    return folder, (encoder, params, stats)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A file of grey images of two classes, which brightness tells apart."""
    random = np.random.RandomState(0)
    y = np.arange(40) % 2
    x = (random.randint(0, 150, (40, 8, 8)) + 80 * y[:, None, None]).astype(np.uint8)
    path = tmp_path_factory.mktemp("grey") / "x.npz"
    np.savez(path, x_train=x[:24], y_train=y[:24], x_test=x[24:], y_test=y[24:])
    return path


def to_judge(path, **options):
    config = config_for_export()
    config.data.name, config.data.dir = "npz", str(path)
    config.eval.batch_size = 16
    for key, value in options.items():
        config.eval[key] = value
    return config


@pytest.mark.parametrize(
    ("save", "encoder"),
    [
        (save_encoder, {"name": "tiny", "width": 0.25, "channels": 3}),
        (save_timm, {"name": "resnet18"}),
    ],
)
def test_an_export_is_judged_on_grey_images(tmp_path, grey, save, encoder):
    """Fails if its weights, its normalisation, or the three channels are not what it is given."""
    folder, (encoder, params, stats) = exported(tmp_path / "export", save, **encoder)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    result = evaluate(None, "retrieval", to_judge(grey), tmp_path / "out", encoder=folder)
    assert json.loads((tmp_path / "out/retrieval.json").read_text()) == result
    assert (tmp_path / "out/retrieval.png").is_file()
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    with np.load(grey) as file:
        x, y = file["x_test"], file["y_test"]
    x = (np.repeat(x[:, None, ..., None], 3, -1) / np.float32(255) - 0.4) / 0.2
    h = np.asarray(jax.jit(encoder.apply, static_argnums=3)(params, stats, x, False)[0].pooled)
    h = h[:, 0] / np.linalg.norm(h[:, 0], axis=1, keepdims=True)
    cosines = h @ h.T - 2 * np.eye(len(h))
    assert result["top1"] == pytest.approx(100 * np.mean(y[cosines.argmax(1)] == y))
    assert list(result["rows"]) == ["raw pixels", "untrained encoder", "simclr"]


def test_a_grey_encoder_is_judged_on_coloured_files(tmp_path):
    """Fails if files are decoded to three channels for an encoder that takes one."""
    pictures(tmp_path / "files", {"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2})
    folder, _ = exported(tmp_path / "e", save_encoder, name="tiny", width=0.25, channels=1)
    config = to_judge(tmp_path / "files", knn_k=1)
    config.data.name = "folder"
    config.eval.resize = 10  # of 8 px, whatever the default of image_size is
    data = open_eval_data(read_export(folder, config))
    assert (data.train.channels, data.test.channels) == (1, 1)
    assert (data.spec.size, data.spec.resize) == (8, 10)
    assert open_data(config, "test").channels == 3


def test_the_test_images_are_not_read_before_the_penalty_is_fixed(tmp_path, grey, monkeypatch):
    """Fails if anything of the test part could enter the choice."""
    folder, _ = exported(tmp_path / "e", save_encoder, method="", name="tiny", width=0.25)
    order = []

    def note(name, function):
        def noted(*args, **options):
            order.append(name if name else "test" if args[1].name.endswith("test") else "train")
            return function(*args, **options)

        return noted

    monkeypatch.setattr(EvalData, "crops", note("", EvalData.crops))
    monkeypatch.setattr(frozen, "choose", note("choose", frozen.choose))
    asked = to_judge(grey, penalties=2, pixels=False, cache=0.0)
    result = evaluate(None, "transfer", asked, tmp_path, encoder=folder)
    assert order == ["train", "choose", "test"] * 2
    assert list(result["rows"]) == ["untrained encoder", "encoder"]  # no raw pixels
    assert result["rows"]["encoder"]["top1"] == result["top1"]
    assert result["top1"] > 80
    order.clear()
    robust = evaluate(None, "robust", asked, tmp_path, encoder=folder)
    assert order == ["train", "choose", *["test"] * 26] * 2
    for name, row in robust["rows"].items():
        assert row["clean"] == result["rows"][name]["top1"]
        of_all = list(robust["severities"][name].values())
        assert row["mean"] == pytest.approx(np.mean(of_all))
        assert row["contrast"] == np.mean(of_all[4])
    assert np.shape(of_all) == (5, 5)
    assert (robust["top1"], robust["strengths"]["jpeg"][4]) == (row["mean"], 40)
    order.clear()
    evaluate(
        None, "stages", to_judge(grey, penalties=2, stage_numbers=72), tmp_path, encoder=folder
    )
    # Pooled over a grid, beside the global means, from one pass over each part.
    assert order == ["train", *["choose"] * 6, "test"] * 2
    stages = json.loads((tmp_path / "stages.json").read_text())
    assert stages["numbers"] == {"1": 9 * 8, "2": 4 * 16, "3": 4 * 32}
    assert stages["top1"] == stages["rows"]["encoder"]["3"]
    assert stages["rows"]["encoder, global mean"]["3"] == result["rows"]["encoder"]["top1"]
    assert "percent by stage" in table("stages", stages)
    order.clear()
    shots = to_judge(grey, lowshot_shots=(1, 4, 99), lowshot_draws=2, svm_cs=(1.0,))
    result = evaluate(None, "lowshot", shots, tmp_path, encoder=folder)
    assert list(result["rows"]["encoder, SVM"]) == ["1", "1_std", "4", "4_std"]
    assert result["top1"] == result["rows"]["encoder, SVM"]["4"]
    assert result["svm_c"]["encoder"] == {"1_c": 1.0, "4_c": 1.0}
    assert (result["train_images"], result["test_images"], result["top1_shots"]) == (24, 16, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"out": None}, "--out is missing; an export is left as it is"),
        ({"encoder": None}, "--workdir and --encoder are missing"),
        ({"workdir": "run"}, "--workdir and --encoder are both given"),
        ({"name": ""}, "data.name is missing: an export has no data of its own"),
        ({"protocol": "finetune", "finetune_from": "head1"}, "an export has no projector"),
        ({"image_size": 16}, "image_size has no effect on --protocol=knn: the encoder's own"),
        (
            {"protocol": "suite", "name": "", "finetune_lrs": (0.2,)},
            "finetune_lrs has no effect on .*: only suite with eval.suite_finetune=true and f",
        ),
        ({"encoder": "none"}, "is not a folder"),
        ({"protocol": "transfr"}, "did you mean transfer"),
    ],
)
def test_what_cannot_be_judged_is_refused(tmp_path, grey, change, said):
    """Fails if anything is computed or written first."""
    folder, _ = exported(tmp_path / "e", save_encoder, name="tiny", width=0.25)
    config = to_judge(grey)
    config.data.name = change.get("name", "npz")
    config.eval.finetune_from = change.get("finetune_from", "encoder")
    config.eval.finetune_lrs = change.get("finetune_lrs", config.eval.finetune_lrs)
    config.image_size = change.get("image_size", config.image_size)
    args = {"workdir": None, "out": tmp_path / "out", "encoder": folder, "protocol": "knn"}
    args |= {k: v for k, v in change.items() if k in args}
    with pytest.raises(ValueError, match=said):
        evaluate(args.pop("workdir"), args.pop("protocol"), config, **args)
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (tmp_path / "out").exists()


def test_a_picture_that_cannot_be_written_loses_no_figures(tmp_path, grey, monkeypatch, capsys):
    """Fails if a full disk at the picture ends the evaluation before its result is written."""
    folder, _ = exported(tmp_path / "e", save_encoder, name="tiny", width=0.25)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "draw_neighbours", full)
    evaluate(None, "retrieval", to_judge(grey), tmp_path, encoder=folder)
    assert (tmp_path / "retrieval.json").is_file()
    assert "retrieval.png could not be written (No space" in capsys.readouterr().err


def test_the_command_line(tmp_path, grey):
    """Fails if an export's keys are not set by flags, or a config.json beside it is read."""
    folder, _ = exported(tmp_path / "e", save_encoder, name="tiny", width=0.25)
    (tmp_path / "config.json").write_text('{"eval": {"knn_k": 3}}')
    data = ("--config.data.name=npz", f"--config.data.dir={grey}", "--config.eval.knn_k=2")
    args = ("--encoder", folder, "--protocol=knn", "--out", tmp_path / "out", *data)
    done = fork_server.run("-m", "byol_jax.evaluate", *args, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "untrained encoder" in done.stdout
    assert json.loads(Path(tmp_path, "out/knn.json").read_text())["k"] == 2
