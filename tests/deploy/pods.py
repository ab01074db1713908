"""The pods that manifests make, however they are wrapped, and what must hold for each of them alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.deploy import commands, environment
from tests.deploy.files import IMAGE


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod as it will be, with what KubeRay adds."""

    name: str
    labels: Mapping[str, str]
    spec: Any
    ray_params: Mapping[str, str] | None = None  # of ray start, where KubeRay writes the command
    has_command: bool = True  # false where KubeRay writes it

    @property
    def container(self) -> Any:
        """The only container."""
        (found,) = self.spec["containers"]
        return found

    @property
    def ports(self) -> dict[str, int]:
        """The container's ports by their names."""
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a pod may refer to."""

    accounts: set[str]
    maps: Mapping[str, set[str]]  # config maps and their keys
    secrets: Mapping[str, set[str]] = field(default_factory=dict)


def pods(documents: list[Any]) -> Iterator[Pod]:
    """Give every pod of some manifests."""
    for document in documents:
        name, spec = document["metadata"].get("name", document["kind"]), document.get("spec", {})
        match document["kind"]:
            case "Deployment" | "Job":
                template = spec["template"]
                yield Pod(name=name, labels=template["metadata"]["labels"], spec=template["spec"])
            case "RayCluster":
                yield _ray(name, "head", spec["headGroupSpec"])
                for group in spec["workerGroupSpecs"]:
                    yield _ray(name, "worker", group)
            case "RayJob":
                template = spec["submitterPodTemplate"]
                labels = template["metadata"]["labels"]
                yield Pod(name=name, labels=labels, spec=template["spec"], has_command=False)


def _ray(cluster: str, kind: str, group: Any) -> Pod:
    template = group["template"]
    added = {"ray.io/cluster": cluster, "ray.io/node-type": kind}
    return Pod(
        name=f"{cluster} {group.get('groupName', kind)}",
        labels=template["metadata"]["labels"] | added,
        spec=template["spec"],
        ray_params=group["rayStartParams"],
        has_command=False,
    )


def complaints(pod: Pod, names: Names) -> list[str]:
    """Give everything that is wrong with a pod."""
    each = (_security(pod), _container(pod), _probes(pod), _mounts(pod), _references(pod, names), _ray_start(pod))
    return [f"{pod.name}: {word}" for found in each for word in found]


def _security(pod: Pod) -> list[str]:
    whole, own = pod.spec.get("securityContext", {}), pod.container.get("securityContext", {})
    rules = {
        "securityContext.runAsNonRoot must be true": whole.get("runAsNonRoot") is True,
        "securityContext.runAsUser must be the image's, 1000": whole.get("runAsUser") == 1000,
        "seccompProfile must be RuntimeDefault": whole.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        "allowPrivilegeEscalation must be false": own.get("allowPrivilegeEscalation") is False,
        "capabilities.drop must be [ALL]": own.get("capabilities", {}).get("drop") == ["ALL"],
        "enableServiceLinks must be false, or addresses of services look like settings": pod.spec.get(
            "enableServiceLinks"
        )
        is False,
        # the one exception needs the account that KubeRay makes for the autoscaler
        "automountServiceAccountToken must be false": pod.spec.get("automountServiceAccountToken") is False
        or pod.labels.get("ray.io/node-type") == "head",
    }
    return [rule for rule, holds in rules.items() if not holds]


def _container(pod: Pod) -> list[str]:
    container = pod.container
    found = [] if container["image"] == IMAGE else [f"image must be {IMAGE}, got {container['image']}"]
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
        found.append("resources must request cpu and memory, and limit memory")
    amounts = [part for kind in ("requests", "limits") for part in resources.get(kind, {})]
    found += [f"{name} is no resource" for name in amounts if name not in {"cpu", "memory", "nvidia.com/gpu"}]
    if pod.has_command:
        found += commands.complaints(container.get("args", []))
    elif "args" in container or "command" in container:
        found.append("KubeRay writes its command")
    return found


def _probes(pod: Pod) -> list[str]:
    named = ("startupProbe", "readinessProbe", "livenessProbe")
    probes = {name: pod.container[name] for name in named if name in pod.container}
    asked = {name: (probe.get("httpGet") or probe["tcpSocket"])["port"] for name, probe in probes.items()}
    found = [
        f"{name} asks the port {port}, which has no such name" for name, port in asked.items() if port not in pod.ports
    ]
    known = {"/api/health": "api", "/health": "health", "/api/gcs_healthz": "dashboard"}
    known["/api/local_raylet_healthz"] = "ray-agent" if "ray-agent" in pod.ports else "agent"
    for name, port in asked.items():
        path = probes[name].get("httpGet", {}).get("path")
        if path and known.get(path) != port:
            found.append(f"{name}: nobody answers {path} on the port {port}")
    if probes.get("livenessProbe", {}).get("httpGet", {}).get("path") == "/health":
        found.append("livenessProbe: /health fails where Prefect's server is away, and the pod would end with its run")
    if pod.ports and not {"readinessProbe", "livenessProbe"} <= set(probes):
        found.append("listens and has no probes of readiness and life")
    return found


def _mounts(pod: Pod) -> list[str]:
    volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
    mounted = {mount["name"] for mount in pod.container.get("volumeMounts", [])}
    found = [f"mounts {name}, which is no volume" for name in sorted(mounted - volumes)]
    found += [f"has the volume {name} and does not mount it" for name in sorted(volumes - mounted)]
    if pod.container.get("securityContext", {}).get("readOnlyRootFilesystem"):
        paths = {mount["mountPath"] for mount in pod.container.get("volumeMounts", [])}
        found += [f"needs to write to {path}" for path in ("/tmp", "/home/charflow") if path not in paths]
    return found


def _references(pod: Pod, names: Names) -> list[str]:
    found = []
    account = pod.spec.get("serviceAccountName")
    if account is not None and account not in names.accounts:
        found.append(f"has the service account {account}, which is missing")
    variables = set()
    for source in pod.container.get("envFrom", []):
        for kind, known in (("configMapRef", names.maps), ("secretRef", names.secrets)):
            if kind in source and source[kind]["name"] not in known:
                found.append(f"{kind} {source[kind]['name']} is missing")
            elif kind in source:
                variables |= known[source[kind]["name"]]
    for variable in pod.container.get("env", []):
        variables.add(variable["name"])
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference and reference["key"] not in names.secrets.get(reference["name"], set()):
            found.append(f"{variable['name']}: the secret {reference['name']} has no key {reference['key']}")
        if not reference and any(word in variable["name"] for word in ("AUTH_STRING", "TOKEN", "CONNECTION", "SECRET")):
            found.append(f"{variable['name']} must come from a secret")
    return found + environment.unread(variables)


def _ray_start(pod: Pod) -> list[str]:
    if pod.ray_params is None:
        return []
    options = {name: value.strip("'") for name, value in pod.ray_params.items()}
    found = commands.complaints(["ray", "start", *(f"--{name}={value}" for name, value in options.items())])
    port = options.get("metrics-export-port")
    return found if int(port or 0) == pod.ports.get("metrics") else [*found, f"has no port for metrics at {port}"]
