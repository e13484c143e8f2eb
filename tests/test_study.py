"""`python -m byol_jax.study`: checked before the first run, one failed row loses no other, and a
study that was stopped anywhere ends in the same table.

(tests/faults/study.py kills the command itself, with the processes of its jobs.)
"""

import json
import shutil
from pathlib import Path

import few_digits
import fork_server
import jax
import matplotlib.image
import numpy as np
import pytest
from scipy import special

from byol_jax import mesh
from byol_jax.experiment.methods import Facts, Parts, build_encoder, build_method
from byol_jax.experiment.views import build_views, check_takes
from byol_jax.study import figures, jobs, plan, record, table
from byol_jax.study.__main__ import split_options
from byol_jax.study.plan import Row, Study, make_plan

# ml_collections loads a config file so.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module")
ROOT = Path(__file__).parents[1]
HEAD = "from byol_jax.study.plan import Row, Study\n"
GOOD = {
    "name": "'Two'",
    "config": f"'{ROOT}/configs/digits.py'",
    "rows": "[Row('BYOL', published=2.0), Row('Slow target', {'byol.tau': 0.99}, published=1.0)]",
    "protocols": "{'knn': {}}",
    "columns": "{'kNN': 'knn/top1', 'loss': 'metrics/train/loss'}",
    "shown": "'kNN'",
    "seeds": "[0, 1]",
}


def write_study(folder, **changed):
    path = folder / "study.py"
    fields = ", ".join(f"{k}={v}" for k, v in (GOOD | changed).items())
    path.write_text(f"{HEAD}\ndef get_study():\n    return Study({fields})\n")
    return str(path)


def overrides(text):
    return {"rows": f"[Row('a', {text})]"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (overrides("{'byol.tua': 0.9}"), "'a': Unknown config key byol.tua: did you mean byol.tau"),
        (overrides("{'byol.tau': 2.0}"), "'a': byol.tau is 2.0; expected 0 to 1"),
        (overrides("{'moco.tau': 0.5}"), "'a': moco.tau has no effect: method.name is 'byol'"),
        (overrides("{'views.overrides.hue': 2.0}"), "views.overrides.hue is 2.0; expected"),
        (overrides("{'batch_size': 0.5}"), "batch_size"),
        (overrides("{'byol.tau': None}"), "'byol.tau' is None; expected a number, text or tuple"),
        (overrides("{'byol.tau': float('nan')}"), "is nan; expected a number, text or tuple"),
        (overrides("{'seed': 3}"), "sets seed; the seeds of a study are Study.seeds"),
        ({"rows": "[Row('a'), Row('A ')]"}, "'a' and 'A ' both have the folder 'a'; rename one"),
        ({"rows": "[Row('..')]"}, "named '..'; expected some letters"),
        ({"rows": "[]"}, "not one or more Row"),
        ({"rows": "[Row('a', argument='byoll')]"}, "'byoll' has no recipe for digits"),
        ({"rows": "[Row('a', published='72')]"}, "published is '72'; expected a number"),
        ({"rows": "[Row('a', cell=('x', 'y')), Row('b')]"}, "has one for each row"),
        ({"rows": "[Row('a', {}, typo=1)]"}, "unexpected keyword argument 'typo'"),
        ({"seeds": "[0, 0]"}, "seeds are [0, 0]; expected whole numbers from 0, each once"),
        ({"seeds": "[-1]"}, "seeds are [-1]"),
        ({"protocols": "{'knm': {}}"}, "'knm' does not exist; expected knn, linear"),
        ({"protocols": "{}"}, "No protocols"),
        ({"protocols": "{'knn': {'eval.knn_k': 0}}"}, "eval.knn_k is 0; expected 1 to"),
        ({"protocols": "{'knn': {'eval.shots': (1,)}}"}, "eval.shots has no effect on --protocol"),
        ({"columns": "{'kNN': 'fewshot/5'}"}, "'fewshot/5'; expected FROM/FIGURE, FROM one of"),
        ({"shown": "'top-1'"}, "shown is 'top-1'; expected one of the columns kNN, loss"),
        ({"config": "'nowhere.py'"}, "nowhere.py does not exist"),
    ],
)
def test_everything_is_checked_before_the_first_run(tmp_path, changed, said):
    """Fails if one of these is found by a run, hours later. (Leave out a check of plan.py.)"""
    with pytest.raises(ValueError, match=r"[\s\S]*") as error:
        make_plan(write_study(tmp_path, **changed), tmp_path / "out")
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_study(tmp_path):
    (tmp_path / "good.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"nothing\.py does not exist; .* has good\.py"):
        plan.read_study(str(tmp_path / "nothing.py"))
    with pytest.raises(ValueError, match="has no get_study; expected a function get_study"):
        plan.read_study(str(tmp_path / "good.py"))
    (tmp_path / "good.py").write_text("def get_study():\n    return 1 / 0\n")
    with pytest.raises(ValueError, match="cannot be read: ZeroDivisionError"):
        plan.read_study(str(tmp_path / "good.py"))


def test_options_of_the_command_line(tmp_path):
    """Fails if an option is lost, given to one row alone, or wins over what a row varies."""
    argv = ["study", "--workdir", "d", "--config", "f.py", "--config.epochs=2", "--noconfig.x"]
    expected = (["study", "--workdir", "d"], ["--config=f.py", "--config.epochs=2", "--noconfig.x"])
    assert split_options(argv) == expected
    name, out = write_study(tmp_path), tmp_path / "out"
    made = make_plan(name, out, ["--config.epochs=2"], [3])
    assert [(j.number, j.row, j.seed) for j in made.jobs] == [(0, "BYOL", 3), (1, "Slow target", 3)]
    configs = [plan.read_config(j.config) for j in made.jobs]
    assert [(c.epochs, c.byol.tau, c.seed) for c in configs] == [(2, 0.9, 3), (2, 0.99, 3)]
    assert made.jobs[1].folder == out / "slow_target" / "seed3"
    for option, said in (("byol.tau=0.5", "what rows vary"), ("seed=1", "those of --seeds")):
        with pytest.raises(ValueError, match=said):
            make_plan(name, out, [f"--config.{option}"])
    # Another config keeps the rows' arguments, unless there is a colon.
    cifar = str(ROOT / "configs" / "cifar10_cpu.py")
    methods = write_study(tmp_path, rows="[Row('a', argument='byol'), Row('b', argument='dino')]")
    made = make_plan(methods, out, [f"--config={cifar}"])
    found = [plan.read_config(j.config) for j in made.jobs]
    assert [(c.data.name, c.method.name) for c in found[:2]] == [
        ("cifar10", "byol"),
        ("cifar10", "dino"),
    ]
    with pytest.raises(ValueError, match="the rows differ in the config's argument"):
        make_plan(methods, out, [f"--config={cifar}:byol"])


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "studies").glob("*.py")), ids=str)
def test_every_study_that_comes_with_it(path, tmp_path):
    """Fails if one has a row that its configs, or the methods, refuse."""
    for argument in ("", ":cifar10") if "CONFIGS" in path.read_text() else ("",):
        made = make_plan(f"{path}{argument}", tmp_path, seeds=[0])
        assert len(made.jobs) == len(made.study.rows) > 1
        for job in made.jobs:  # built, and not trained
            config = plan.resolve(plan.read_config(job.config))
            channels = 1 if config.data.name == "digits" else 3
            recipe, _ = build_views(config, channels)
            parts = Parts(build_encoder(config, channels), lambda module: module)
            facts = Facts(10_000, 10, 1000, 10, config.batch_size, image_size=config.image_size)
            method = build_method(config, parts, facts)
            check_takes(config.method.name, method, config.views.recipe, recipe)


