"""Where announcements are made: a service, its REST, and people whose grants are known."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import msgspec

from tests.clients import PATIENCE, Client, Service
from trio_signal.auth import OpenAuth
from trio_signal.errors import AuthenticationError, IdentityMismatchError
from trio_signal.messages import Authenticate, Grants, Identity

PATH = "/api/creator/broadcast"
WEBSOCKET = f"{PATH}/ws"
Answer = tuple[int, Any]

GRANTS = {
    "boss": Grants(creator=True),
    "rival": Grants(creator=True),
    "aide": Grants(team_of="boss"),
}


class KnownPeople(OpenAuth):
    """As with tokens: `?token=boss` is boss, whose name is Boss; nobody is believed."""

    async def authenticate(self, claims: Authenticate) -> Identity:
        if claims.token is None or claims.token == "bad":
            raise AuthenticationError("No token, or a bad one")
        if claims.claimed not in (None, claims.token):
            raise IdentityMismatchError("The token is of somebody else")
        user_id = claims.token
        identity = await super().authenticate(claims)
        return msgspec.structs.replace(
            identity,
            user_id=user_id,
            username=user_id.title(),
            grants=GRANTS.get(user_id, Grants()),
            verified=True,
        )


class Office:
    """A service, and its REST by each replica in turn, unless a base is given."""

    def __init__(self, service: Service, http: httpx.AsyncClient) -> None:
        self.service = service
        self.http = http

    def connect(self, user_id: str, at: int | None = None) -> AbstractAsyncContextManager[Client]:
        """A WebSocket of a user; to one replica, or to each in turn."""
        path = f"{WEBSOCKET}?user_id={user_id}"
        if at is not None:
            service = Service(self.service.bases[at], quiesce=self.service.quiesce)
            return service.connect(path)
        return self.service.connect(path)

    @asynccontextmanager
    async def attend(self, user_id: str, at: int | None = None) -> AsyncIterator[Client]:
        """The same, connected, of somebody to whom nothing was announced before."""
        async with self.connect(user_id, at) as client:
            await client.expect("connected")
            yield client

    async def call(
        self, method: str, name: str, caller: str | None = None, at: int | None = None, **how: Any
    ) -> Answer:
        """The status and the body of what the server answers."""
        base = self.service.base if at is None else self.service.bases[at]
        query = {"user_id": caller} if caller is not None else {}
        response = await self.http.request(
            method, f"http://{base}{PATH}{name}", params=query, **how
        )
        return response.status_code, response.json()

    async def announce(
        self, message: str, caller: str = "boss", at: int | None = None, **fields: Any
    ) -> str:
        """The id of an announcement that was made."""
        body = {"message": message, **fields}
        status, answer = await self.call("POST", "", caller, at, json=body)
        assert (status, answer["status"]) == (200, "success"), answer
        id_ = answer["id"]
        assert isinstance(id_, str)
        return id_

    async def active(self, caller: str | None = None, at: int | None = None) -> str | None:
        """The id of what a user is to see."""
        status, answer = await self.call("GET", "/active", caller, at)
        assert status == 200, answer
        found = answer["broadcast"]
        assert found is None or isinstance(found["id"], str)
        return found["id"] if found is not None else None

    async def stats(self, caller: str = "boss", at: int | None = None) -> dict[str, Any]:
        status, answer = await self.call("GET", "/stats", caller, at)
        assert (status, answer["status"]) == (200, "success"), answer
        stats: dict[str, Any] = answer["stats"]
        return stats


@asynccontextmanager
async def open_office(service: Service) -> AsyncIterator[Office]:
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        yield Office(service, http)
