"""What Kubernetes is told: names that fit each other, secrets of each role alone, pods that may do nothing but their work.

`make test-manifests` asks kustomize and Kubernetes' own schemas, where there is a kubectl.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from settings import PREFIX, Settings
from tests.manifests import (
    DEPLOY,
    KUBERNETES,
    SETUP,
    containers_of,
    deployments_and_job,
    kustomization,
    labels_of,
    manifests,
    of_kind,
    pods,
    selects,
)
from workflows.steps import OBJECTS_TASK_QUEUE

DOCKERFILE = (DEPLOY.parent / "Dockerfile").read_text()
SERVICE = DEPLOY / "cells" / "eu" / "service"
ROLES = {"rows", "objects", "relay", "operator", "setup"}
CONFIG_MAP = "artifact-deletion"
each_role = pytest.mark.parametrize("role", sorted(ROLES))


def yaml_files() -> list[Path]:
    return sorted([*KUBERNETES.rglob("*.yaml"), *(DEPLOY / "cells").rglob("*.yaml")])


def test_every_file_is_named_by_the_kustomization_beside_it() -> None:
    """One that is not is never applied, and is believed to be."""
    folders = {file.parent for file in yaml_files() if file.name == "kustomization.yaml"}
    told = {folder: kustomization(folder) for folder in folders}
    named = {
        folder / name
        for folder, one in told.items()
        for name in (*one.get("resources", ()), *one.get("configurations", ()))
        if name.endswith(".yaml")
    }
    assert {file for file in yaml_files() if file.name != "kustomization.yaml"} == named
    led_to = [(folder / name).resolve() for folder, one in told.items() for name in one.get("components", ())]
    assert {folder for folder, one in told.items() if one["kind"] == "Component"} == set(led_to)
    in_cells = [one for folder, one in told.items() if folder.is_relative_to(DEPLOY / "cells") and one["kind"] != "Component"]
    assert [one["components"][-1] for one in in_cells] == ["../cell", "../cell"]


def test_both_task_queues_the_relay_and_a_place_for_people_are_there() -> None:
    """Nothing else runs, and a person's pod only when it is wanted."""
    deployed = deployments_and_job()
    assert deployed.keys() == ROLES
    assert {name: one["spec"].get("replicas") for name, one in deployed.items() if name != "setup"} == {
        "rows": 2,
        "objects": 2,
        "relay": 1,
        "operator": 0,
    }
    serves = {
        name: one["env"] for name, pod in pods().items() for one in containers_of(pod) if one.get("env") and name != "setup"
    }
    assert serves == {name: [{"name": "ARTIFACT_DELETION_SERVES", "value": name}] for name in ("rows", "objects")}
    (relay,) = containers_of(pods()["relay"])
    assert relay["command"] == ["python", "starter.py", "resume", "--every", "30s"]
    assert not of_kind("Job")


@each_role
def test_a_role_has_settings_a_secret_of_its_own_and_no_other(role: str) -> None:
    """What one of them lets out is then worth no more than that role; rows' workers never see the store's keys."""
    for container in containers_of(pods()[role]):
        assert container["envFrom"] == [
            {"configMapRef": {"name": CONFIG_MAP}},
            {"secretRef": {"name": f"artifact-deletion-{role}"}},
        ]
    folder = SETUP if role == "setup" else KUBERNETES
    assert [one["name"] for one in kustomization(folder)["configMapGenerator"]] == [CONFIG_MAP]
    told = (folder / {"setup": "job.yaml"}.get(role, f"{role}.yaml")).read_text()
    assert f"# Secret artifact-deletion-{role}: ARTIFACT_DELETION_DATABASE_URL" in told


