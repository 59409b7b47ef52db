"""Conversations with the npm PeerJS server, and the same with ours on one and on three replicas.

The answers are the same except for lines that begin with `theirs` or `ours`;
docs/moving/peerjs.md explains each of these.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed

from bench.servers import TARGETS
from tests.clients import Client, Message, Service, settle
from tests.conftest import serve_once, serve_replicas

#: Without a listener, one message that is not JSON ends the process; its command line has one.
START = """
import { PeerServer } from "peer";
const server = PeerServer({ host: "127.0.0.1", port: 0 }, (server) => {
  console.log(server.address().port);
});
server.on("error", () => {});
"""

#: `>` marks what a client sends and `<` what it receives; it receives nothing else.
#: Ids are longer than here, so that conversations do not mix. If two peers on different replicas
#: send to a third, each of them has an order of its own.
CONVERSATIONS = {
    "two peers talk": """
        ann connects /peerjs?key=peerjs&id=ann&token=a&version=1.5.5
        ann < {"type":"OPEN"}
        bob connects /peerjs?version=1.5.5&token=b&id=bob&key=peerjs
        bob < {"type":"OPEN"}
        ann > {"type":"HEARTBEAT"}
        ann > {"type":"OFFER","payload":{"sdp":{"n":1.5,"e":"\\u00e9"}},"dst":"bob"}
        bob < {"type":"OFFER","src":"ann","dst":"bob","payload":{"sdp":{"n":1.5,"e":"é"}}}
        bob > {"type":"ANSWER","dst":"ann","payload":"yes"}
        ann < {"type":"ANSWER","src":"bob","dst":"ann","payload":"yes"}
        ann > {"type":"CANDIDATE","dst":"bob","payload":1}
        ann > {"type":"CANDIDATE","dst":"bob","payload":2}
        ann > {"type":"CANDIDATE","dst":"bob","payload":false}
        ann > {"type":"CANDIDATE","dst":"bob","payload":null}
        bob < {"type":"CANDIDATE","src":"ann","dst":"bob","payload":1}
        bob < {"type":"CANDIDATE","src":"ann","dst":"bob","payload":2}
        bob < {"type":"CANDIDATE","src":"ann","dst":"bob","payload":false}
        bob < {"type":"CANDIDATE","src":"ann","dst":"bob","payload":null}
        ann > {"type":"OFFER","dst":"ann","payload":"to oneself"}
        ann < {"type":"OFFER","src":"ann","dst":"ann","payload":"to oneself"}
        bob > {"type":"LEAVE","dst":"ann"}
        ann < {"type":"LEAVE","src":"bob","dst":"ann"}
    """,
    "fields that are missing, forged and unknown": """
        ann connects /peerjs?key=peerjs&id=ann&token=a
        ann < {"type":"OPEN"}
        bob connects /peerjs?key=peerjs&id=bob&token=b
        bob < {"type":"OPEN"}
        ann > {"type":"OFFER","src":"eve","dst":"bob","to":"eve","more":{}}
        bob < {"type":"OFFER","src":"ann","dst":"bob"}
        ann > {"type":"OFFER","payload":1}
        ann > {"type":"OFFER","dst":"","payload":1}
        ann > {"type":"OFFER","dst":null,"payload":1}
        ann > {"dst":"bob","payload":1}
        ann > {"type":"OPEN","dst":"bob","payload":1}
        ann > {"type":"ID-TAKEN","dst":"bob","payload":1}
        ann > {"type":"offer","dst":"bob","payload":1}
        ann > {"type":"toString","dst":"bob","payload":1}
        ann > {"type":"__proto__","dst":"bob","payload":1}
        ann > {"type":7,"dst":"bob","payload":1}
        ann > {"type":"OFFER","dst":"bob"
        ann > null
        ann > 7
        ann > []
        ann > nonsense
        ann > {"type":"ANSWER","dst":"bob","payload":2}
        bob < {"type":"ANSWER","src":"ann","dst":"bob","payload":2}
    """,
    "something is missing": """
        ann connects /peerjs?id=ann&token=a
        ann < {"type":"ERROR","payload":{"msg":"No id, token, or key supplied to websocket server"}}
        ann closed
        bob connects /peerjs?key=peerjs&token=a
        bob < {"type":"ERROR","payload":{"msg":"No id, token, or key supplied to websocket server"}}
        bob closed
        eve connects /peerjs?key=peerjs&id=eve&token=
        eve < {"type":"ERROR","payload":{"msg":"No id, token, or key supplied to websocket server"}}
        eve closed
    """,
    "a wrong key": """
        ann connects /peerjs?key=Peerjs&id=ann&token=a
        ann < {"type":"ERROR","payload":{"msg":"Invalid key provided"}}
        ann closed
        bob connects /peerjs?key=__proto__&id=bob&token=a
        bob < {"type":"ERROR","payload":{"msg":"Invalid key provided"}}
        bob closed
    """,
    "an id that is taken": """
        ann connects /peerjs?key=peerjs&id=ann&token=a
        ann < {"type":"OPEN"}
        eve connects /peerjs?key=peerjs&id=ann&token=b
        eve < {"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}
        eve closed
        bob connects /peerjs?key=peerjs&id=bob&token=b
        bob < {"type":"OPEN"}
        bob > {"type":"OFFER","dst":"ann"}
        ann < {"type":"OFFER","src":"bob","dst":"ann"}
    """,
    "an id is squatted when the socket of its owner is lost": """
        ann connects /peerjs?key=peerjs&id=ann&token=a
        ann < {"type":"OPEN"}
        ann vanishes
        eve connects /peerjs?key=peerjs&id=ann&token=b
        theirs eve < {"type":"OPEN"}
        ours eve < {"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}
        ours eve closed
        ann connects /peerjs?key=peerjs&id=ann&token=a
        theirs ann < {"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}
        theirs ann closed
        ours ann < {"type":"OPEN"}
    """,
    "one comes back while the old socket lives": """
        ann connects /peerjs?key=peerjs&id=ann&token=a
        ann < {"type":"OPEN"}
        bob connects /peerjs?key=peerjs&id=bob&token=b
        bob < {"type":"OPEN"}
        eve connects /peerjs?key=peerjs&id=ann&token=a
        ours eve < {"type":"OPEN"}
        ours ann closed
        bob > {"type":"OFFER","dst":"ann"}
        eve < {"type":"OFFER","src":"bob","dst":"ann"}
        eve > {"type":"ANSWER","dst":"bob"}
        bob < {"type":"ANSWER","src":"ann","dst":"bob"}
    """,
    "nobody is told of a socket that ends": """
        ann connects /peerjs?key=peerjs&id=ann&token=a
        ann < {"type":"OPEN"}
        bob connects /peerjs?key=peerjs&id=bob&token=b
        bob < {"type":"OPEN"}
        ann > {"type":"OFFER","dst":"bob"}
        bob < {"type":"OFFER","src":"ann","dst":"bob"}
        ann vanishes
        ann connects /peerjs?key=peerjs&id=ann&token=a
        ann < {"type":"OPEN"}
        bob > {"type":"ANSWER","dst":"ann"}
        ann < {"type":"ANSWER","src":"bob","dst":"ann"}
    """,
    "who gives an id back loses it": """
        ann connects /peerjs?key=peerjs&id=ann&token=a
        ann < {"type":"OPEN"}
        ann > {"type":"LEAVE"}
        eve connects /peerjs?key=peerjs&id=ann&token=b
        eve < {"type":"OPEN"}
        bob connects /peerjs?key=peerjs&id=bob&token=b
        bob < {"type":"OPEN"}
        bob > {"type":"OFFER","dst":"ann"}
        eve < {"type":"OFFER","src":"bob","dst":"ann"}
        ann > {"type":"ANSWER","dst":"bob"}
        theirs bob < {"type":"ANSWER","src":"ann","dst":"bob"}
    """,
    "a stranger says that it leaves, or that one has expired": """
        ann connects /peerjs?key=peerjs&id=ann&token=a
        ann < {"type":"OPEN"}
        bob connects /peerjs?key=peerjs&id=bob&token=b
        bob < {"type":"OPEN"}
        eve connects /peerjs?key=peerjs&id=eve&token=e
        eve < {"type":"OPEN"}
        ann > {"type":"OFFER","dst":"bob"}
        bob < {"type":"OFFER","src":"ann","dst":"bob"}
        eve > {"type":"LEAVE","src":"ann","dst":"bob"}
        theirs bob < {"type":"LEAVE","src":"eve","dst":"bob"}
        eve > {"type":"EXPIRE","src":"ann","dst":"bob"}
        theirs bob < {"type":"EXPIRE","src":"eve","dst":"bob"}
    """,
    "signals wait for one who comes late": """
        ann connects /peerjs?key=peerjs&id=ann&token=a
        ann < {"type":"OPEN"}
        ann > {"type":"OFFER","dst":"bob","payload":1}
        ann > {"type":"CANDIDATE","dst":"bob","payload":2}
        ann > {"type":"LEAVE","dst":"bob"}
        ann > {"type":"CANDIDATE","dst":"bob","payload":3}
        bob connects /peerjs?key=peerjs&id=bob&token=b
        bob < {"type":"OPEN"}
        bob < {"type":"OFFER","src":"ann","dst":"bob","payload":1}
        bob < {"type":"CANDIDATE","src":"ann","dst":"bob","payload":2}
        bob < {"type":"CANDIDATE","src":"ann","dst":"bob","payload":3}
        bob > {"type":"ANSWER","dst":"ann"}
        ann < {"type":"ANSWER","src":"bob","dst":"ann"}
    """,
    "nobody comes": """
        ann connects /peerjs?key=peerjs&id=ann&token=a
        ann < {"type":"OPEN"}
        eve connects /peerjs?key=peerjs&id=eve&token=e
        eve < {"type":"OPEN"}
        ann > {"type":"OFFER","dst":"bob","payload":1}
        ann > {"type":"CANDIDATE","dst":"bob","payload":2}
        ann > {"type":"OFFER","dst":"__proto__","payload":3}
        ann > {"type":"OFFER","dst":"constructor","payload":4}
        ann > {"type":"LEAVE","dst":"nobody"}
        ann < {"type":"EXPIRE","src":"bob","dst":"ann"}
        ann < {"type":"EXPIRE","src":"__proto__","dst":"ann"}
        ann < {"type":"EXPIRE","src":"constructor","dst":"ann"}
        bob connects /peerjs?key=peerjs&id=bob&token=b
        bob < {"type":"OPEN"}
    """,
    "one who was there is missed": """
        ann connects /peerjs?key=peerjs&id=ann&token=a
        ann < {"type":"OPEN"}
        bob connects /peerjs?key=peerjs&id=bob&token=b
        bob < {"type":"OPEN"}
        ann > {"type":"OFFER","dst":"bob","payload":1}
        bob < {"type":"OFFER","src":"ann","dst":"bob","payload":1}
        bob vanishes
        ann > {"type":"CANDIDATE","dst":"bob","payload":2}
        ann < {"type":"EXPIRE","src":"bob","dst":"ann"}
    """,
    "ids that the client does not allow": """
        ann connects /peerjs?key=peerjs&id=__proto__&token=a
        theirs ann < {"type":"OPEN"}
        ours ann < {"type":"ERROR","payload":{"msg":"Invalid id provided"}}
        ours ann closed
    """,
}

CARD = {
    "name": "PeerJS Server",
    "description": "A server side element to broker connections between PeerJS clients.",
    "website": "https://peerjs.com/",
}


@pytest.fixture
def theirs() -> Iterator[str]:
    """Run the PeerJS server; yields its address."""
    (target,) = [target for target in TARGETS if target.name == "peerjs"]
    node, script = target.prepare()
    command = [node, "--input-type=module", "--eval", START]
    folder = Path(script).parent
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.terminate()


async def test_answers_equal_those_of_the_peerjs_server(theirs: str, redis_url: str) -> None:
    differences: list[str] = []
    async with (
        serve_once() as one,
        serve_replicas(3, redis_url) as three,
        trio.open_nursery() as nursery,
    ):
        for service, side in ((Service(theirs), "theirs"), (one, "ours"), (three, "ours")):
            nursery.start_soon(check_calls, service, side)
            for number, (name, text) in enumerate(CONVERSATIONS.items()):
                own = re.sub(r"\b(ann|bob|eve)\b", rf"\g<1>{number}", text)
                lines = re.sub(rf"^ +{side} ", "", own, flags=re.MULTILINE).strip().splitlines()
                nursery.start_soon(play, service, lines, f"{name}, {side}", differences)
    assert not differences, "\n".join(differences)


async def play(service: Service, lines: list[str], name: str, differences: list[str]) -> None:
    """Hold a conversation until an answer differs from the expected one."""
    clients: dict[str, Client] = {}
    async with AsyncExitStack() as stack:
        for line in lines:
            who, what, *more = line.split(maxsplit=2)
            if who in ("theirs", "ours"):
                continue
            if what in ("<", "closed"):
                expected = json.loads(more[0]) if more else None
                heard = await hear(clients[who])
                if heard != expected:
                    differences.append(f"{name}: {line.strip()}\n  but heard: {heard}")
                    return
                if heard is None:
                    del clients[who]
                continue
            if what == ">":
                await clients[who].send_text(more[0])
            elif what == "vanishes":
                await clients.pop(who).vanish()
            await settle(*clients.values())
            if what == "connects":
                clients[who] = await stack.enter_async_context(service.connect(more[0]))
        for who, client in clients.items():
            differences += [f"{name}: {who} < {heard}" for heard in await client.settle()]


async def hear(client: Client) -> Message | str | None:
    """The next message, or None if the server closes."""
    try:
        return await client.receive()
    except ConnectionClosed:
        return None
    except trio.TooSlowError:
        return "nothing"


async def check_calls(service: Service, side: str) -> None:
    """Check the client's HTTP requests, from a page of any origin."""
    origin = "https://app.example.com"
    headers = {"Accept": "application/json", "Origin": origin}
    async with httpx.AsyncClient(base_url=f"http://{service.base}", headers=headers) as http:
        card = await http.get("/")
        id_ = await http.get("/peerjs/id", params={"ts": "17", "version": "1.5.5"})
        peers = await http.get("/peerjs/peers")
    assert (card.status_code, card.json()) == (200, CARD)
    assert (id_.status_code, len(id_.text)) == (200, 36)
    kind = "text/html" if side == "theirs" else "text/plain"
    assert id_.headers["content-type"].lower() == f"{kind}; charset=utf-8"
    assert peers.status_code == 401
    assert peers.text == "Unauthorized" or (side == "ours" and list(peers.json()) == ["error"])
    for answer in (id_, peers):
        assert answer.headers["access-control-allow-origin"] in ("*", origin)
