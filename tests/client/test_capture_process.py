"""The process never travels: its environment, files, connections, token; and no id depends on the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from captured import Captured, capture_script

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
    import asyncio, collections, contextlib, contextvars, copy, io, json, logging, os, random, socket, subprocess, sys
    import tempfile, threading, types, warnings
    from concurrent.futures import ThreadPoolExecutor
    from os import environ, environb
    from random import randint
    from sys import argv, flags, modules, path, stderr, stdin, stdout, version_info

    import numpy as np
    import requests
    import urllib3
    from numpy.random import rand

    from shardgate import Client

    copied = copy.copy(environ)
    deep = copy.deepcopy(environ)
    get = environ.get
    filters = warnings.filters
    log = logging.getLogger("a.b")
    adapter = logging.LoggerAdapter(log, {"a": 1})
    root = logging.getLogger()
    say = __import__("functools").partial(print, file=stderr)
    names = vars(json)

    def f_environ(): return environ is os.environ, environ.get("A_SECRET"), environb is os.environb
    def f_copied(): return copied is os.environ, deep is os.environ, get("A_SECRET")
    def f_sys(): return argv is sys.argv, path is sys.path, modules is sys.modules, version_info is sys.version_info
    def f_streams(): return stdin is sys.stdin, stdout is sys.stdout, stderr is sys.stderr
    def f_partial(): return [say.keywords["file"] is stderr]
    def f_flags(): return flags is sys.flags, filters is warnings.filters, names is vars(json)
    def f_loggers(): return log is logging.getLogger("a.b"), adapter.logger is log, root is logging.getLogger()
    def f_global_generators(): return randint.__self__ is random._inst, rand.__self__ is np.random.mtrand._rand
    def f_in_memory(a=io.BytesIO(b"12"), b=io.StringIO("x")): return len(a.getvalue()), b.getvalue()

    snapshot = dict(environ)
    changed = {**environ, "MORE": "1"}
    as_bytes = {k.encode(): os.fsencode(v) for k, v in environ.items()}
    ordered = collections.OrderedDict(environ)
    namespace = types.SimpleNamespace(**environ)
    pairs = list(environ.items())
    text = json.dumps(dict(environ))
    def f_no_snapshot(): return snapshot
    def f_no_changed(): return changed
    def f_no_as_bytes(): return as_bytes
    def f_no_ordered(): return ordered
    def f_no_namespace(): return namespace
    def f_no_pairs(): return pairs
    def f_no_text(): return text

    everything = globals()
    opened = open(__file__)
    binary = open(__file__, "rb")
    written = open(os.devnull, "w")
    temporary = tempfile.NamedTemporaryFile()
    connection = socket.socket()
    lock, rlock, event, local = threading.Lock(), threading.RLock(), threading.Event(), threading.local()
    thread = threading.Thread()
    pool = ThreadPoolExecutor(1)
    loop = asyncio.new_event_loop()
    variable = contextvars.ContextVar("variable")
    context = contextvars.copy_context()
    client = Client("http://127.0.0.1:1", token="hunter2-token")
    transport = client._transport
    transforms = client.transforms
    session = requests.Session()
    manager = urllib3.PoolManager()
    connections = urllib3.HTTPConnectionPool("127.0.0.1")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    class Uses:
        def __init__(self, client): self.client = client
        def __call__(self): return self.client
    f_no_client_in_an_object = Uses(client)
    def f_no_everything(): return everything
    def f_no_opened(): return opened
    def f_no_binary(): return binary
    def f_no_written(): return written
    def f_no_temporary(): return temporary
    def f_no_connection(): return connection
    def f_no_lock(): return lock
    def f_no_rlock(): return rlock
    def f_no_event(): return event
    def f_no_local(): return local
    def f_no_thread(): return thread
    def f_no_pool(): return pool
    def f_no_loop(): return loop
    def f_no_variable(): return variable
    def f_no_context(): return context
    def f_no_client(): return client
    def f_no_transport(): return transport
    def f_no_transforms(): return transforms
    def f_no_session(): return session
    def f_no_manager(): return manager
    def f_no_connections(): return connections
    def f_no_child(): return child
"""
REFERENCES = ("environ", "copied", "sys", "streams", "partial", "flags", "loggers", "global_generators", "in_memory")
REFUSED = tuple(part.split("(")[0].split()[0] for part in SOURCE.split("f_no_")[1:])


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return capture_script(tmp_path_factory.mktemp("process"), SOURCE)


@pytest.mark.parametrize("name", REFERENCES)
def test_the_workers_own_is_used_and_the_id_does_not_depend_on_the_shell(captured: Captured, name: str) -> None:
    name = f"f_{name}"
    assert name not in captured.refusals, captured.refusals.get(name)
    assert captured.first[name] == captured.second[name]
    assert b"hunter2" not in captured.first[name]
    wanted = {"f_environ": [True, None, True], "f_copied": [True, True, None], "f_in_memory": [2, "x"]}
    assert captured.results[name] == wanted.get(name, [True] * len(captured.results[name]))


@pytest.mark.parametrize("name", REFUSED)
def test_what_belongs_to_this_process_is_refused_by_name_with_a_hint(captured: Captured, name: str) -> None:
    error = captured.refusals.get(f"f_no_{name}", "it was sent")
    assert "can't be sent" in error
    assert "hint: " in error
    assert "hunter2" not in error
    reached = {"text": "f_no_text", "pairs": "f_no_pairs", "client_in_an_object": "attribute `client`"}
    assert reached.get(name, f"global `{name}`") in error


def test_a_configuration_that_was_read_from_the_environment_is_still_sent(tmp_path: Path) -> None:
    source = """
        import os
        CONFIG = {"home": os.environ["HOME"], "path": os.environ["PATH"]}
        def f_config(): return sorted(CONFIG)
    """
    assert capture_script(tmp_path, source).results == {"f_config": ["home", "path"]}
