"""Objects that are the process: the environment, `sys.path`, open files, connections, a client with its token.

Their values are nobody's business but this machine's, and other in each shell, so they never travel. What every process
has one of is sent as a reference, and the worker's code gets the worker's own; the rest is refused by name.
"""

from __future__ import annotations

import collections
import copyreg
import io
import logging
import os
import sys
import types
from enum import Enum
from typing import Any

from shardgate.origins import OURS, is_local
from shardgate.trail import HINT, CannotBeSentError

SYS_NAMES = (
    *("argv", "orig_argv", "path", "modules", "meta_path", "path_hooks", "path_importer_cache", "flags"),
    *("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__", "warnoptions", "_xoptions"),
    *("version_info", "implementation", "float_info", "hash_info", "int_info", "thread_info"),
)
CONTAINERS = (dict, list, set, collections.deque, collections.defaultdict, collections.OrderedDict)
FILE = "it is open in this process, and its bytes would be sent in its place"
CONNECTION = "it holds connections of this process, and may hold credentials"
REFUSED = {
    "shardgate.client.Client": "it holds the endpoint and the token of this program",
    "shardgate.transport.Transport": "it holds the endpoint and the token of this program",
    "_io._IOBase": FILE,
    "tempfile._TemporaryFileWrapper": FILE,
    "_socket.socket": CONNECTION,
    "http.client.HTTPConnection": CONNECTION,
    "urllib3.connectionpool.ConnectionPool": CONNECTION,
    "urllib3._request_methods.RequestMethods": CONNECTION,
    "urllib3.request.RequestMethods": CONNECTION,
    "requests.sessions.Session": CONNECTION,
    "requests.adapters.BaseAdapter": CONNECTION,
    "httpx.BaseClient": CONNECTION,
    "httpx._client.BaseClient": CONNECTION,
    "aiohttp.client.ClientSession": CONNECTION,
    "botocore.client.BaseClient": CONNECTION,
    "multiprocessing.connection._ConnectionBase": CONNECTION,
    "multiprocessing.shared_memory.SharedMemory": "it is memory of this machine",
    "multiprocessing.process.BaseProcess": "it is a process of this machine",
    "subprocess.Popen": "it is a process of this machine",
    "asyncio.events.AbstractEventLoop": "it is the event loop of this process",
    "concurrent.futures._base.Executor": "its threads or processes are of this program",
    "threading.Thread": "it is a thread of this process",
    "threading.local": "it is storage of a thread of this process",
}
"""Classes, and those derived from them, by name: none is imported for this. Locks and the like refuse by themselves."""
NO_SINGLETONS = (type, Enum, types.FunctionType, types.ModuleType)
NAMESPACE_HINT = "name the globals that the function uses; those are sent"
ENVIRON_HINT = "use os.environ in the function: it reads the worker's; give workers secrets with --secret"