# What runs leave, and what becomes of it.


def finished(job, top1, untrained=50.0, loss=1.0):
    """Write a finished, judged run."""
    (job.folder / "eval").mkdir(parents=True)
    (job.folder / "events.jsonl").write_text(
        '{"time": 1, "event": "start"}\n{"time": 2, "event": "end"}'
    )
    (job.folder / "metrics.jsonl").write_text(json.dumps({"step": 9, "train/loss": loss}))
    result = {"method": "byol", "top1": top1, "untrained_top1": untrained}
    (job.folder / "eval" / "knn.json").write_text(json.dumps(result))
    done = {"settings": {}, "sha256": record.digest(job.folder, "knn")}
    record.write_record(job.folder, record.Record({"knn": done}, ""))


def study_of(tmp_path, *published, cells=False):
    rows = [
        Row(f"r{i}", published=p, cell=("a", f"c{i}") if cells else None)
        for i, p in enumerate(published)
    ]
    columns = {"kNN": "knn/top1", "loss": "metrics/train/loss"}
    made = Study("S", "c.py", rows, columns, "kNN", protocols={"knn": {}}, seeds=(0, 1, 2))
    all_jobs = [
        plan.Job(0, row.name, s, tmp_path / row.name / f"seed{s}", (), {"knn": ()})
        for s in made.seeds
        for row in rows
    ]
    return plan.Plan(made, tmp_path, tuple(all_jobs), "c.py")


