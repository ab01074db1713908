"""Checks compose.yaml: its schema, and what no schema can: that services, ports, volumes and secrets agree."""

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

from tests.deploy import commands, environment
from tests.deploy.files import DEPLOY, IMAGE, ports_named, strings, told

FIXED = {"postgres": {5432}, "prom/prometheus": {9090}, "grafana/grafana": {3000}}  # ports of images without an option
DRIVER_METRICS = "CHARFLOW_METRICS"
_PORT_OPTION = re.compile(r"--(?:[a-z-]*-)?(?:port|address)[= ]:?(\d+)\b")
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH_STRING|ACCESS_KEY|CONNECTION_URL|MC_HOST")


def complaints(compose: Any) -> list[str]:
    """Give everything that is wrong."""
    found = told(_schema(), compose)
    if found:
        return found
    services = compose["services"]
    for name, service in services.items():
        each = (_command, _environment, _dependencies, _published, _health, _mounts)
        found += [f"{name}: {word}" for check in each for word in check(service, compose)]
    return found + _addresses(services) + _volumes(compose) + _variables(compose)


@cache
def _schema() -> Any:
    text = (files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json").read_text()
    return Draft202012Validator(json.loads(text))


def image_of(service: Any) -> str:
    """Give the image's name without its tag."""
    return str(service["image"]).partition(":")[0]


def listens(service: Any) -> set[int]:
    """Give the ports that a service opens, by its command and its image."""
    command = " ".join(service.get("command", []))
    metrics = service.get("environment", {}).get(DRIVER_METRICS, "")
    own = {int(metrics.rpartition(":")[2])} if metrics else set()
    return own | FIXED.get(image_of(service), set()) | {int(port) for port in _PORT_OPTION.findall(command)}


def _command(service: Any, _: Any) -> list[str]:
    if image_of(service) != "charflow":
        return [] if re.fullmatch(r"[\w/]+:[\w.-]*\d[\w.-]*", service["image"]) else ["its image has no version"]
    if service["image"] != IMAGE:
        return [f"image must be {IMAGE}, got {service['image']}"]
    args = service["build"].get("args", {})
    dockerfile = (DEPLOY.parent / service["build"]["dockerfile"]).read_text()
    found = [f"the build has no argument {name}" for name in args if not re.search(rf"^ARG {name}=", dockerfile, re.M)]
    return found + commands.complaints([with_defaults(word) for word in service["command"]]) + _unbounded(service)


def with_defaults(text: str) -> str:
    """Give what compose makes of a text where the env file leaves its variables empty."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def _unbounded(service: Any) -> list[str]:
    """Complain of a node that takes the machine's CPUs or memory for its own, which the other ones do as well."""
    words = " ".join(map(with_defaults, service["command"]))
    if "ray start" not in words or "--num-cpus=0" in words:
        return []
    found = [f"needs --{name}" for name in ("num-cpus", "memory", "object-store-memory") if f"--{name}=" not in words]
    store = re.search(r"--object-store-memory=(\d+)", words)
    room = int(service["shm_size"].removesuffix("gb")) * 2**30
    return found + (["its object store does not fit shm_size"] if store and int(store[1]) > room else [])


def _environment(service: Any, _: Any) -> list[str]:
    variables = service.get("environment", {})
    found = environment.unread(set(variables), image=image_of(service))
    for name, value in variables.items():
        if _SECRET.search(name) and "${" not in str(value):
            found.append(f"{name} must come from the env file, got a value")
    return found


def _dependencies(service: Any, compose: Any) -> list[str]:
    found = []
    for name, how in service.get("depends_on", {}).items():
        other = compose["services"].get(name)
        if other is None:
            found.append(f"depends on {name}, which is no service")
        elif how["condition"] == "service_healthy" and "healthcheck" not in other:
            found.append(f"waits for the health of {name}, which has no check")
        elif how["condition"] == "service_completed_successfully" and "restart" in other:
            found.append(f"waits for the end of {name}, which is always started again")
    if "restart" in service and "healthcheck" not in service:
        found.append("runs on and has no healthcheck")
    return found


def _published(service: Any, _: Any) -> list[str]:
    found = []
    for port in service.get("ports", []):
        if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port):
            found.append(f"port {port} must be published on 127.0.0.1 alone")
        elif int(port.rpartition(":")[2]) not in listens(service):
            found.append(f"publishes {port}, where it does not listen")
    return found


def _health(service: Any, _: Any) -> list[str]:
    test = " ".join(service.get("healthcheck", {}).get("test", []))
    return [f"its health is asked on {port}" for _, port in ports_named(test) if port not in listens(service)]


def _mounts(service: Any, compose: Any) -> list[str]:
    found = []
    for mount in service.get("volumes", []):
        source = mount.split(":")[0]
        if source.startswith("."):
            if not (DEPLOY / source).exists():
                found.append(f"mounts {source}, which is missing")
        elif source not in compose["volumes"]:
            found.append(f"mounts the volume {source}, which is not declared")
    return found


def _addresses(services: Any) -> list[str]:
    found = []
    for name, service in services.items():
        asked = [*service.get("command", []), *map(str, service.get("environment", {}).values())]
        for text in asked:
            found += [f"{name}: {word}" for word in wrong_addresses(text, services)]
    return found


def wrong_addresses(text: str, services: Any) -> list[str]:
    """Give the complaints about hosts and ports in a text; an address is of a service that listens there."""
    found = []
    for host, port in ports_named(re.sub(r"\$\{[^}]*\}", "x", re.sub(r"//[^@/]*@", "//", text))):
        if host == "127.0.0.1":
            known = {port for service in services.values() for port in listens(service)}
        elif host not in services:
            found.append(f"{host}:{port} is no service")
            continue
        else:
            known = listens(services[host])
        if port not in known:
            found.append(f"{host}:{port} is no port where it listens")
    return found


def _volumes(compose: Any) -> list[str]:
    used = {mount.split(":")[0] for service in compose["services"].values() for mount in service.get("volumes", [])}
    return [f"the volume {name} is used by nobody" for name in compose["volumes"] if name not in used]


def _variables(compose: Any) -> list[str]:
    text = (DEPLOY / "example.env").read_text()
    declared = set(re.findall(r"^(\w+)=", text, flags=re.MULTILINE))
    services = {key: value for key, value in compose.items() if not key.startswith("x-")}
    asked = {name for part in strings(services) for name in re.findall(r"\$\{(\w+)", part)}
    return [f"${{{name}}} is not in example.env" for name in sorted(asked - declared)] + [
        f"{name} of example.env is asked by nobody" for name in sorted(declared - asked)
    ]
