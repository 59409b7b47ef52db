"""A service for announcements, its REST API, and users with known grants."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx

from tests.clients import PATIENCE, Client, Service
from tests.tokens import make_token

PATH = "/api/creator/broadcast"
WEBSOCKET = f"{PATH}/ws"
Answer = tuple[int, Any]

CLAIMS: dict[str, dict[str, Any]] = {
    "boss": {"creator": True},
    "rival": {"creator": True},
    "aide": {"team_of": "boss"},
}


def token_of(user_id: str) -> str:
    """A token with a name derived from the user id; an invalid one for `bad`."""
    if user_id == "bad":
        return "bad"
    return make_token(user_id, name=user_id.title(), **CLAIMS.get(user_id, {}))


class Office:
    """A service, and its REST API on each replica in turn, unless a base is given."""

    def __init__(self, service: Service, http: httpx.AsyncClient) -> None:
        self.service = service
        self.http = http

    def connect(self, user_id: str, at: int | None = None) -> AbstractAsyncContextManager[Client]:
        """A user's WebSocket on one replica, or on each in turn."""
        path = f"{WEBSOCKET}?user_id={user_id}"
        if at is not None:
            service = Service(self.service.bases[at], quiesce=self.service.quiesce)
            return service.connect(path)
        return self.service.connect(path)

    @asynccontextmanager
    async def attend(self, user_id: str, at: int | None = None) -> AsyncIterator[Client]:
        """The same, once it is connected."""
        async with self.connect(user_id, at) as client:
            await client.expect("connected")
            yield client

    async def call(
        self, method: str, name: str, caller: str | None = None, at: int | None = None, **how: Any
    ) -> Answer:
        """The status and the body of the server's answer."""
        base = self.service.base if at is None else self.service.bases[at]
        query = {"user_id": caller} if caller is not None else {}
        response = await self.http.request(
            method, f"http://{base}{PATH}{name}", params=query, **how
        )
        return response.status_code, response.json()

    async def announce(
        self, message: str, caller: str = "boss", at: int | None = None, **fields: Any
    ) -> str:
        """The id of a new announcement."""
        body = {"message": message, **fields}
        status, answer = await self.call("POST", "", caller, at, json=body)
        assert (status, answer["status"]) == (200, "success"), answer
        id_ = answer["id"]
        assert isinstance(id_, str)
        return id_

    async def active(self, caller: str | None = None, at: int | None = None) -> str | None:
        """The id of the announcement that a user should see."""
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
