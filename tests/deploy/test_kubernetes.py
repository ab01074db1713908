"""k8s/: strictly valid, of one mind with each other, and slips at every depth are noticed."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import DEPLOY, Path_, at, document, keys, put, renamed
from tests.deploy.kubernetes import complaints, definition_complaints, manifests

FILES = manifests()
PATHS: list[Path_] = [
    (name, number, *path)
    for name, documents in FILES.items()
    for number, document in enumerate(documents)
    for path in keys(document)
]
EVERY = 9


def test_they_are_sound() -> None:
    assert complaints(FILES) == []


@pytest.mark.parametrize("path", PATHS[::EVERY], ids=lambda path: "/".join(map(str, path)))
def test_a_misspelt_key_is_noticed(path: Path_) -> None:
    assert complaints(renamed(FILES, path, f"{path[-1]}x")) != []


def test_the_chosen_keys_are_of_all_files_and_nearly_all_depths() -> None:
    chosen = PATHS[::EVERY]
    assert {path[0] for path in chosen} == set(FILES)
    assert len({len(path) for path in chosen}) >= len({len(path) for path in PATHS}) - 1


def place(name: str, kind: str, *path: str | int) -> Path_:
    """Give the path of a part in the document of a kind."""
    (number,) = [number for number, document in enumerate(FILES[name]) if document["kind"] == kind]
    return (name, number, *path)


def container(name: str, kind: str, *path: str | int) -> Path_:
    return place(name, kind, "spec", "template", "spec", "containers", 0, *path)


HEAD = place("raycluster.yaml", "RayCluster", "spec", "headGroupSpec")
CPU = place("raycluster.yaml", "RayCluster", "spec", "workerGroupSpecs", 0)
BESIDE = container("prefect-worker.yaml", "Deployment", "args")
ADDRESS = (*BESIDE, at(FILES, BESIDE).index("--address=charflow-head-svc:6379"))
IN_HEAD = (*HEAD, "template", "spec", "containers", 0)
JOB = place("rayjob.yaml", "RayJob", "spec")
WRONG: dict[str, tuple[Path_, Any, str]] = {
    "a command": (container("prefect-server.yaml", "Deployment", "args", 1), "sever", "prefect sever start"),
    "a word of a node": ((*BESIDE, at(FILES, BESIDE).index("--num-cpus=0")), "--num-cpu=0", "option '--num-cpu'"),
    "a word of a worker": ((*BESIDE, at(FILES, BESIDE).index("--limit=1")), "--limti=1", "Unknown option"),
    "the head's port": (ADDRESS, "--address=charflow-head-svc:6397", "charflow-head-svc:6397 is no port"),
    "the head's name": (ADDRESS, "--address=charflow-haed-svc:6379", "is no port of a service"),
    "an entrypoint": ((*JOB, "entrypoint"), "charflow rnu digits --ray auto", "invalid choice: 'rnu'"),
    "a preset": ((*JOB, "entrypoint"), "charflow run digist --ray auto", "digist"),
    "no patience": (
        ("environment.yaml", 0, "data"),
        {"CHARFLOW_ROOT": "s3://your-bucket/runs", "PREFECT_API_URL": "http://prefect-server:4200/api"},
        "charflow: has no CPU at rest, so runs need CHARFLOW_PATIENCE",
    ),
    "a cluster": ((*JOB, "clusterSelector", "ray.io/cluster"), "charlfow", "charlfow is no cluster"),
    "an option of ray start": ((*HEAD, "rayStartParams"), {"num-cpu": "0"}, "No such option '--num-cpu'"),
    "a number of ray start": ((*HEAD, "rayStartParams", "num-cpus"), "none", "is not a valid integer"),
    "a port of metrics": ((*CPU, "rayStartParams", "metrics-export-port"), "8081", "no port for metrics at 8081"),
    "custom resources": ((*CPU, "rayStartParams", "resources"), '{"simulator": 8}', "must be JSON in a JSON string"),
    "replicas": ((*CPU, "maxReplicas"), "16", "is not of type 'integer'"),
    "fewer at most than at least": ((*CPU, "minReplicas"), 32, "replicas must be from minReplicas"),
    "a version of Ray": (place("raycluster.yaml", "RayCluster", "spec", "rayVersion"), "2.50.0", "is not the lock's"),
    "an upscaling mode": (
        place("raycluster.yaml", "RayCluster", "spec", "autoscalerOptions", "upscalingMode"),
        "Agressive",
        "'Agressive' is not one of",
    ),
    "an image": ((*IN_HEAD, "image"), "charflow:latest", "image must be charflow:"),
    "a secret's name": (
        container("prefect-server.yaml", "Deployment", "env", 0, "valueFrom", "secretKeyRef", "name"),
        "charflow-perfect",
        "the secret charflow-perfect has no key connection-url",
    ),
    "a secret's key": (
        container("prefect-worker.yaml", "Deployment", "env", 4, "valueFrom", "secretKeyRef", "key"),
        "auth_string",
        "has no key auth_string",
    ),
    "a secret in the file": (
        container("prefect-server.yaml", "Deployment", "env", 1),
        {"name": "PREFECT_SERVER_API_AUTH_STRING", "value": "admin:admin"},
        "must come from a secret",
    ),
    "a variable": (
        container("prefect-server.yaml", "Deployment", "env", 2, "name"),
        "PREFECT_SERVER_ANALYTICS_ENABLE",
        "PREFECT_SERVER_ANALYTICS_ENABLE: is read by nobody",
    ),
    "a config map": ((*IN_HEAD, "envFrom", 0, "configMapRef", "name"), "environment", "configMapRef environment is"),
    "an account": (
        place("prefect-worker.yaml", "Deployment", "spec", "template", "spec", "serviceAccountName"),
        "charlfow",
        "the service account charlfow, which is missing",
    ),
    "a role that KubeRay makes": (
        place("accounts.yaml", "Role", "metadata", "name"),
        "charflow",
        "Role charflow has the name of one that KubeRay makes",
    ),
    "an account that KubeRay makes": (
        place("accounts.yaml", "ServiceAccount", "metadata", "name"),
        "charflow",
        "ServiceAccount charflow has the name of one that KubeRay makes",
    ),
    "a role": (place("accounts.yaml", "RoleBinding", "roleRef", "name"), "charlfow", "binds what is missing"),
    "a volume": ((*IN_HEAD, "volumeMounts", 0, "name"), "scrath", "mounts scrath, which is no volume"),
    "a selector": (
        place("prefect-server.yaml", "Service", "spec", "selector", "app.kubernetes.io/component"),
        "prefect",
        "the service is of no pod",
    ),
    "a service's port": (place("prefect-server.yaml", "Service", "spec", "ports", 0, "port"), 4201, "is not the pods'"),
    "a probe's port": ((*IN_HEAD, "readinessProbe", "httpGet", "port"), "dashbord", "which has no such name"),
    "a probe of life that asks for the server": (
        container("prefect-worker.yaml", "Deployment", "livenessProbe"),
        {"httpGet": {"path": "/health", "port": "health"}},
        "the pod would end with its run",
    ),
    "a port of a probe of life": (
        container("prefect-worker.yaml", "Deployment", "livenessProbe", "tcpSocket", "port"),
        "healht",
        "livenessProbe asks the port healht, which has no such name",
    ),
    "a probe's path": ((*IN_HEAD, "livenessProbe", "httpGet", "path"), "/api/gcs_health", "nobody answers"),
    "a budget": (
        ("disruption.yaml", 0, "spec", "selector", "matchLabels", "ray.io/node-type"),
        "haed",
        "the budget is of no pod",
    ),
    "a policy's port": (("network.yaml", 2, "spec", "ingress", 1, "ports", 0, "port"), 8266, "ingress names 8266"),
    "a policy's pods": (
        (
            "network.yaml",
            2,
            "spec",
            "ingress",
            1,
            "from",
            0,
            "podSelector",
            "matchLabels",
            "app.kubernetes.io/component",
        ),
        "submitter",
        "of which there are none",
    ),
    "root": (
        place("prefect-server.yaml", "Deployment", "spec", "template", "spec", "securityContext", "runAsNonRoot"),
        False,
        "runAsNonRoot must be true",
    ),
    "a token of Kubernetes": (
        place("prefect-worker.yaml", "Deployment", "spec", "template", "spec", "automountServiceAccountToken"),
        True,
        "automountServiceAccountToken must be false",
    ),
    "no resources": ((*IN_HEAD, "resources"), {}, "resources must request cpu and memory"),
    "a file": (("kustomization.yaml", 0, "resources", 0), "namespaces.yaml", "namespaces.yaml is listed and missing"),
    "a tag": (("kustomization.yaml", 0, "images", 0, "newTag"), "0.0.1", "images must be charflow"),
}


@pytest.mark.parametrize(("path", "value", "told"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_noticed(path: Path_, value: Any, told: str) -> None:
    assert told in "; ".join(complaints(put(FILES, path, value)))


def test_a_secret_with_values_is_refused() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "x"}}
    assert "lie in no file" in complaints(FILES | {"accounts.yaml": [*FILES["accounts.yaml"], secret]})[0]


DEFINITIONS = os.environ.get("KUBERAY_CRDS", "")


@pytest.mark.skipif(not DEFINITIONS, reason="KUBERAY_CRDS names no folder with KubeRay's ray.io_*.yaml")
@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kuberays_own_definitions_hold(name: str) -> None:
    (manifest,) = FILES[f"{name}.yaml"]
    assert definition_complaints(document(Path(DEFINITIONS) / f"ray.io_{name}s.yaml"), manifest) == []


def test_a_definition_refuses_keys_that_it_does_not_know() -> None:
    spec = {
        "type": "object",
        "properties": {"replicas": {"type": "integer"}, "port": {"x-kubernetes-int-or-string": True}},
    }
    schema = {
        "type": "object",
        "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "spec": spec},
    }
    definition = {"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}}
    sound = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "spec": {"replicas": 1, "port": "http"}}
    assert definition_complaints(definition, sound) == []
    assert (
        "'replica' was unexpected"
        in definition_complaints(definition, renamed(sound, ("spec", "replicas"), "replica"))[0]
    )
    assert definition_complaints(definition, put(sound, ("spec", "replicas"), "1")) != []


@pytest.mark.parametrize(
    ("policy", "peer", "port"),
    [
        ("names", {"ipBlock": {"cidr": "169.254.20.10/32"}}, None),
        ("ray", None, {"port": 9000}),
        ("prefect-server", None, {"port": 6432}),
    ],
)
def test_what_the_head_of_the_network_file_says_to_add_can_be_added(policy: str, peer: Any, port: Any) -> None:
    """Told with its address or port, and sound once it is there."""
    head = (DEPLOY / "k8s" / "network.yaml").read_text().partition("apiVersion")[0]
    assert f'"{policy}"' in head
    assert str(peer["ipBlock"]["cidr"] if peer else port["port"]) in head
    (number,) = [n for n, each in enumerate(FILES["network.yaml"]) if each["metadata"]["name"] == policy]
    rule = ("network.yaml", number, "spec", "egress", len(FILES["network.yaml"][number]["spec"]["egress"]) - 1)
    path = (*rule, "to" if peer else "ports")
    assert complaints(put(FILES, path, [*at(FILES, path), peer or port])) == []
