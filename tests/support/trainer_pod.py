"""A pod of `examples/trainer_pod.yaml`, in which programs run as a user's would."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from cluster import Cluster

MANIFEST = Path(__file__).parents[2] / "examples" / "trainer_pod.yaml"
FOLDER = "/work"
IN_THE_IMAGE = {"numpy", "pillow"}
START_SECONDS = 120


@dataclass(frozen=True)
class Trainer:
    cluster: Cluster
    namespace: str

    def run(self, *command: str, stdin: bytes = b"", seconds: float = 60) -> str:
        """What a command prints in the pod.

        Raises:
            AssertionError: It failed; the message has its words.
        """
        done = subprocess.run(
            ["kubectl", "--namespace", self.namespace, "exec", "--stdin", "trainer", "--", *command],
            env=self.cluster.environment,
            input=stdin,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode()}"
        return done.stdout.decode()

    def send(self, *files: Path) -> None:
        """Copy files of this machine to the pod's folder."""
        self._unpack({path.name: path for path in files})

    def install(self, name: str) -> None:
        """Give the pod a distribution and what it requires, as this environment has it."""
        self._unpack(
            {
                str(file): Path(str(distribution(each).locate_file(file)))
                for each in _closure(name)
                for file in distribution(each).files or ()
                if ".." not in file.parts and file.suffix != ".pyc"
            }
        )

    def _unpack(self, files: dict[str, Path]) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name, path in files.items():
                tar.add(path, name)
        self.run("tar", "--no-same-owner", "-xC", FOLDER, stdin=stream.getvalue())


def start_trainer(cluster: Cluster, namespace: str, image: str) -> Trainer:
    """Run the example's pod with this image. It reads the Secret `trainer`, and imports what gets installed."""
    pod = yaml.safe_load(MANIFEST.read_text())
    (container,) = pod["spec"]["containers"]
    container["image"] = image
    container["env"].append({"name": "PYTHONPATH", "value": FOLDER})
    cluster.apply(pod, namespace=namespace)
    condition, limit = "--for=condition=Ready", f"--timeout={START_SECONDS}s"
    cluster.kubectl("wait", "pod/trainer", condition, limit, namespace=namespace, seconds=START_SECONDS + 30)
    return Trainer(cluster, namespace)


def _closure(name: str) -> set[str]:
    """A distribution and all that it requires here, without extras and what the image has."""
    found, new = set[str](), {name}
    while new:
        each = new.pop()
        found.add(each)
        for text in distribution(each).requires or ():
            match = re.match(r"[\w.-]+", text)
            if match and "extra ==" not in text and match[0] not in IN_THE_IMAGE | found and _installed(match[0]):
                new.add(match[0])
    return found


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
