"""The Kubernetes objects of a transform: a Secret, a headless Service, a Deployment.

Pods pass Pod Security `restricted`: they run as nobody in particular, on a read-only file system, without capabilities
or a service account's token. What they write (package, environment, /tmp) goes to volumes of bounded size.
They always have limits. They end gently: SIGTERM makes the runtime finish its shards, and the EndpointSlice says
meanwhile that the pod is terminating.

`replicas` is never part of what is applied: Kubernetes makes it 1 at first, and it belongs to scaling from then on.
"""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any

from shardgate.wire import paths
from shardgate_gateway.etl import generation_name
from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.kubernetes.pod_limits import quantity
from shardgate_gateway.etl.kubernetes.pod_template import kept

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardgate import wire
    from shardgate_gateway.etl.kubernetes.policy import Policy
    from shardgate_gateway.etl.transform_record import TransformRecord
    from shardgate_gateway.kube.kinds import Object
    from shardgate_gateway.settings import EtlSettings, KubernetesSettings

WORKER_PORT = 8470
STATUS_PORT = 8471
RUNTIME = "etl"
"""The container that answers."""
TOKEN_FOLDER = "/var/run/shardgate/token"  # noqa: S105 (a folder)
TMP = "/tmp"  # noqa: S108 (a volume)
SECRETS_FOLDER = "/var/run/shardgate/secrets"
RUN_FOLDER = "/var/run/shardgate/run"
TERMINATION_LOG = "/dev/termination-log"
STARTUP_PERIOD = 1
READINESS_PERIOD = 5
LIVENESS_PERIOD = 10
DRAIN_MARGIN_SECONDS = 5
"""Between the time that running shards get and the kill."""
EPHEMERAL_REQUEST = "64Mi"
LOST_NODE = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
LOST_NODE_SECONDS = 5
"""That a pod waits for its node to come back before there is another one elsewhere. Kubernetes' 300 are for what has a
state."""

