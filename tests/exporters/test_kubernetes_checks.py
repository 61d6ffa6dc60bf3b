"""Faults planted in exported manifests, each of which must be found; and manifests from strangers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from workbench.backends import build_engine
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.exporters import export_package
from workbench.exporters.kubernetes.checks import check_manifests
from workbench.importers import load_model
from workbench.workspace import Workspace

Fault = tuple[str, str, str, str]  # file, what stands there, what is put in its place, what is said

NINE: dict[str, Fault] = {
    "selector": (
        "base/deployment.yaml",
        "  selector:\n    matchLabels:\n      app.kubernetes.io/name: net",
        "  selector:\n    matchLabels:\n      app.kubernetes.io/name: other",
        r"deployment.yaml: Deployment net: its selector .*other.* does not choose its own pods",
    ),
    "quantity": ("base/deployment.yaml", r"memory: \"\d+M\"", 'memory: "512MiB"', r"memory is '512MiB', .*no quantity"),
    "probe port": (
        "base/deployment.yaml",
        "path: /v2/health/live\n              port: http",
        "path: /v2/health/live\n              port: web",
        "the livenessProbe of container server asks the port 'web'",
    ),
    "mount": (
        "base/deployment.yaml",
        "- name: scratch\n              mountPath",
        "- name: cache\n              mountPath",
        "container server mounts the volume 'cache', which its pod does not have",
    ),
    "port": ("base/service.yaml", "port: 80\n", "port: 99999999\n", r"port is 99999999; ports go from 1 to 65535"),
    "hpa target": (
        "base/hpa.yaml",
        "kind: Deployment\n    name: net",
        "kind: Deployment\n    name: nets",
        "it scales the Deployment nets, which is not here",
    ),
    "target port": ("base/service.yaml", "targetPort: http", "targetPort: grpc", "targetPort 'grpc' is none that"),
    "config key": ("base/deployment.yaml", "subPath: config.json", "subPath: conf.json", "'conf.json' is no key"),
    "resource": ("base/kustomization.yaml", "pdb.yaml", "budget.yaml", "resource 'budget.yaml' does not exist"),
}

MORE: dict[str, Fault] = {
    "budget selector": ("base/pdb.yaml", "track: stable", "track: old", "PodDisruptionBudget net: its selector .*old"),
    "policy selector": ("base/networkpolicy.yaml", "track: stable", "track: old", "its podSelector .*old.* chooses no"),
    "policy port": ("base/networkpolicy.yaml", "port: http", "port: web", "its port 'web' is none that its pods"),
    "service selector": ("base/service.yaml", "selector:\n", "selector:\n    a: b\n", "Service net: its selector a=b"),
    "spread": (
        "base/deployment.yaml",
        "labelSelector:\n            matchLabels:\n              app.kubernetes.io/name: net",
        "labelSelector:\n            matchLabels:\n              app.kubernetes.io/name: other",
        "topologySpreadConstraints choose .*not its own pods",
    ),
    "backend": ("canary/ab/httproute.yaml", "name: net-canary", "name: net-b", "rule 1 leads to the Service net-b"),
    "backend port": ("overlays/production/httproute.yaml", "port: 80", "port: 81", "port 81, which the Service net"),
    "weight": ("canary/weights/httproute.yaml", "weight: 90", "weight: -90", "rule 2 has the weight -90"),
    "no weight": (
        "canary/weights/httproute.yaml",
        r"weight: 90(.*\n.*\n.*\n.*)weight: 10",
        r"weight: 0\1weight: 0",
        "rule 2 has no weight but 0",
    ),
    "half weights": ("canary/weights/httproute.yaml", "weight: 90.*\n", "\n", "rule 2 gives weights to some"),
    "name": ("base/pdb.yaml", "name: net\nspec", "name: Net_1\nspec", "the name 'Net_1' is not valid.*RFC 1123"),
    "service name": ("base/service.yaml", "metadata:\n  name: net", "metadata:\n  name: 1net", "no name of a Service"),
    "container name": ("base/deployment.yaml", "- name: server", "- name: my_server", "'my_server' inside its pod"),
    "label value": ("base/hpa.yaml", "  name: net\nspec", "  name: net\n  labels: {a: 1}\nspec", "label a is 1"),
    "port name": ("base/deployment.yaml", "- name: http", "- name: HTTP", "a port named 'HTTP'"),
    "double key": ("base/deployment.yaml", "image:", "ports: []\n          image:", "the key 'ports' stands twice"),
    "config map": ("base/deployment.yaml", "name: net-config", "name: net-conf", "ConfigMap net-conf, which is not"),
    "generator": ("base/kustomization.yaml", "- config.json", "- conf.json", "file 'conf.json' does not exist"),
    "patch": ("overlays/staging/hpa.yaml", "name: net", "name: ned", "no HorizontalPodAutoscaler ned here that the"),
    "patch file": ("overlays/staging/kustomization.yaml", "path: hpa.yaml", "path: h.yaml", "patch 'h.yaml' does not"),
    "patch value": ("overlays/staging/hpa.yaml", "minReplicas: 1", "minReplicas: 5", "at least 5 replicas but at most"),
    "images": ("overlays/production/kustomization.yaml", "- name: net", "- name: ned", "no container has the image 'n"),
    "over limit": ("base/deployment.yaml", r"cpu: \"\d+\"", 'cpu: "64"', "requests more cpu than its limit"),
    "milli-bytes": ("base/deployment.yaml", r"memory: \"\d+M\"", 'memory: "320m"', "320m, thousandths of a byte"),
    "no request": ("base/deployment.yaml", r"requests:\n.*cpu.*\n", "requests:\n", "share of the cpu that .* not req"),
    "budget": ("base/pdb.yaml", "maxUnavailable: 1", "minAvailable: 2", "2 pods must stay of 2, so that no node"),
    "gateway": ("overlays/production/httproute.yaml", r"  parentRefs:\n.*\n.*\n", "", "attached to no Gateway"),
    "no folder": ("canary/ab/kustomization.yaml", r"\.\./workload", "../wrkload", "resource '../wrkload' does not ex"),
    "twice": ("canary/ab/kustomization.yaml", "- httproute", "- ../../base\n  - ../workload\n  - httproute", "already"),
}

SCHEMA: dict[str, Fault] = {
    "unknown field": ("base/deployment.yaml", "livenessProbe", "livenesProbe", "livenesProbe"),
    "wrong type": ("base/hpa.yaml", "maxReplicas: 6", "maxReplicas: many", "maxReplicas.*'many'"),
    "old version": ("base/hpa.yaml", "autoscaling/v2", "autoscaling/v2beta2", "has no Horizontal.* in autoscaling/v2b"),
    "missing field": ("base/hpa.yaml", "  maxReplicas: .*\n", "", "'maxReplicas' is a required"),
}


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, model_file: Callable[..., Path], shared_workspace: Workspace
) -> Path:
    folder = tmp_path_factory.mktemp("kubernetes")
    candidate = Candidate("as it is", build_engine(load_model(model_file(folder / "net.onnx"))))
    sample = Dataset({"x": np.eye(4, dtype=np.float32)})
    package = export_package(
        candidate, "kubernetes", sample=sample, directory=folder / "package", workspace=shared_workspace
    )
    return package.directory


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "copy")
    return tmp_path / "copy"


def plant(folder: Path, fault: Fault) -> None:
    file, there, instead, _ = fault
    text = (folder / file).read_text(encoding="utf-8")
    changed, times = re.subn(there, instead, text, count=1)
    assert times == 1, (file, there)
    (folder / file).write_text(changed, encoding="utf-8")


def said(faults: tuple[str, ...], words: str) -> bool:
    return any(re.search(words, fault) for fault in faults)


def test_what_is_exported_has_no_fault(exported: Path) -> None:
    assert check_manifests(exported) == ()


@pytest.mark.parametrize("fault", {**NINE, **MORE})
def test_a_planted_fault_is_found(copy: Path, fault: str) -> None:
    planted = {**NINE, **MORE}[fault]
    plant(copy, planted)
    faults = check_manifests(copy, schemas=False)

    assert said(faults, planted[3]), faults
    assert all(re.match(r"[\w/]+\.yaml: ", one) for one in faults)


def test_nine_faults_at_once_are_all_found(copy: Path) -> None:
    for fault in NINE.values():
        plant(copy, fault)
    faults = check_manifests(copy, schemas=False)

    assert [name for name, fault in NINE.items() if not said(faults, fault[3])] == []


@pytest.mark.parametrize("fault", SCHEMA)
def test_what_schemas_forbid_is_found(copy: Path, fault: str) -> None:
    pytest.importorskip("kubernetes_validate")
    plant(copy, SCHEMA[fault])

    assert said(check_manifests(copy), SCHEMA[fault][3]), check_manifests(copy)


STRANGE = {
    "a: &a [1]\nb: *a": "aliases are not read",
    "!!python/object/apply:os.system [touch ran]": "not valid YAML",
    "a: [": "not valid YAML",
    "[" * 1000: "not valid YAML",
    "apiVersion: v1\nkind: Pod\nmetadata: text\nspec: [1]": "it has no name",
    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: 3}": "its pods have no container",
    "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selector: 7, ports: {}}": "chooses no pods",
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: [1]}\ndata: 5": "",
    "apiVersion: ../../v1\nkind: [Pod]\nmetadata: {name: a}": r"its apiVersion is '../../v1', which is none",
    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: x": "no Gateway",
}


@pytest.mark.parametrize("text", STRANGE)
def test_a_strange_manifest_is_a_fault_and_not_a_crash(tmp_path: Path, text: str) -> None:
    (tmp_path / "strange.yaml").write_text(text)

    assert said(check_manifests(tmp_path), STRANGE[text] or ".") or not STRANGE[text]
    assert not (tmp_path / "ran").exists()


def test_nothing_outside_is_read(tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text("a: [")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(
        "resources: [../outside.yaml, https://example.com/base]\npatches: [{path: ../outside.yaml}, {patch: 3}]\n"
    )

    assert check_manifests(folder) == (
        "kustomization.yaml: the resource '../outside.yaml' leads out of the folder",
        "kustomization.yaml: the patch '../outside.yaml' leads out of the folder",
    )


def test_bases_that_lead_in_a_circle_are_a_fault(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kustomization.yaml").write_text(f"resources: [../{other}]\n")

    assert said(check_manifests(tmp_path), "it is its own base")


def test_a_folder_without_manifests_is_a_fault(tmp_path: Path) -> None:
    assert said(check_manifests(tmp_path), "there are no manifests")


@pytest.mark.serving
def test_kubectl_builds_what_was_exported(exported: Path, tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    assert kubectl, "make test-serving installs it"
    built = {}
    for overlay in ("overlays/staging", "overlays/production", "canary/weights", "canary/ab", "kserve"):
        ended = subprocess.run(
            [kubectl, "kustomize", exported / overlay], capture_output=True, text=True, check=True, timeout=60
        )
        built[overlay] = list(yaml.safe_load_all(ended.stdout))
        (tmp_path / overlay).mkdir(parents=True)
        (tmp_path / overlay / "all.yaml").write_text(ended.stdout)
    names = {(one["kind"], one["metadata"]["name"]) for one in built["canary/weights"]}
    canary = next(one for one in built["canary/weights"] if one["kind"] == "Deployment")
    staging = {one["kind"]: one for one in built["overlays/staging"]}

    assert check_manifests(tmp_path) == ()
    assert ("Service", "net-canary") in names
    assert ("HTTPRoute", "net") in names
    assert canary["spec"]["selector"]["matchLabels"]["track"] == "canary"
    assert canary["spec"]["template"]["metadata"]["labels"]["track"] == "canary"
    assert staging["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] == 2
    assert {one["metadata"]["namespace"] for one in built["overlays/staging"]} == {"models-staging"}
    assert re.fullmatch(r"net-config-[a-z0-9]{10}", staging["ConfigMap"]["metadata"]["name"])
    volumes = staging["Deployment"]["spec"]["template"]["spec"]["volumes"]
    assert volumes[0]["configMap"]["name"] == staging["ConfigMap"]["metadata"]["name"]
