"""What of a user's pod template reaches the cluster.

The schema of pods is open, and grows with every version of Kubernetes: a list of forbidden fields is never complete. So
this is the list of allowed ones. A template with another field is refused when it is registered, and whatever is not on
the list is left out of what is applied, also of templates that an older gateway took.

Some fields are not here for a reason that is easy to overlook. `host` of probes and handlers makes the kubelet ask any
address from the node, where no NetworkPolicy holds. Required anti-affinity keeps *other* pods off a node. Labels make a
pod the backend of any Service, and annotations are commands to injectors.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from shardgate.text import safe_line
from shardgate_gateway.errors import PackageInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from shardgate_gateway.kube.kinds import Object

ANY: Object = {}
"""Whatever Kubernetes takes there."""
OVERRIDDEN: Object = {"": {}}
"""May stand in a template, for people who bring a whole Pod, and is left out: `manifests.py` says what holds."""


def _fields(*names: str) -> Object:
    return dict.fromkeys(names, ANY)


_REFERENCE = _fields("name", "key", "optional")
_HANDLER: Object = {"exec": _fields("command"), "sleep": _fields("seconds")}
_PROBE: Object = {
    "exec": _fields("command"),
    "httpGet": {**_fields("path", "port", "scheme"), "httpHeaders": [_fields("name", "value")]},
    "tcpSocket": _fields("port"),
    "grpc": _fields("port", "service"),
    **_fields("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "successThreshold", "failureThreshold"),
}
_CONTAINER: Object = {
    **_fields("name", "image", "command", "args", "workingDir", "restartPolicy", "resources", "imagePullPolicy"),
    "env": [
        {
            **_fields("name", "value"),
            "valueFrom": {
                "secretKeyRef": _REFERENCE,
                "configMapKeyRef": _REFERENCE,
                "fieldRef": _fields("apiVersion", "fieldPath"),
                "resourceFieldRef": _fields("containerName", "resource", "divisor"),
            },
        }
    ],
    "envFrom": [{**_fields("prefix"), "secretRef": _REFERENCE, "configMapRef": _REFERENCE}],
    "ports": [_fields("name", "containerPort", "protocol")],
    "volumeMounts": [_fields("name", "mountPath", "subPath", "subPathExpr", "readOnly", "recursiveReadOnly")],
    "lifecycle": {"postStart": _HANDLER, "preStop": _HANDLER},
    "livenessProbe": _PROBE,
    "readinessProbe": _PROBE,
    "startupProbe": _PROBE,
    **dict.fromkeys(("securityContext", "terminationMessagePath", "terminationMessagePolicy"), OVERRIDDEN),
}
VOLUMES: Object = {
    "emptyDir": _fields("medium", "sizeLimit"),
    "configMap": _fields("name", "items", "defaultMode", "optional"),
    "downwardAPI": _fields("items", "defaultMode"),
    "secret": _fields("secretName", "items", "defaultMode", "optional"),
    "persistentVolumeClaim": _fields("claimName", "readOnly"),
}
"""Kinds of volumes; all others lead to the node, to tokens or to other systems."""
SPEC: Object = {
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "volumes": [{**_fields("name"), **VOLUMES}],
    "imagePullSecrets": [_fields("name")],
    "nodeSelector": ANY,
    "affinity": {"nodeAffinity": ANY},
    "tolerations": [_fields("key", "operator", "value", "effect", "tolerationSeconds")],
    **dict.fromkeys(("hostNetwork", "hostPID", "hostIPC", "restartPolicy", "securityContext"), OVERRIDDEN),
    **dict.fromkeys(("serviceAccount", "serviceAccountName", "automountServiceAccountToken"), OVERRIDDEN),
    **dict.fromkeys(("enableServiceLinks", "terminationGracePeriodSeconds", "topologySpreadConstraints"), OVERRIDDEN),
}
METADATA: Object = {"labels": ANY, "annotations": ANY, **dict.fromkeys(("name", "namespace"), OVERRIDDEN)}
TEMPLATE: Object = {"metadata": METADATA, "spec": SPEC, **dict.fromkeys(("apiVersion", "kind"), OVERRIDDEN)}


def refused_field(template: Object) -> str:
    """A field that is set and not allowed, as `containers.0.ports.0.hostPort`; "" if there is none.

    Raises:
        PackageInvalid: Something is a list or a map where the other belongs.
    """
    return next(_refused(template, TEMPLATE, ""), "").removeprefix("spec.")


def _refused(value: Any, allowed: Any, path: str) -> Iterator[str]:
    if isinstance(allowed, list):
        for index, each in enumerate(_checked(value, list, path)):
            yield from _refused(each, allowed[0], f"{path}.{index}")
    elif allowed and allowed is not OVERRIDDEN:
        for name, inner in _checked(value, dict, path).items():
            where = f"{path}.{name}" if path else str(name)
            if name in allowed:
                if inner is not None:
                    yield from _refused(inner, allowed[name], where)
            elif inner:  # what is false, zero or empty is left out of what is applied
                yield safe_line(where, 200)


def _checked(value: Any, kind: type, path: str) -> Any:
    if not isinstance(value, kind):
        raise PackageInvalid(f"the pod template's {safe_line(path, 200)} is no {'list' if kind is list else 'map'}")
    return value


def kept(template: Object, labels: Iterable[str], annotations: Iterable[str]) -> Object:
    """A copy with what is allowed.

    Args:
        template: Of a user.
        labels: Patterns of labels that are kept.
        annotations: Patterns of annotations that are kept.
    """
    copied: Object = _kept(template, TEMPLATE)
    metadata = copied.get("metadata") or {}
    return {
        "metadata": {
            "labels": matching(metadata.get("labels") or {}, labels),
            "annotations": matching(metadata.get("annotations") or {}, annotations),
        },
        "spec": copied.get("spec") or {},
    }


def _kept(value: Any, allowed: Any) -> Any:
    if isinstance(allowed, list):
        return [_kept(each, allowed[0]) for each in value] if isinstance(value, list) else []
    if not allowed:
        return value
    if not isinstance(value, dict):
        return {}
    return {
        name: _kept(inner, allowed[name])
        for name, inner in value.items()
        if inner is not None and name in allowed and allowed[name] is not OVERRIDDEN
    }


def matching(values: Mapping[str, Any], patterns: Iterable[str]) -> dict[str, Any]:
    patterns = tuple(patterns)
    return {name: value for name, value in values.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