class ProcessState:
    """Knows the objects of this process while something is pickled."""

    def __init__(self) -> None:
        self._shared: dict[int, tuple[str, str]] | None = None
        self._by_module: dict[str, dict[int, str]] = {}
        environ = {name: value for name, value in os.environ.items() if value}
        self._environ = environ
        self._most = max(2, len(environ) / 2)
        self._text = sum(len(value) for value in environ.values()) / 2

    def reduce(self, obj: Any) -> Any:
        """A reference to the worker's own; NotImplemented for what is not of the process.

        Raises:
            CannotBeSentError: It is of this process alone.
        """
        if isinstance(obj, logging.Logger):
            return logging.getLogger, (() if isinstance(obj, logging.RootLogger) else (obj.name,))
        if isinstance(obj, os._Environ):  # noqa: SLF001 - the class of os.environ, and of what copy.copy() makes of it
            return getattr, (os, "environ" if isinstance(next(iter(obj), ""), str) else "environb")
        if (place := self._place(obj)) is not None:
            module, name = place
            return getattr, (sys.modules[module], name)
        self._refuse(obj)
        return NotImplemented

    def check_text(self, text: str) -> None:
        """Refuse a text that holds the environment, as `json.dumps(dict(os.environ))` does."""
        if (
            self._environ
            and len(text) > self._text
            and self._is_environ(sum(name in text and value in text for name, value in self._environ.items()))
        ):
            raise CannotBeSentError("it holds the environment of this program", ENVIRON_HINT)

    def check_strings(self, strings: dict[str, str]) -> None:
        """Refuse the environment in any other shape, as `list(os.environ.items())`."""
        if self._is_environ(sum(name in strings and value in strings for name, value in self._environ.items())):
            raise CannotBeSentError("it holds the environment of this program", ENVIRON_HINT)

    def _is_environ(self, count: int) -> bool:
        return count >= self._most

    def _refuse(self, obj: Any) -> None:
        if isinstance(obj, dict):
            self._refuse_dict(obj)
        for base in type(obj).__mro__[:-1]:
            reason = REFUSED.get(f"{base.__module__}.{base.__qualname__}")
            if reason and not (reason is FILE and _is_in_memory(obj)):
                raise CannotBeSentError(reason, HINT)

    def _refuse_dict(self, obj: dict[Any, Any]) -> None:
        module = sys.modules.get(str(obj.get("__name__"))) if "__name__" in obj else None
        if module is not None and vars(module) is obj:
            raise CannotBeSentError(f"it is the namespace of the module {module.__name__}", NAMESPACE_HINT)
        if len(obj) < self._most:
            return
        texts = ((os.fsdecode(k), v) for k, v in list(obj.items()) if isinstance(k, (str, bytes)))
        same = sum(
            isinstance(value, (str, bytes)) and self._environ.get(name) == os.fsdecode(value) for name, value in texts
        )
        if self._is_environ(same):
            raise CannotBeSentError("it is a copy of the environment of this program", ENVIRON_HINT)

    def _place(self, obj: Any) -> tuple[str, str] | None:
        """Module and name of an object that each process has one of."""
        if self._shared is None:
            self._shared = dict(_shared_objects())
        place = self._shared.get(id(obj))
        return place if place is not None else self._singleton(obj)

    def _singleton(self, obj: Any) -> tuple[str, str] | None:
        """An instance that is an attribute of the module that defines its class, or of a package around it.

        Such are `random._inst`, whose methods `random.random` and the like are, `numpy.random.mtrand._rand`, loguru's
        `logger`, `dataclasses.MISSING`. They are compared by identity: a copy would be another generator, another
        logger, another mark than the one that the library uses.
        """
        kind: Any = type(obj)
        if kind.__eq__ is not object.__eq__ or kind in copyreg.dispatch_table or isinstance(obj, NO_SINGLETONS):
            return None
        package = kind.__module__
        while isinstance(package, str) and package:
            name = self._instances(package).get(id(obj))
            if name is not None and not is_local(package) and not _names_itself(obj):
                return package, name
            package = package.rpartition(".")[0]
        return None

    def _instances(self, module_name: str) -> dict[int, str]:
        if module_name not in self._by_module:
            module = None if module_name in {"builtins", "typing", *OURS} else sys.modules.get(module_name)
            named = list(vars(module).items()) if isinstance(module, types.ModuleType) else []
            self._by_module[module_name] = {id(value): name for name, value in reversed(named)}
        return self._by_module[module_name]


def _shared_objects() -> Any:
    """Containers that the standard library keeps its state in, and what `sys` holds."""
    for module_name in sys.stdlib_module_names & sys.modules.keys():
        module = sys.modules[module_name]
        if not isinstance(module, types.ModuleType) or module_name == "builtins":
            continue
        yield id(vars(module)), (module_name, "__dict__")
        if module_name == "sys":
            continue
        for name, value in list(vars(module).items()):
            if type(value) in CONTAINERS and not name.startswith("__"):
                yield id(value), (module_name, name)
    yield id(vars(sys.modules["builtins"])), ("builtins", "__dict__")
    for name in reversed(SYS_NAMES):
        if getattr(sys, name, None) is not None:
            yield id(getattr(sys, name)), ("sys", name)


def _is_in_memory(file: Any) -> bool:
    return isinstance(file, (io.BytesIO, io.StringIO)) or is_local(type(file).__module__)


def _names_itself(obj: Any) -> bool:
    """Whether its own reduction is a name already, as a dtype's."""
    try:
        return isinstance(obj.__reduce_ex__(5), str)
    except Exception:  # noqa: BLE001 - a library's __reduce__ may raise anything; then its name is all there is
        return False