def test_the_table_holds_what_the_runs_found(tmp_path):
    """Fails if a mean, a spread, a reference, an order or a missing row is wrong.

    (Take the population's deviation, the first seed's figure, or the published order reversed.)
    """
    made = study_of(tmp_path, 70.0, 60.0, 50.0, 49.5)
    tops = {"r0": (90, 92, 97), "r1": (70, 71, 72), "r2": (71, 70, 72), "r3": (99, 99, 99.3)}
    for job in made.jobs:
        if (job.row, job.seed) != ("r2", 2):
            finished(job, float(tops[job.row][job.seed]), 50.0 + job.seed, 0.5)
    for job in made.jobs[-3:-1]:  # of one that is done, by another process
        jobs._say_error(job, "it broke")
    found = table.write_tables(made)
    text = (tmp_path / "table.md").read_text()
    assert "| untrained encoder | 51.0 (50.0-52.0) | - |  |" in text  # once for all rows
    assert "| r0 | 93.0 (90.0-97.0) | 0.50 (0.50-0.50) | 70 |" in text
    assert "| r2 | 70.5 (70.0-71.0) |" in text
    assert "- r2, seed 2: failed: it broke" in text
    assert found.states["r2", 2] == "failed: it broke"
    assert found.states["r1", 2] == found.states["r2", 1] == "done"
    values = json.loads((tmp_path / "table.json").read_text())
    column = values["rows"]["r0"]["columns"]["kNN"]
    assert column["seeds"] == {"0": 90.0, "1": 92.0, "2": 97.0}
    assert column["std"] == pytest.approx(np.std([90, 92, 97], ddof=1), abs=1e-12)
    # r0 above r1 and r2; r3 above all others, though published below; r2 and r3 are not compared.
    assert values["agreement"] == {
        "same": [["r0", "r1"], ["r0", "r2"]],
        "reversed": [["r1", "r3"]],
        "unsure": [["r0", "r3"], ["r1", "r2"]],
    }
    assert "of 5 pairs" in text
    assert "Reversed: r3 above r1." in text
    assert matplotlib.image.imread(tmp_path / "plot.png").shape[2] == 4


def test_references_that_differ_are_said_to(tmp_path):
    """Fails if a row's untrained encoder stands for that of another encoder."""
    made = study_of(tmp_path, None, None)
    for job in made.jobs:
        finished(job, 90.0, 50.0 if job.row == "r0" else 60.0)
    lines = table.markdown(made, figures.read_figures(made)).splitlines()
    assert "| untrained encoder | 50.0 (50.0-50.0) | - |" in lines
    assert "| untrained encoder of r1 | 60.0 (60.0-60.0) | - |" in lines


def test_a_matrix(tmp_path):
    made = study_of(tmp_path, None, None, cells=True)
    for job in made.jobs[1::2]:
        finished(job, 90.0 + job.seed)
    table.write_tables(made)
    assert (
        "|  | c0 | c1 |\n| --- | --- | --- |\n| a | - | 91.0 |"
        in (tmp_path / "table.md").read_text()
    )
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_p_values():
    """Fails if the variances are pooled, or one side is asked about: Welch's formula by hand."""
    for a, b in (([1.0, 2.0, 4.0], [3.0, 5.0, 9.0]), ([90.0, 91.0], [70.0, 90.0, 80.0])):
        shares = [np.var(x, ddof=1) / len(x) for x in (a, b)]
        square = (np.mean(a) - np.mean(b)) ** 2 / sum(shares)
        parts = [s**2 / (len(x) - 1) for s, x in zip(shares, (a, b), strict=True)]
        freedom = sum(shares) ** 2 / sum(parts)
        expected = special.betainc(freedom / 2, 0.5, freedom / (freedom + square))
        assert figures.p_value(a, b) == pytest.approx(expected, rel=1e-12)
    assert figures.p_value([1.0, 1.0], [1.0, 1.0]) == 1
    assert figures.p_value([1.0, 1.0], [2.0, 2.0]) == 0


def test_a_result_that_is_not_the_recorded_one_does_not_count(tmp_path):
    """Fails if a protocol run by hand, with other settings, gets into the table."""
    made = study_of(tmp_path, None)
    finished(made.jobs[0], 90.0)
    (made.jobs[0].folder / "eval" / "knn.json").write_text('{"method": "byol", "top1": 1.0}')
    found = figures.read_figures(made)
    assert "kNN" not in found.rows["r0"]
    assert found.states["r0", 0] == "trained, but not judged by knn"


