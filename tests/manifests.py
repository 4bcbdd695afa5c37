"""The manifests under deploy/, read as kustomize reads them as far as it matters which file names which."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.stack import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
SETUP = KUBERNETES / "setup"


def kustomization(folder: Path) -> dict[str, Any]:
    """What a folder's own file says."""
    found: dict[str, Any]
    (found,) = yaml.safe_load_all((folder / "kustomization.yaml").read_text())
    return found


def manifests(folder: Path) -> Iterator[Any]:
    """Every document of the folder, of those that it names and of its components, with the labels that it puts on pods."""
    told = kustomization(folder)
    found: list[Any] = []
    for name in (*told.get("resources", ()), *told.get("components", ())):
        place = folder / name
        found += manifests(place) if place.is_dir() else yaml.safe_load_all(place.read_text())
    for pairs in (one["pairs"] for one in told.get("labels", ())):
        for labels in (labels_of(one) for one in found if one["kind"] in {"Deployment", "Job"}):
            labels.update(pairs)
    yield from found


def of_kind(kind: str, folder: Path = KUBERNETES) -> dict[str, Any]:
    """The documents of a kind, by their names."""
    return {one["metadata"]["name"]: one for one in manifests(folder) if one["kind"] == kind}


def labels_of(document: Any) -> dict[str, str]:
    """The labels of the pods that a Deployment or a Job makes."""
    labels: dict[str, str] = document["spec"]["template"]["metadata"]["labels"]
    return labels


def deployments_and_job() -> dict[str, Any]:
    """All that makes pods, by the role that each has."""
    found = {**of_kind("Deployment"), **of_kind("Job", SETUP)}
    return {name.removeprefix("artifact-deletion-"): one for name, one in found.items()}


def pods() -> dict[str, Any]:
    """What each role runs."""
    return {name: one["spec"]["template"]["spec"] for name, one in deployments_and_job().items()}


def containers_of(pod: Any) -> list[Any]:
    """In the order in which they run, those that come first included."""
    return [*pod.get("initContainers", ()), *pod["containers"]]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """True if a selector is for pods with these labels. It may be for all, and never by an expression."""
    assert selector.keys() == {"matchLabels"}
    wanted: dict[str, str] = selector["matchLabels"]
    return wanted.items() <= labels.items()
