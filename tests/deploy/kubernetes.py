"""Checks the manifests of k8s/: their schemas, and what no schema can: that names, labels and ports agree."""

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator

from tests.deploy import commands, environment
from tests.deploy.files import DEPLOY, VERSION, against, documents, keys, ports_named, strings, told
from tests.deploy.pods import Names, Pod, pods
from tests.deploy.pods import complaints as pod_complaints

FOLDER = DEPLOY / "k8s"
KUBERNETES = "1.37"
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}  # labels of pods that others install
LABELS = {  # and annotations: a wrong one is no error to anybody, and does nothing
    "app.kubernetes.io/name",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/component",
    "charflow/ray-node",
    "ray.io/cluster",
    "ray.io/node-type",
    "kubernetes.io/metadata.name",
    "pod-security.kubernetes.io/enforce",
    "cluster-autoscaler.kubernetes.io/safe-to-evict",
}
_SECRET = re.compile(r"kubectl create secret generic ([\w-]+)((?: \\\n +--\S+)+)")


def manifests() -> dict[str, list[Any]]:
    """Give the documents of each file by its name."""
    return {path.name: documents(path) for path in sorted(FOLDER.glob("*.yaml"))}


def complaints(files: dict[str, list[Any]]) -> list[str]:
    """Give everything that is wrong."""
    files = dict(files)
    (kustomization,) = files.pop("kustomization.yaml")
    found = against("kustomization.json", kustomization)
    everything = [document for documents in files.values() for document in documents]
    for document in everything:
        found += _schema(document)
    if found:
        return found
    made = list(pods(everything))
    for pod in made:
        found += pod_complaints(pod, _names(everything))
    each = (_labels, _selectors, _policies, _addresses, _maps, _ray, _kuberays_own)
    return found + _kustomization(kustomization, files) + [word for check in each for word in check(everything, made)]


def _schema(document: Any) -> list[str]:
    return _schema_of(json.dumps(document))