def test_a_row_that_fails_does_not_keep_the_others_back(tmp_path, capsys):
    """Fails if the first failure ends the study, is not named, or a finished job is run again."""
    made = make_plan(write_study(tmp_path), tmp_path / "out")
    wanted = plan.settings("knn", plan.resolve(plan.read_config(made.jobs[0].config)))
    started = []

    def start(job, _):
        started.append(job.number)
        if job.number == 1:
            return -9
        finished(job, 90.0)
        seed = {**wanted, "seed": job.seed}
        done = {"settings": seed, "sha256": record.digest(job.folder, "knn")}
        record.write_record(job.folder, record.Record({"knn": done}, ""))
        return 0

    failed = jobs.run_plan(made, start, lambda: None)
    assert started == [0, 1, 2, 3]
    assert [job.number for job in failed] == [1]
    assert (
        "Slow target, seed 0 (2 of 4) failed: its process was ended by SIGKILL"
        in capsys.readouterr().err
    )
    assert "SIGKILL" in figures.read_figures(made).states["Slow target", 0]
    started.clear()
    jobs.run_plan(made, start, lambda: None)
    assert started == [1]  # it is tried again, alone
    # Judged with other settings: refused, with both.
    changed = write_study(tmp_path, protocols="{'knn': {'eval.knn_k': 7}}")
    with pytest.raises(ValueError, match=r"eval\.knn_k 200, and the study now says 7; put it back"):
        make_plan(changed, tmp_path / "out")
    # A key that is newer than a result has its default there.
    found = record.read_record(made.jobs[0].folder)
    assert found.judged["knn"]["settings"].pop("eval.knn_k") == 200
    record.write_record(made.jobs[0].folder, found)
    with pytest.raises(ValueError, match=r"eval\.knn_k 200, and the study now says 7; put it back"):
        make_plan(changed, tmp_path / "out")
    again = make_plan(write_study(tmp_path), tmp_path / "out")
    assert record.is_judged(again.jobs[0].folder, "knn", {**wanted, "seed": again.jobs[0].seed})


# Real runs, of ten steps.
SMALL = (
    *("--config.encoder.width=0.25", "--config.epochs=1", "--config.optimizer.warmup_epochs=0.0"),
    *("--config.byol.hidden=16", "--config.byol.out=8", "--config.method.probe=False"),
    *few_digits.flags(),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of one run, done."""
    original = mesh.make_mesh
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "make_mesh", lambda *_: original(jax.devices()[:1]))
        jax.config.update("jax_disable_most_optimizations", True)
        made = make_plan(write_study(folder), folder / "out", SMALL, [0])
        assert jobs.run_job(made.jobs[0], made.workdir) == 0
        table.write_tables(made, picture=False)
        yield folder


def copy_of(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    return make_plan(str(tmp_path / "copy" / "study.py"), tmp_path / "copy" / "out", SMALL, [0])


@pytest.mark.usefixtures("quick")
def test_a_job_ends_in_the_same_table_wherever_it_was_stopped(trained, tmp_path):
    """Fails if a stop after the training, or before the record, loses or changes a figure."""
    before = (trained / "out" / "table.md").read_text()
    assert "Slow target, seed 0: not run" in before
    made = copy_of(trained, tmp_path)
    job = made.jobs[0]
    assert jobs.is_done(job)
    record.record_file(job.folder).unlink()  # killed between result and record
    assert not jobs.is_done(job)
    assert jobs.run_job(job, made.workdir) == 0
    table.write_tables(made, picture=False)
    assert (made.workdir / "table.md").read_text() == before
    # Killed before the run's last word, and before it was judged.
    events = (job.folder / "events.jsonl").read_text().splitlines()
    (job.folder / "events.jsonl").write_text("\n".join(events[:-1]) + "\n")
    shutil.rmtree(job.folder / "eval")
    assert figures.read_figures(made).states["BYOL", 0].startswith("not finished")
    assert jobs.run_job(job, made.workdir) == 0
    table.write_tables(made, picture=False)
    assert (made.workdir / "table.md").read_text() == before


def test_a_changed_row_is_refused_with_both_values(trained, tmp_path):
    """Fails if a row's folder is taken for that of another config."""
    made = copy_of(trained, tmp_path)
    name = write_study(tmp_path, rows="[Row('BYOL', {'byol.tau': 0.5})]")
    with pytest.raises(ValueError, match=r"byol\.tau: 0\.9 -> 0\.5.*or another --workdir"):
        make_plan(name, made.workdir, SMALL, [0])


def test_the_command_line(trained, tmp_path):
    """Fails if an error is no single line, or the tables cannot be written from files alone."""
    made = copy_of(trained, tmp_path)
    (made.workdir / "table.md").unlink()
    command = ("-m", "byol_jax.study", "--study", str(tmp_path / "copy" / "study.py"))
    command += ("--workdir", str(made.workdir), *SMALL, "--seeds", "0")
    done = fork_server.run(*command, "--status", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "| BYOL |" in done.stdout
    text = (made.workdir / "table.md").read_text()
    assert text == (trained / "out" / "table.md").read_text()
    wrong = fork_server.run(*command, "--index", "2", timeout=120)
    assert wrong.returncode == 2
    assert wrong.stderr.strip().endswith("error: --index is 2; expected 0 to 1.")