@each_role
def test_a_pod_may_do_nothing_but_its_work(role: str) -> None:
    """No root, no token of the cluster's, no file system to write to but a small /tmp; as the image has it."""
    pod = pods()[role]
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, flags=re.MULTILINE)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert [(one["name"], one["emptyDir"]["sizeLimit"]) for one in pod["volumes"]] == [("tmp", "16Mi")]
    for container in containers_of(pod):
        assert container["image"] == "artifact-deletion"
        assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"].keys() == {"memory"}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_every_selector_is_for_the_pods_that_it_is_meant_for() -> None:
    """One that misses selects nothing, and Kubernetes says nothing of it."""
    deployments = {name: one for name, one in deployments_and_job().items() if name != "setup"}
    for name, one in deployments.items():
        assert {other for other in deployments if selects(one["spec"]["selector"], labels_of(deployments[other]))} == {name}
        for spread in pods()[name].get("topologySpreadConstraints", ()):
            assert selects(spread["labelSelector"], labels_of(one))
    budgets = of_kind("PodDisruptionBudget")
    guarded = {
        name
        for name, one in deployments.items()
        for budget in budgets.values()
        if selects(budget["spec"]["selector"], labels_of(one))
    }
    assert guarded == {name for name, one in deployments.items() if one["spec"]["replicas"] > 1}
    assert all(budget["spec"]["maxUnavailable"] == 1 for budget in budgets.values())
    accounts = {pod["serviceAccountName"] for pod in pods().values() if "serviceAccountName" in pod}
    assert accounts == of_kind("ServiceAccount").keys()


def test_metrics_are_all_that_may_be_reached_and_prometheus_finds_them() -> None:
    """By one port of one name: the workers' and the relay's, which the image serves metrics at."""
    (port,) = re.findall(r"ARTIFACT_DELETION_METRICS_ADDRESS=0\.0\.0\.0:(\d+)", DOCKERFILE)
    serving = {"rows", "objects", "relay"}
    ports = {name: one["ports"] for name, pod in pods().items() for one in containers_of(pod) if "ports" in one}
    assert ports == {name: [{"name": "metrics", "containerPort": int(port)}] for name in serving}
    policies = of_kind("NetworkPolicy")
    for name, one in deployments_and_job().items():
        chosen = [policy["spec"] for policy in policies.values() if selects(policy["spec"]["podSelector"], labels_of(one))]
        assert all(policy["policyTypes"] == ["Ingress"] for policy in chosen)
        reached = [rule["ports"] for policy in chosen for rule in policy.get("ingress", ())]
        assert chosen, name
        assert reached == ([[{"protocol": "TCP", "port": "metrics"}]] if name in serving else [])
        (monitor,) = of_kind("PodMonitor", SERVICE).values()
        assert selects(monitor["spec"]["selector"], labels_of(one)) == (name in serving)
        annotated = one["spec"]["template"]["metadata"].get("annotations", {}).get("prometheus.io/port")
        assert annotated == (port if name in serving else None)
    assert [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_workers_are_scaled_by_the_task_queue_that_they_serve() -> None:
    """As many steps each as one worker takes; a key, an address or a namespace is never written twice."""
    (scaled,) = of_kind("ScaledObject", SERVICE).values()
    assert scaled["spec"]["scaleTargetRef"]["name"] in of_kind("Deployment")
    (trigger,) = scaled["spec"]["triggers"]
    told = trigger["metadata"]
    assert (told["taskQueue"], told["targetQueueSize"]) == (
        OBJECTS_TASK_QUEUE,
        str(Settings.model_fields["store_steps"].default),
    )
    assert {name for name in told if name.endswith("FromEnv")} == {"endpointFromEnv", "namespaceFromEnv", "apiKeyFromEnv"}


def test_every_setting_that_a_manifest_names_exists() -> None:
    """And a cell changes nothing that the folders before it do not have."""
    texts = [file.read_text() for file in (*yaml_files(), KUBERNETES / "settings.env")]
    given = re.findall(r"ARTIFACT_DELETION_\w+", "".join([*texts, DOCKERFILE]))
    assert set(given) <= {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    kinds: set[Any] = {one["kind"] for one in manifests(SERVICE)}
    assert kinds == {
        *("Deployment", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "ScaledObject", "ServiceAccount"),
    }