@cache  # tests change one document of many
def _schema_of(text: str) -> list[str]:
    document = json.loads(text)
    where = f"{document.get('kind')} {document.get('metadata', {}).get('name', '')}"
    if not str(document.get("apiVersion")).startswith("ray.io/"):
        return [f"{where}: {word}" for word in _core(document)]
    found = against("kuberay.json", document)
    for template in () if found else _templates(document["spec"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata", {}), "spec": template["spec"]}
        found += _core(pod)
    return [f"{where}: {word}" for word in found]


def _core(document: Any) -> list[str]:
    if document.get("kind") == "Secret":
        return ["secrets are made by hand and lie in no file"]
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}"]
    except (kubernetes_validate.SchemaNotFoundError, KeyError) as error:
        return [f"no such kind: {error}"]
    return []


def definition_complaints(definition: Any, document: Any) -> list[str]:
    """Give what a CustomResourceDefinition says against a document, keys that it does not know among it."""
    version = document["apiVersion"].partition("/")[2]
    (schema,) = [each["schema"] for each in definition["spec"]["versions"] if each["name"] == version]
    return told(Draft202012Validator(_closed(schema["openAPIV3Schema"])), document)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object":
        closed.setdefault("additionalProperties", bool(closed.get("x-kubernetes-preserve-unknown-fields")))
    if closed.get("x-kubernetes-int-or-string"):
        return {}
    return closed


def _templates(spec: Any) -> Iterator[Any]:
    if "submitterPodTemplate" in spec:
        yield spec["submitterPodTemplate"]
    if "headGroupSpec" in spec:
        yield spec["headGroupSpec"]["template"]
        yield from (group["template"] for group in spec["workerGroupSpecs"])


def of_kind(everything: list[Any], *kinds: str) -> list[Any]:
    """Give the documents of some kinds."""
    return [document for document in everything if document["kind"] in kinds]


def secrets() -> dict[str, set[str]]:
    """Give the secrets that the runbook makes by hand, and their keys."""
    text = (DEPLOY / "README.md").read_text()
    return {name: set(re.findall(r"--from-literal=([\w-]+)=", rest)) for name, rest in _SECRET.findall(text)}


def _names(everything: list[Any]) -> Names:
    clusters = [cluster for cluster in of_kind(everything, "RayCluster") if "authOptions" in cluster["spec"]]
    return Names(
        accounts={document["metadata"]["name"] for document in of_kind(everything, "ServiceAccount")},
        maps={document["metadata"]["name"]: set(document["data"]) for document in of_kind(everything, "ConfigMap")},
        secrets=secrets() | {cluster["metadata"]["name"]: {"auth_token"} for cluster in clusters},
    )


def _kustomization(kustomization: Any, files: dict[str, list[Any]]) -> list[str]:
    listed = set(kustomization["resources"]) | {"rayjob.yaml"}  # which is created anew for each run
    found = [f"{name} is listed and missing" for name in sorted(listed - set(files))]
    found += [f"{name} is not listed" for name in sorted(set(files) - listed)]
    spaces = {document["metadata"]["name"] for document in of_kind(files.get("namespace.yaml", []), "Namespace")}
    if kustomization["namespace"] not in spaces:
        found.append(f"the namespace {kustomization['namespace']} is missing")
    images = [(image["name"], image["newTag"]) for image in kustomization["images"]]
    return found if images == [("charflow", VERSION)] else [*found, f"images must be charflow {VERSION}, got {images}"]


def _labels(everything: list[Any], made: list[Pod]) -> list[str]:
    found = [
        f"{path[-1]} is no label or annotation that anybody reads"
        for document in everything
        for path in keys(document)
        if path[-2:-1] in (("labels",), ("matchLabels",), ("annotations",)) and path[-1] not in LABELS
    ]
    told = {"app.kubernetes.io/part-of", "app.kubernetes.io/component"}
    return found + [f"{pod.name} must have the labels {sorted(told)}" for pod in made if not told <= set(pod.labels)]


def _matches(selector: Any, pod: Pod) -> bool:
    return set(selector.items()) <= set(pod.labels.items())


def _selectors(everything: list[Any], made: list[Pod]) -> list[str]:
    each = [*_deployments(everything), *_budgets(everything, made), *_services(everything, made)]
    return each + _bindings(everything)


def _deployments(everything: list[Any]) -> Iterator[str]:
    for document in of_kind(everything, "Deployment"):
        wanted, labels = document["spec"]["selector"]["matchLabels"], document["spec"]["template"]["metadata"]["labels"]
        if not wanted.items() <= labels.items():
            yield f"{document['metadata']['name']}: its selector does not match its pods"


def _budgets(everything: list[Any], made: list[Pod]) -> Iterator[str]:
    for document in of_kind(everything, "PodDisruptionBudget"):
        if not any(_matches(document["spec"]["selector"]["matchLabels"], pod) for pod in made):
            yield f"{document['metadata']['name']}: the budget is of no pod"


def _services(everything: list[Any], made: list[Pod]) -> Iterator[str]:
    for service in of_kind(everything, "Service"):
        name, chosen = service["metadata"]["name"], [pod for pod in made if _matches(service["spec"]["selector"], pod)]
        if not chosen:
            yield f"{name}: the service is of no pod"
        for port in service["spec"]["ports"]:
            if any(pod.ports.get(port["targetPort"]) != port["port"] for pod in chosen):
                yield f"{name}: {port['targetPort']} is not the pods' {port['port']}"


def _bindings(everything: list[Any]) -> list[str]:
    roles = {role["metadata"]["name"] for role in of_kind(everything, "Role")}
    accounts = {account["metadata"]["name"] for account in of_kind(everything, "ServiceAccount")}
    return [
        f"{binding['metadata']['name']}: binds what is missing"
        for binding in of_kind(everything, "RoleBinding")
        if binding["roleRef"]["name"] not in roles or not {who["name"] for who in binding["subjects"]} <= accounts
    ]


def _policies(everything: list[Any], made: list[Pod]) -> list[str]:
    found = []
    for policy in of_kind(everything, "NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        own = [pod for pod in made if _matches(spec["podSelector"].get("matchLabels", {}), pod)]
        if not own:
            found.append(f"{name}: the policy is of no pod")
        for way, peers in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(way, []):
                reached = _reached(rule.get(peers, []), made)
                found += [f"{name}: {way} {word}" for word in _unknown(rule.get(peers, []), made)]
                open_ = {port for pod in (own if way == "ingress" else reached) for port in pod.ports.values()}
                closed = [port["port"] for port in rule.get("ports", []) if open_ and port["port"] not in open_]
                found += [f"{name}: {way} names {port}, where no such pod listens" for port in closed]
    return found


def _reached(peers: list[Any], made: list[Pod]) -> list[Pod]:
    chosen = [peer["podSelector"]["matchLabels"] for peer in peers if set(peer) == {"podSelector"}]
    return [pod for pod in made if any(_matches(labels, pod) for labels in chosen)]


def _unknown(peers: list[Any], made: list[Pod]) -> list[str]:
    chosen = [peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer]
    return [
        f"names pods {labels}, of which there are none"
        for labels in chosen
        if labels != OPERATOR and not any(_matches(labels, pod) for pod in made)
    ]


def _addresses(everything: list[Any], made: list[Pod]) -> list[str]:
    services = {
        service["metadata"]["name"]: {port["port"] for port in service["spec"]["ports"]}
        for service in of_kind(everything, "Service")
    }
    for pod in made:
        if pod.labels.get("ray.io/node-type") == "head":
            services[f"{pod.labels['ray.io/cluster']}-head-svc"] = set(pod.ports.values())  # KubeRay makes it
    asked = [text for pod in made for text in strings(pod.container.get("args", []))]
    asked += [text for document in of_kind(everything, "ConfigMap") for text in strings(document["data"])]
    return [
        f"{host}:{port} is no port of a service"
        for text in asked
        for host, port in ports_named(text)
        if port not in services.get(host, set())
    ]


def _maps(everything: list[Any], _: list[Pod]) -> list[str]:
    return [word for document in of_kind(everything, "ConfigMap") for word in environment.unread(set(document["data"]))]


def _ray(everything: list[Any], _: list[Pod]) -> list[str]:
    clusters = {document["metadata"]["name"]: document["spec"] for document in of_kind(everything, "RayCluster")}
    lock = (DEPLOY / "constraints.txt").read_text()
    found = [
        f"{name}: rayVersion {spec['rayVersion']} is not the lock's"
        for name, spec in clusters.items()
        if f"\nray=={spec['rayVersion']}\n" not in lock
    ]
    for spec in clusters.values():
        for group in spec["workerGroupSpecs"]:
            if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
                found.append(f"{group['groupName']}: replicas must be from minReplicas to maxReplicas")
            try:
                json.loads(json.loads(group["rayStartParams"].get("resources", '"{}"')))
            except (ValueError, TypeError):
                found.append(f"{group['groupName']}: resources must be JSON in a JSON string")
    patient = any("CHARFLOW_PATIENCE" in document["data"] for document in of_kind(everything, "ConfigMap"))
    for name, spec in clusters.items():
        has_none = all(group["minReplicas"] == 0 for group in spec["workerGroupSpecs"])
        if has_none and spec["headGroupSpec"]["rayStartParams"].get("num-cpus") == "0" and not patient:
            found.append(f"{name}: has no CPU at rest, so runs need CHARFLOW_PATIENCE")
    for job in of_kind(everything, "RayJob"):
        cluster = job["spec"]["clusterSelector"]["ray.io/cluster"]
        found += [] if cluster in clusters else [f"{cluster} is no cluster"]
        found += commands.complaints(shlex.split(job["spec"]["entrypoint"]))
    return found


def _kuberays_own(everything: list[Any], _: list[Pod]) -> list[str]:
    """Give what has the name of something that KubeRay would make: it takes that as it is, without its rights."""
    own: set[tuple[str, str]] = set()
    for cluster in of_kind(everything, "RayCluster"):
        name = cluster["metadata"]["name"]
        own |= {("Service", f"{name}-head-svc")}
        if cluster["spec"].get("enableInTreeAutoscaling"):
            own |= {(kind, name) for kind in ("ServiceAccount", "Role", "RoleBinding")}
    made = [(document["kind"], document["metadata"].get("name", "")) for document in everything]
    return [
        f"{kind} {name} has the name of one that KubeRay makes, and uses as it is"
        for kind, name in made
        if (kind, name) in own
    ]
