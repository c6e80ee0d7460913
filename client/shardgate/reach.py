"""Which gateways of a cluster this process reaches by itself.

Any gateway answers for any object; if it is another one's, it passes the bytes through. A reader that can reach the
owner directly saves that hop, so it says which gateways it reaches, and is redirected to those and to no others. That
can't be guessed from addresses: a pod's address means something in the cluster, and on a laptop nothing, or another
machine, which must not get our token. So when an answer came through another gateway, that one is tried once, briefly.
It counts as reached only if it says its name, and answers a random challenge as the endpoint said it would, for which
it needs the key that the gateways share. Where a try fails, none is made for some minutes, and everything goes through
the endpoint.

What is known is plain data of the process, by endpoint, and forked data loaders start with what their parent knew.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

import urllib3

from shardgate import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROBE_SECONDS = 0.5
RETRY_SECONDS = 300.0
MAX_ANSWER = 1 << 10


class Reach:
    """What is known about the gateways behind one endpoint.

    Attributes:
        answered: The endpoint has answered at least once, so somebody is there in general.
    """

    def __init__(self) -> None:
        self.answered = False
        self._urls: dict[str, str] = {}
        self._wanted = ""
        self._try_at = 0.0

    def headers(self) -> dict[str, str]:
        """What to say with a request that may be redirected."""
        return {wire.REACH_HEADER: ",".join(self._urls)} if self._urls else {}

    def leads_to(self, headers: Mapping[str, str]) -> tuple[str, str] | None:
        """Name and URL that a redirect names, if it is to a gateway that we reach; never to anywhere else."""
        name, location = headers.get(wire.MEMBER_HEADER, ""), headers.get("Location", "")
        url = self._urls.get(name)
        if url is not None and location.startswith(f"{url}/"):
            return name, location
        if self._urls.pop(name, None):  # it moved: what is at its new address has to be seen first
            self._wanted = name
        return None

    def saw(self, headers: Mapping[str, str]) -> None:
        """Take an answer of the endpoint in: it may name another gateway."""
        self.answered = True
        name = headers.get(wire.MEMBER_HEADER, "")
        if name and name not in self._urls:
            self._wanted = name

    def lost(self, name: str) -> None:
        """It does not answer any more."""
        self._urls.pop(name, None)

    def learn(self, show_cluster: Callable[[str], Any]) -> None:
        """Try the gateway that answered through another one, if that was not tried lately.

        Args:
            show_cluster: Asks the endpoint for `/v1/cluster` with this challenge.
        """
        if not self._wanted or time.monotonic() < self._try_at:
            return
        name, self._wanted = self._wanted, ""
        challenge = secrets.token_hex(16)
        try:
            member = next(one for one in show_cluster(challenge)["members"] if one["name"] == name)
            if _answer_at(member["url"], challenge) == (name, member["proof"]):
                self._urls[name] = member["url"]
                return
        except Exception:  # noqa: BLE001, S110 (whatever is wrong there, the endpoint itself still works)
            pass
        self._try_at = time.monotonic() + RETRY_SECONDS


def _answer_at(url: str, challenge: str) -> tuple[str, str]:
    """Name and proof of the gateway at this URL. No token goes there before they are known."""
    with urllib3.PoolManager(retries=False) as pool:
        target = f"{url}/healthz?challenge={challenge}"
        response = pool.request("GET", target, timeout=PROBE_SECONDS, preload_content=False)
        try:
            said = json.loads(response.read(MAX_ANSWER))
            return said["member"], said["proof"]
        finally:
            response.close()
