"""The kubernetes exporter: what it writes, from which numbers, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from workbench.backends import build_engine, predict
from workbench.comparison import Candidate
from workbench.dataset import Dataset
from workbench.errors import OptionsError
from workbench.exporters import Contents
from workbench.exporters.kubernetes import Options, export
from workbench.exporters.kubernetes.checks import check_manifests
from workbench.importers import load_model
from workbench.options import make_options
from workbench.serving_measurements import Derived
from workbench.serving_plan import plan_serving
from workbench.workspace import Workspace

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def contents(
    tmp_path_factory: pytest.TempPathFactory, model_file: Callable[..., Path], shared_workspace: Workspace
) -> Contents:
    engine = build_engine(load_model(model_file(tmp_path_factory.mktemp("model") / "two_words.onnx")))
    sample = Dataset({"x": np.eye(4, dtype=np.float32)[:1]})
    candidate = Candidate("as it\nis: | $name", engine)
    plan = dataclasses.replace(
        plan_serving(candidate),
        capacity=Derived(40, "queries/s", "the knee of 5 rates"),
        rate_per_replica=Derived(30, "queries/s", "0.75 × 40 queries/s"),
        cpu_cores=Derived(1.5, "cores", "3 × 0.5 threads"),
        memory_mb=Derived(640, "MB", "1.5 × the peak of 421 MB"),
    )
    return Contents(
        candidate, "two_words", sample.inputs, predict(engine, sample, workspace=shared_workspace), None, plan
    )


@pytest.fixture
def write(contents: Contents, tmp_path: Path) -> Write:
    def to_folder(changed: Contents = contents, **options: Any) -> Path:
        (tmp_path / "package").mkdir()
        export(changed, make_options(Options, options, "exporter kubernetes"), tmp_path / "package")
        return tmp_path / "package"

    return to_folder


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def pods(package: Path) -> tuple[Any, Any]:
    """What the pods are made of: of the Deployment, and under KServe."""
    deployed = read(package / "base" / "deployment.yaml")["spec"]["template"]["spec"]
    return deployed, read(package / "kserve" / "inferenceservice.yaml")["spec"]["predictor"]


def test_everything_that_is_promised_is_there_and_without_a_fault(write: Write) -> None:
    package = write()
    kinds = {read(path)["kind"] for path in (package / "base").glob("*.yaml")}

    assert check_manifests(package) == ()
    assert kinds == {
        "Kustomization", "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"
    }  # fmt: skip
    assert {path.name for path in package.iterdir()} == {"image", "base", "overlays", "canary", "kserve", "README.md"}
    assert (package / "base" / "config.json").read_bytes() == (package / "image" / "config.json").read_bytes()
    assert (package / "image" / "serve.py").is_file()


def test_the_pods_have_no_rights(write: Write) -> None:
    for pod in pods(write()):
        [container] = pod["containers"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
        }  # fmt: skip


def test_it_fits_the_image(write: Write) -> None:
    package = write()
    dockerfile = (package / "image" / "Dockerfile").read_text(encoding="utf-8")
    user, _ = pods(package)
    settings = json.loads((package / "image" / "config.json").read_bytes())
    [mount] = [m for m in user["containers"][0]["volumeMounts"] if m["name"] == "config"]

    assert f"USER {user['securityContext']['runAsUser']}:{user['securityContext']['runAsGroup']}" in dockerfile
    assert "EXPOSE 8000" in dockerfile
    assert mount["mountPath"] == f"{re.findall('WORKDIR (.*)', dockerfile)[0]}/config.json"
    assert user["terminationGracePeriodSeconds"] > (
        settings["limits"]["body_seconds"] + settings["models"][0]["request_seconds"]
    )


def test_numbers_come_from_the_plan_and_say_so(write: Write) -> None:
    package = write(target_rate=100.0)
    [container] = pods(package)[0]["containers"]
    scaler = read(package / "base" / "hpa.yaml")["spec"]
    text = (package / "base" / "deployment.yaml").read_text(encoding="utf-8")

    assert container["resources"]["requests"] == {"cpu": "1500m", "memory": "641M"}  # and the queue of requests
    assert container["resources"]["limits"] == {"cpu": "2500m", "memory": "641M"}
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (4, 12)
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 75
    assert read(package / "base" / "pdb.yaml")["spec"]["maxUnavailable"] == 1  # 3 of 4 carry 100 queries/s
    assert "1.5 × the peak of 421 MB" in text
    assert "# 3 × 0.5 threads" in text


@pytest.mark.parametrize(("workers", "words"), [(1, "50000 requests"), (3, "3 workers × 50000 requests")])
def test_the_memory_holds_the_queues_of_all_workers(write: Write, contents: Contents, workers: int, words: str) -> None:
    plan = dataclasses.replace(
        contents.plan, workers=Derived(workers, "workers", "so many"), queue=Derived(50_000, "requests", "a lot")
    )
    package = write(dataclasses.replace(contents, plan=plan))
    settings = json.loads((package / "image" / "config.json").read_bytes())
    requests = settings["workers"] * settings["models"][0]["queue"]  # the queue is each worker's
    body = (package / "image" / "sample_request.json").stat().st_size / 1e6
    [container] = pods(package)[0]["containers"]

    assert requests == workers * 50_000
    assert container["resources"]["limits"]["memory"] == f"{math.ceil(640 + requests * body)}M"
    assert f"and {words} of" in (package / "base" / "deployment.yaml").read_text(encoding="utf-8")


def test_every_number_has_its_source_beside_it(write: Write) -> None:
    package = write(target_rate=100.0, rate_metric="inference_rate")
    plain = re.compile(r"port|Port:|runAs|maxSkew|value: /v2|name: http1|newTag|image:")
    for path in package.rglob("*.yaml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r": \"?\d|- \"\d", line) and not plain.search(line) and path.parent.name != "staging":
                assert " # " in line, (path, line)


def test_more_replicas_may_be_away_when_more_is_to_spare(write: Write) -> None:
    package = write(target_rate=395.0, canary_weight=25)  # 14 at 30 queries/s, 10 at 40

    assert read(package / "base" / "hpa.yaml")["spec"]["minReplicas"] == 14
    assert read(package / "base" / "pdb.yaml")["spec"]["maxUnavailable"] == 4
    assert read(package / "canary" / "workload" / "hpa.yaml")["spec"]["minReplicas"] == 4


def test_a_rate_that_the_most_replicas_cannot_take_is_refused(write: Write) -> None:
    with pytest.raises(OptionsError, match=r"3 replicas at most are fewer than the 4 .*100 queries/s.*max_replicas"):
        write(target_rate=100.0, max_replicas=3)


def test_the_canary_gets_its_share_and_b_its_header(write: Write) -> None:
    package = write(canary_weight=5, ab_header="x-cohort", host="ml.example.org")
    weights = read(package / "canary" / "weights" / "httproute.yaml")["spec"]
    ab = read(package / "canary" / "ab" / "httproute.yaml")["spec"]

    assert [(b["name"], b["weight"]) for b in weights["rules"][1]["backendRefs"]] == [
        ("two-words", 95), ("two-words-canary", 5)
    ]  # fmt: skip
    assert ab["rules"][0]["matches"][0]["headers"] == [{"name": "x-cohort", "value": "b"}]
    assert ab["rules"][0]["matches"][0]["path"]["value"] == "/v2/models/two_words"
    assert read(package / "overlays" / "staging" / "httproute.yaml")["spec"]["hostnames"] == ["staging.ml.example.org"]


def test_a_key_is_taken_from_a_secret(write: Write) -> None:
    package = write(key_secret="two-words-key")

    assert json.loads((package / "base" / "config.json").read_bytes())["api_key"] == "environment"
    for pod in pods(package):
        [variable] = pod["containers"][0]["env"]
        assert variable["name"] == "WORKBENCH_API_KEY"
        assert variable["valueFrom"] == {"secretKeyRef": {"name": "two-words-key", "key": "key"}}


def test_a_candidate_on_a_gpu_asks_for_one(write: Write, contents: Contents) -> None:
    engine = dataclasses.replace(contents.candidate.engine, device="CUDAExecutionProvider")
    package = write(dataclasses.replace(contents, candidate=Candidate("fast", engine)))

    for pod in pods(package):
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("namespace", "Models"),
        ("namespace", "n" * 60),  # `-staging` does not fit behind it
        ("namespace", "a\nkind: Secret"),
        ("host", "models_1.example.com"),
        ("image", "Digits"),
        ("image", "digits:1"),
        ("tag", "a:b"),
        ("gateway", "-g"),
        ("ab_header", "x variant"),
        ("key_secret", "{}"),
        ("rate_metric", "rate: 1"),
        ("canary_weight", 101),
        ("min_replicas", 0),
    ],
)
def test_what_kubernetes_would_refuse_is_refused(write: Write, option: str, value: Any) -> None:
    with pytest.raises(OptionsError, match=option):
        write(**{option: value})


@pytest.mark.parametrize("name", ["true", "1e3", "0x1f", "null", "y", "123"])
def test_names_that_yaml_takes_for_something_else_stay_names(write: Write, contents: Contents, name: str) -> None:
    package = write(dataclasses.replace(contents, name=name), namespace=name, tag=name, gateway=name)
    overlay = read(package / "overlays" / "production" / "kustomization.yaml")
    service = read(package / "base" / "service.yaml")["metadata"]["name"]

    assert (overlay["namespace"], overlay["images"][0]["newTag"]) == (name, name)
    assert service == f"m-{name}"