ROLE_RULES: list[dict[str, list[str]]] = [
    {
        "apiGroups": ["apps"],
        "resources": ["deployments"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    {"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["services", "secrets"], "verbs": ["create", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create", "delete"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
]
"""What the runner needs of the API server; the chart's Role says the same."""

CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


class Manifests:
    """Makes objects.

    Args:
        settings: Of the cluster.
        etl: Workers, limits and times.
        policy: Chooses image and limits.
        gateway_url: How pods reach the gateway.
        owner: An owner reference for every object, if they have an owner.
    """

    def __init__(
        self, settings: KubernetesSettings, etl: EtlSettings, policy: Policy, gateway_url: str, owner: Object | None
    ) -> None:
        self._settings = settings
        self._etl = etl
        self._policy = policy
        self._gateway_url = gateway_url.rstrip("/")
        self._owner = owner
        self._instance = names.instance_name(settings.instance)

    def name(self, transform_id: str) -> str:
        """Of the Deployment, the Service and the Secret."""
        return names.object_name(self._instance, transform_id)

    def secret(self, transform_id: str, token: str, key: str = "") -> Object:
        """The token with which pods fetch their package, and the key with which they tell versions of Secrets apart."""
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": self._metadata(transform_id),
            "type": "Opaque",
            "stringData": {"token": token, **({"secrets-key": key} if key else {})},
        }

    def service(self, record: TransformRecord) -> Object:
        """Headless: it is there for its EndpointSlices. Port names say what is spoken."""
        port = self._port(record)
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self._metadata(record.id),
            "spec": {
                "clusterIP": "None",
                "selector": self._selector(record.id),
                "ports": [{"name": "worker", "port": port, "targetPort": port, "protocol": "TCP"}],
            },
        }

    def deployment(self, record: TransformRecord) -> Object:
        """All of it but `replicas`; annotated with digests of what it was made from."""
        template = self._template(record)
        template["metadata"]["annotations"][names.ANNOTATION_SPEC] = digest = _digest(template)
        spec: Object = {
            "selector": {"matchLabels": self._selector(record.id)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 600,
            "template": template,
        }
        metadata = self._metadata(record.id)
        metadata["annotations"] |= {
            names.ANNOTATION_OPTIONS: options_digest(record),
            names.ANNOTATION_SPEC: digest,
            names.ANNOTATION_SCALING: json.dumps(self._scaling(record)),
        }
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}

    def _scaling(self, record: TransformRecord) -> dict[str, int]:
        fewest, most = self._policy.replicas(record.options)
        return {"min": fewest, "max": most, "workers": self._policy.workers(record.options, self._etl.workers)}

    def _metadata(self, transform_id: str) -> Object:
        metadata: Object = {
            "name": self.name(transform_id),
            "labels": names.labels(self._instance, transform_id),
            "annotations": {names.ANNOTATION_ID: transform_id},
        }
        if self._owner is not None:
            metadata["ownerReferences"] = [self._owner]
        return metadata

    def _selector(self, transform_id: str) -> dict[str, str]:
        return {
            "app.kubernetes.io/instance": self._instance,
            names.LABEL_TRANSFORM: names.transform_label(transform_id),
        }

    def _port(self, record: TransformRecord) -> int:
        container = record.manifest.container
        return WORKER_PORT if container is None else container.port

    def _template(self, record: TransformRecord) -> Object:
        container = record.manifest.container
        allowed = self._settings.allowed_labels, self._settings.allowed_annotations
        pod = kept(copy.deepcopy((container.pod if container is not None else None) or {}), *allowed)
        spec: Object = pod["spec"]
        spec |= _given(self._pod_spec(record, spec)) | {
            "tolerations": _tolerations(record, spec.get("tolerations") or ())
        }
        main = self._runtime(record) if container is None else self._program(record, container, spec)
        containers = [main, *(spec.get("containers") or [])[1:]]
        inits = spec.get("initContainers") or []
        shares = self._policy.shares(record.options, {"containers": containers, "initContainers": inits})
        gpus = record.options.resources.gpus
        given: list[Object] = [{"nvidia.com/gpu": str(gpus)} if gpus else {}, *({} for _ in containers[1:])]
        spec["containers"] = [
            self._bounded(each, share | more, record)
            for each, share, more in zip(containers, shares.containers, given, strict=True)
        ]
        spec["initContainers"] = [
            self._bounded(each, share, record) for each, share in zip(inits, shares.inits, strict=True)
        ]
        return {
            "metadata": {
                "labels": pod["metadata"]["labels"] | names.labels(self._instance, record.id),
                "annotations": pod["metadata"]["annotations"] | {names.ANNOTATION_ID: record.id},
            },
            "spec": _given(spec),
        }

    def _pod_spec(self, record: TransformRecord, given: Object) -> Object:
        """What holds for every pod, whatever its owner wrote."""
        settings, options = self._settings, record.options
        return {
            "serviceAccountName": settings.service_account or "default",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "hostNetwork": False,
            "hostPID": False,
            "hostIPC": False,
            "restartPolicy": "Always",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": names.NOBODY,
                "runAsGroup": names.NOBODY,
                "fsGroup": names.NOBODY,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": settings.grace_seconds,
            "priorityClassName": settings.priority_class,
            "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
            "nodeSelector": options.node_selector,
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": key,
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": self._selector(record.id)},
                    "matchLabelKeys": ["pod-template-hash"],  # the pods that a rollout ends are not in the way
                }
                for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
            ],
            "volumes": self._volumes(record, given.get("volumes") or ()),
        }

    def _volumes(self, record: TransformRecord, given: Iterable[Object]) -> list[Object]:
        disk = self._settings.ephemeral_storage
        tmp: Object = {"name": "tmp", "emptyDir": {"sizeLimit": disk}}
        if record.manifest.container is not None:
            return [tmp, *(volume for volume in given if volume.get("name") != "tmp")]
        return [
            tmp,
            {"name": "run", "emptyDir": {"sizeLimit": disk}},
            {"name": "token", "secret": {"secretName": self.name(record.id), "defaultMode": 0o440}},
            *(
                # Optional, since the environment needs it, too, and says in better words that it is missing.
                {"name": f"secret-{index}", "secret": {"secretName": name, "defaultMode": 0o440, "optional": True}}
                for index, name in enumerate(record.options.secrets)
            ),
        ]

    def _runtime(self, record: TransformRecord) -> Object:
        """Our runtime, which fetches the transform's package and runs it."""
        flags = {
            "package-url": self._gateway_url + paths.transform_path(record.id, "package"),
            "token-file": f"{TOKEN_FOLDER}/token",
            "transform-id": record.id,
            "listen": f"tcp:0.0.0.0:{WORKER_PORT}",
            "status-port": STATUS_PORT,
            "run-dir": RUN_FOLDER,
            "workers": self._policy.workers(record.options, self._etl.workers),
            "memory-bytes": record.options.memory_bytes or self._etl.memory_bytes,
            "ring-bytes": 0,
            "stall-seconds": f"{self._etl.progress_timeout:g}",
            "drain-seconds": max(1, self._settings.grace_seconds - DRAIN_MARGIN_SECONDS),
        }
        environment = self._policy.environment(record.manifest, record.options)
        if environment is not None:
            flags["environment-url"] = self._gateway_url + paths.environment_path(environment.digest)
        mounts = {"tmp": TMP, "run": RUN_FOLDER}
        container: Object = {
            "name": RUNTIME,
            "image": self._policy.image(record.manifest, record.options),
            "imagePullPolicy": self._settings.pull_policy,
            "command": ["python", "-m", "shardgate_runtime"],
            "args": [text for name, value in flags.items() for text in (f"--{name}", str(value))],
            "env": self._environment(record, self._about_secrets(record)),
            "ports": [
                {"name": "worker", "containerPort": WORKER_PORT},
                {"name": "status", "containerPort": STATUS_PORT},
            ],
            "volumeMounts": [
                *({"name": name, "mountPath": path} for name, path in mounts.items()),
                {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
                *(
                    {"name": f"secret-{index}", "mountPath": f"{SECRETS_FOLDER}/{index}", "readOnly": True}
                    for index in range(len(record.options.secrets))
                ),
            ],
            **self._probes(paths.READY, paths.ALIVE, STATUS_PORT),
        }
        return container

    def _about_secrets(self, record: TransformRecord) -> dict[str, str]:
        """Where the runtime finds which variables are from Secrets (`shardgate_runtime.secret_digest`)."""
        if not record.options.secrets:
            return {}
        return {"SHARDGATE_SECRETS": SECRETS_FOLDER, "SHARDGATE_SECRETS_KEY": f"{TOKEN_FOLDER}/secrets-key"}

    def _program(self, record: TransformRecord, container: wire.Container, spec: Object) -> Object:
        """A program of the owner's that speaks HTTP (`wire.Container`)."""
        given = (spec.get("containers") or [{}])[0]
        environment = self._environment(record, container.env | {"PORT": str(container.port)})
        set_here = {variable["name"] for variable in environment}
        mounts = [mount for mount in given.get("volumeMounts") or () if mount.get("name") != "tmp"]
        own: Object = {
            "name": given.get("name") or RUNTIME,
            "image": self._policy.image(record.manifest, record.options) or given.get("image"),
            "imagePullPolicy": self._settings.pull_policy,
            "command": [part.replace("{port}", str(container.port)) for part in container.command],
            "args": [part.replace("{port}", str(container.port)) for part in container.args],
            "env": [
                *(variable for variable in given.get("env") or () if variable.get("name") not in set_here),
                *environment,
            ],
            "ports": [{"name": "worker", "containerPort": container.port}],
            "volumeMounts": [
                *mounts,
                *(
                    []
                    if any(mount.get("mountPath") == TMP for mount in mounts)
                    else [{"name": "tmp", "mountPath": TMP}]
                ),
            ],
            **self._probes(container.health, container.health, container.port),
        }
        merged: Object = given | _given(own)
        return merged

    def _environment(self, record: TransformRecord, more: dict[str, str]) -> list[Object]:
        about: Object = {
            "SHARDGATE_TRANSFORM_ID": record.id,
            "SHARDGATE_GATEWAY_URL": self._gateway_url,
            generation_name.OPTIONS_VARIABLE: generation_name.options_digest(record.options),
        }
        fields = {"SHARDGATE_POD": "metadata.name", "SHARDGATE_NODE": "spec.nodeName"}
        return [
            *({"name": name, "value": value} for name, value in (about | more | record.options.env).items()),
            *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        ]

    def _probes(self, ready: str, alive: str, port: int) -> Object:
        """The kubelet asks until it is up (as long as a start may take), then whether it takes work, and lives."""
        tries = max(1, int(self._etl.start_timeout / STARTUP_PERIOD))
        return {
            "startupProbe": _probe(ready, port, STARTUP_PERIOD, tries),
            "readinessProbe": _probe(ready, port, READINESS_PERIOD, 2),
            "livenessProbe": _probe(alive, port, LIVENESS_PERIOD, 6),
        }

    def _bounded(self, container: Object, limits: dict[str, str], record: TransformRecord) -> Object:
        """With limits and without rights."""
        return container | {
            "resources": {
                "limits": limits,
                "requests": limits
                | {
                    "cpu": self._policy.requested_cpu(limits["cpu"]),
                    "ephemeral-storage": min(EPHEMERAL_REQUEST, limits["ephemeral-storage"], key=quantity),
                },
            },
            "envFrom": [
                *(container.get("envFrom") or ()),
                *({"secretRef": {"name": name}} for name in record.options.secrets),
            ],
            "securityContext": CONTAINER_SECURITY,
            "terminationMessagePath": TERMINATION_LOG,
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }


def options_digest(record: TransformRecord) -> str:
    """Of the options that a Deployment depends on."""
    return _digest(record.options.model_dump(mode="json", exclude={"cache"}))


def _tolerations(record: TransformRecord, given: Iterable[Object]) -> list[Object]:
    """Those of the template and of the options, and for how long a node may be away, where they don't say."""
    own = [*given, *(toleration.model_dump(exclude_defaults=True) for toleration in record.options.tolerations)]
    said = {toleration.get("key") for toleration in own}
    lost = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_NODE_SECONDS}
    return own if None in said else [*own, *({"key": key, **lost} for key in LOST_NODE if key not in said)]


def _given(values: Object) -> Object:
    return {name: value for name, value in values.items() if value not in ([], {}, "", None)}


def _probe(path: str, port: int, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
