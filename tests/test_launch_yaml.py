"""launch/*.yaml: the fields are those of the schemas, and they do what is promised."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"


def fields(tree, path=""):
    """Every path of a tree, without numbers of lists: {"a.b": value}."""
    found = {}
    items = tree.items() if isinstance(tree, dict) else [("", x) for x in tree]
    for key, value in items:
        name = f"{path}.{key}".strip(".") if key else path
        found[name] = value
        if isinstance(value, dict | list):
            found |= fields(value, name)
    return found


JOB = "spec.replicatedJobs.template.spec"
POD = f"{JOB}.template.spec"
# The fields used, as in the CRD of JobSet 0.12 (jobset.x-k8s.io/v1alpha2), by type.
JOBSET_FIELDS = {
    "apiVersion": str,
    "kind": str,
    "metadata": dict,
    "metadata.name": str,
    "metadata.annotations": dict,
    "spec": dict,
    "spec.failurePolicy": dict,
    "spec.failurePolicy.maxRestarts": int,
    "spec.failurePolicy.rules": list | dict,
    "spec.failurePolicy.rules.name": str,
    "spec.failurePolicy.rules.action": str,
    "spec.failurePolicy.rules.onJobFailureReasons": list | str,
    "spec.failurePolicy.rules.onJobFailureMessagePatterns": list | str,
    "spec.replicatedJobs": list | dict,
    "spec.replicatedJobs.name": str,
    "spec.replicatedJobs.replicas": int,
    "spec.replicatedJobs.template": dict,
    JOB: dict,
    f"{JOB}.parallelism": int,
    f"{JOB}.completions": int,
    f"{JOB}.backoffLimit": int,
    f"{JOB}.podFailurePolicy": dict,
    f"{JOB}.podFailurePolicy.rules": list | dict,
    f"{JOB}.podFailurePolicy.rules.action": str,
    f"{JOB}.podFailurePolicy.rules.onExitCodes": dict,
    f"{JOB}.podFailurePolicy.rules.onExitCodes.containerName": str,
    f"{JOB}.podFailurePolicy.rules.onExitCodes.operator": str,
    f"{JOB}.podFailurePolicy.rules.onExitCodes.values": list | int,
    f"{JOB}.podFailurePolicy.rules.onPodConditions": list | dict,
    f"{JOB}.podFailurePolicy.rules.onPodConditions.type": str,
    f"{JOB}.podFailurePolicy.rules.onPodConditions.status": str,
    f"{JOB}.template": dict,
    POD: dict,
    f"{POD}.restartPolicy": str,
    f"{POD}.terminationGracePeriodSeconds": int,
    f"{POD}.nodeSelector": dict,
    f"{POD}.containers": list | dict,
    f"{POD}.containers.name": str,
    f"{POD}.containers.image": str,
    f"{POD}.containers.command": list | str,
    f"{POD}.containers.ports": list | dict,
    f"{POD}.containers.ports.containerPort": int,
    f"{POD}.containers.resources": dict,
    f"{POD}.containers.resources.limits": dict,
    f"{POD}.containers.volumeMounts": list | dict,
    f"{POD}.containers.volumeMounts.name": str,
    f"{POD}.containers.volumeMounts.mountPath": str,
    f"{POD}.volumes": list | dict,
    f"{POD}.volumes.name": str,
    f"{POD}.volumes.persistentVolumeClaim": dict,
    f"{POD}.volumes.persistentVolumeClaim.claimName": str,
}
# As in the schema of SkyPilot 0.14.
SKY_FIELDS = {
    "name": str,
    "workdir": str,
    "resources": dict,
    "resources.infra": str,
    "resources.accelerators": str,
    "resources.accelerator_args": dict,
    "resources.accelerator_args.runtime_version": str,
    "resources.use_spot": bool,
    "resources.job_recovery": dict,
    "resources.job_recovery.strategy": str,
    "resources.job_recovery.max_restarts_on_errors": int,
    "resources.job_recovery.recover_on_exit_codes": list | int,
    "envs": dict,
    "envs.BUCKET": str,
    "envs.CONFIG": str,
    "envs.RUN": str,
    "file_mounts": dict,
    "file_mounts./storage": dict,
    "file_mounts./storage.source": str,
    "file_mounts./storage.mode": str,
    "setup": str,
    "run": str,
}
FREE = ("metadata.annotations.", f"{POD}.nodeSelector.", f"{POD}.containers.resources.limits.")


@pytest.mark.parametrize(
    ("name", "known"), [("gke_jobset.yaml", JOBSET_FIELDS), ("skypilot.yaml", SKY_FIELDS)]
)
def test_yaml_fields_are_those_of_the_schema(name, known):
    """Fails if a field is mistyped, moved or of another type."""
    found = fields(yaml.safe_load((LAUNCH / name).read_text()))
    for field, value in found.items():
        if not field.startswith(FREE):
            assert isinstance(value, known[field]), field


def test_jobset_restarts_by_exit_codes():
    """Fails if 2 or 130 restart, a disruption is counted, or one pod restarts alone."""
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    final, disrupted = jobset["spec"]["failurePolicy"]["rules"]
    # What Kubernetes writes as the message of a job that fails by its podFailurePolicy.
    exited = (
        "Container train for pod ns/p failed with exit code {} matching FailJob rule at index 0"
    )
    evicted = "Pod ns/p has condition DisruptionTarget matching FailJob rule at index 1"
    (pattern,) = final["onJobFailureMessagePatterns"]
    assert final["action"] == "FailJobSet"
    assert [bool(re.search(pattern, exited.format(c))) for c in (2, 130, 20, 1)] == [1, 1, 0, 0]
    assert not re.search(pattern, evicted)
    assert disrupted["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["backoffLimit"], job["parallelism"]) == (0, job["completions"])
    codes, conditions = job["podFailurePolicy"]["rules"]
    (container,) = job["template"]["spec"]["containers"]
    assert codes["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2, 130],
    }
    assert conditions["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy needs it
    selector = job["template"]["spec"]["nodeSelector"]
    sides = selector["cloud.google.com/gke-tpu-topology"].split("x")
    chips = job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    assert chips == int(sides[0]) * int(sides[1])


@pytest.mark.parametrize("name", ["gke_jobset.yaml", "skypilot.yaml"])
def test_yaml_commands_name_what_exists(name):
    """Fails if a config, a requirements file or the module that is started does not exist."""
    text = (LAUNCH / name).read_text()
    files = re.findall(r"(?:configs|launch)/\w+\.\w+|requirements\.txt", text)
    assert files
    assert "byol_jax.train" in text
    assert [f for f in files if not (ROOT / f).is_file()] == []


def test_skypilot_commands_are_shell():
    """Fails if setup or run is no valid bash, or a word of it is not quoted."""
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    for part in ("setup", "run"):
        assert subprocess.run(["bash", "-n", "-c", task[part]]).returncode == 0
        for word in shlex.split(task[part], posix=False):
            assert "$" not in word or word.startswith('"'), word
