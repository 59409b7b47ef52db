"""Authentication: which tokens are valid, and what they say."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
import trio

from tests.clients import PATIENCE
from tests.conftest import settings
from tests.tokens import SECRET, jwk, make_token, private_key, public_pem, run_key_server
from trio_signal.auth import (
    MAX_TOKEN,
    FoundToken,
    OpenAuth,
    TokenAuth,
    find_token,
    mint_token,
    open_auth,
    read_login_token,
)
from trio_signal.config import Settings
from trio_signal.dialects.mesh import AuthToken
from trio_signal.errors import AuthenticationError, ConfigError, IdentityMismatchError
from trio_signal.messages.commands import Authenticate, Renew
from trio_signal.messages.identity import Grants, Identity
from trio_signal.names import MAX_PICTURE
from trio_signal.tokens import LEEWAY


async def identify(token: str | None, *, claimed: str | None = None, **given: Any) -> Identity:
    """The identity in this token, on a server with these settings."""
    given = given or {"jwt_secret": SECRET}
    with trio.fail_after(PATIENCE):
        async with open_auth(settings(**given)) as auth:
            try:
                return await auth.authenticate(Authenticate("peer", token, claimed=claimed))
            except AuthenticationError as error:
                refusal = error
    raise refusal  # not inside, where a nursery would wrap it


def encoded(part: Any) -> str:
    text = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def by_hand(head: Any, said: Any, secret: bytes = SECRET.encode()) -> str:
    """A token that no library would make, with a correct HS256 signature."""
    signed = f"{encoded(head)}.{encoded(said)}"
    signature = hmac.digest(secret, signed.encode(), hashlib.sha256)
    return f"{signed}.{encoded(signature)}"


# What a token says


async def test_token_gives_identity_and_grants() -> None:
    now = int(time.time())
    token = make_token(
        "ann",
        iss="https://id.example.com",
        name=" Ann\u202e ",
        picture="https://x.example/a.png",
        rooms=["a", "b-*"],
        publish=False,
        moderator=True,
        creator=True,
        team_of="cyd",
        exp=now + 60,
        iat=now,
        nbf=now,
        email="ann@example.com",
    )
    assert await identify(token) == Identity(
        "https://id.example.com\0ann",
        "ann",
        "Ann",
        "https://x.example/a.png",
        Grants(("a", "b-*"), publish=False, moderator=True, creator=True, team_of="cyd"),
        now + 60,
        verified=True,
    )


async def test_minimal_token_grants_every_room_and_publishing() -> None:
    identity = await identify(make_token("ann"))
    assert (identity.username, identity.avatar_url) == (None, None)
    assert identity.grants == Grants(("*",), publish=True, moderator=False, creator=False)


async def test_token_name_overrides_client_name() -> None:
    async with open_auth(settings(jwt_secret=SECRET)) as auth:
        claims = Authenticate("peer", make_token("ann", name="Ann"), "Eve", guest_name="Guest")
        assert (await auth.authenticate(claims)).username == "Ann"
        claims = Authenticate("peer", make_token("ann"), "Eve\n", guest_name="Guest")
        assert (await auth.authenticate(claims)).username == "Eve"
        claims = Authenticate("peer", make_token("ann"), None, guest_name="Guest")
        assert (await auth.authenticate(claims)).username == "ann"  # a token: no guest


@pytest.mark.parametrize(
    "picture",
    ["javascript:alert(1)", "data:text/html,x", "", "a.png", "https://x/" + "x" * MAX_PICTURE],
)
async def test_picture_must_be_a_web_url(picture: str) -> None:
    assert (await identify(make_token("ann", picture=picture))).avatar_url is None


@pytest.mark.parametrize(
    ("rooms", "room_id", "may"),
    [
        (["*"], "any", True),
        ([], "any", False),
        (["a"], "a", True),
        (["a"], "A", False),
        (["a"], "ab", False),
        (["team-*"], "team-1", True),
        (["team-*"], "my-team-1", False),
        (["a", "b"], "b", True),
        (["[ab]?"], "a1", True),
    ],
)
async def test_globs_grant_rooms(rooms: list[str], room_id: str, may: bool) -> None:
    identity = await identify(make_token("ann", rooms=rooms))
    assert identity.grants.admit(room_id) is may


# Keys


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_public_key_verifies_token(algorithm: str) -> None:
    key = private_key(algorithm)
    given = {"jwt_public_key": public_pem(key)}
    token = make_token("ann", key=key, algorithm=algorithm)
    assert (await identify(token, **given)).user_id == "ann"
    token = make_token("ann", key=private_key(algorithm, 2), algorithm=algorithm)
    with pytest.raises(AuthenticationError):
        await identify(token, **given)


async def test_several_keys_work_together() -> None:
    rsa, ed = private_key("RS256"), private_key("EdDSA")
    async with run_key_server(jwk(rsa, "rsa"), jwk(private_key("RS256", 2), "two")) as server:
        given = {"jwt_secret": SECRET, "jwt_public_key": public_pem(ed), "jwks_url": server.url}
        async with open_auth(settings(**given)) as auth:
            for token in (
                make_token("ann"),
                make_token("ann", key=ed, algorithm="EdDSA"),
                make_token("ann", key=rsa, algorithm="RS256", kid="rsa"),
            ):
                with trio.fail_after(PATIENCE):
                    assert (await auth.authenticate(Authenticate("x", token))).user_id == "ann"


async def test_unknown_or_wrong_key_id_is_refused() -> None:
    one, two = private_key("ES256"), private_key("ES256", 2)
    async with run_key_server(jwk(one, "one"), jwk(two, "two")) as server:
        for kid in ("two", "three", None, "../../etc/passwd", ""):
            token = make_token("ann", key=one, algorithm="ES256", kid=kid)
            with pytest.raises(AuthenticationError):
                await identify(token, jwks_url=server.url)
        token = make_token("ann", key=one, algorithm="ES256", kid="one")
        assert (await identify(token, jwks_url=server.url)).user_id == "ann"


async def test_unavailable_key_set_refuses_tokens_but_server_starts() -> None:
    async with run_key_server() as server:
        server.status = "503 Service Unavailable"
        token = make_token("ann", key=private_key("ES256"), algorithm="ES256", kid="one")
        with pytest.raises(AuthenticationError, match=r"^Invalid token$"):
            await identify(token, jwks_url=server.url)


# Times, issuer, audience


@pytest.mark.parametrize("ago", [0, LEEWAY - 5])
async def test_small_clock_difference_is_tolerated(ago: int) -> None:
    now = int(time.time())
    identity = await identify(make_token("ann", exp=now - ago))
    assert identity.expires == now - ago + LEEWAY
    await identify(make_token("ann", nbf=now + ago))
    await identify(make_token("ann", iat=now + ago))


async def test_issuer_and_audience_must_match() -> None:
    given = {"jwt_secret": SECRET, "jwt_issuer": "https://id", "jwt_audience": "signal"}
    for audience in ("signal", ["else", "signal"]):
        await identify(make_token("ann", iss="https://id", aud=audience), **given)
    bad: list[dict[str, Any]] = [
        {"iss": "https://id"},
        {"aud": "signal"},
        {"iss": "https://evil", "aud": "signal"},
        {"iss": "https://id", "aud": "else"},
        {"iss": "https://id", "aud": []},
        {"iss": "https://id", "aud": 5},
    ]
    tokens = [make_token("ann", **claims) for claims in bad]
    tokens.append(by_hand(HS256, {**GOOD, "iss": ["https://id"], "aud": "signal"}))
    for token in tokens:
        with pytest.raises(AuthenticationError):
            await identify(token, **given)


async def test_audience_is_ignored_when_not_configured() -> None:
    assert (await identify(make_token("ann", aud="else", iss="x"))).user_id == "ann"


# Invalid tokens

RSA = private_key("RS256")
NOW = int(time.time())
HS256 = {"alg": "HS256", "typ": "JWT"}
GOOD = {"sub": "ann", "exp": NOW + 86400}

BAD_TOKENS: dict[str, Callable[[], str | None]] = {
    "none": lambda: None,
    "empty": lambda: "",
    "nonsense": lambda: "nonsense",
    "dots": lambda: "..",
    "not ASCII": lambda: "é.é.é",
    "half a surrogate": lambda: "\ud800.a.b",
    "five parts": lambda: "a.b.c.d.e",
    "expired": lambda: make_token(exp=NOW - LEEWAY - 5),
    "long expired": lambda: make_token(exp=1),
    "without exp": lambda: make_token(exp=...),
    "exp is a text": lambda: by_hand(HS256, {"sub": "ann", "exp": str(NOW + 86400)}),
    "exp is endless": lambda: by_hand(HS256, b'{"sub":"ann","exp":Infinity}'),
    "exp is no number": lambda: by_hand(HS256, b'{"sub":"ann","exp":NaN}'),
    "exp is null": lambda: by_hand(HS256, {"sub": "ann", "exp": None}),
    "exp is true": lambda: by_hand(HS256, {"sub": "ann", "exp": True}),
    "not yet valid": lambda: make_token(nbf=NOW + 86400),
    "of the future": lambda: make_token(iat=NOW + 86400),
    "nbf is a text": lambda: by_hand(HS256, {**GOOD, "nbf": "soon"}),
    "nbf is endless": lambda: by_hand(HS256, b'{"sub":"ann","exp":9999999999,"nbf":Infinity}'),
    "without sub": lambda: make_token(...),
    "sub is empty": lambda: make_token(""),
    "sub is a number": lambda: by_hand(HS256, {**GOOD, "sub": 5}),
    "sub is too long": lambda: make_token("x" * 257),
    "rooms is a text": lambda: make_token(rooms="*"),
    "rooms is null": lambda: make_token(rooms=None),
    "rooms of numbers": lambda: make_token(rooms=[1]),
    "publish is a text": lambda: make_token(publish="false"),
    "moderator is a number": lambda: make_token(moderator=1),
    "creator is a text": lambda: make_token(creator="yes"),
    "team_of is a list": lambda: make_token(team_of=["ann"]),
    "name is a number": lambda: make_token(name=5),
    "picture is no UTF-8": lambda: make_token(picture="https://x.example/\ud800"),
    "sub is no UTF-8": lambda: make_token("\udfff"),
    "iss is no UTF-8": lambda: make_token(iss="\ud800"),
    "name is no UTF-8": lambda: make_token(name="Ann\udc00"),
    "rooms are no UTF-8": lambda: make_token(rooms=["\ud800"]),
    "team_of is no UTF-8": lambda: make_token(team_of="\ud800"),
    "another secret": lambda: make_token(key="x" * 40),
    "alg none": lambda: make_token(key=None, algorithm="none"),
    "alg NONE by hand": lambda: f"{encoded({'alg': 'NONE'})}.{encoded(GOOD)}.",
    "alg none, signed": lambda: by_hand({"alg": "none"}, GOOD),
    "alg is missing": lambda: by_hand({}, GOOD),
    "alg is a list": lambda: by_hand({"alg": ["HS256"]}, GOOD),
    "HS512": lambda: make_token(key=SECRET * 2, algorithm="HS512"),
    "another algorithm's": lambda: make_token(key=RSA, algorithm="RS256"),
    "unsigned": lambda: make_token().rsplit(".", 1)[0] + ".",
    "signature of another": lambda: (
        make_token("eve").rsplit(".", 1)[0] + "." + make_token("ann").rsplit(".", 1)[1]
    ),
    "head is a list": lambda: by_hand([], GOOD),
    "said is a list": lambda: by_hand(HS256, []),
    "said is no JSON": lambda: by_hand(HS256, b"{"),
    "said is no text": lambda: by_hand(HS256, b"\xff"),
    "key id is a number": lambda: by_hand({**HS256, "kid": 5}, GOOD),
    "critical head": lambda: by_hand({**HS256, "crit": ["x"], "x": 1}, GOOD),
    "nested head": lambda: f"{encoded(b'[' * 5000)}.{encoded(GOOD)}.x",
    "nested claims": lambda: by_hand(HS256, b'{"x":' + b"[" * 5000),
    "gigantic": lambda: make_token(x="x" * MAX_TOKEN),
    "of open mode": lambda: "open." + encoded({"sub": "ann", "name": "Ann"}),
}


@pytest.mark.parametrize("make", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_bad_token_is_refused_without_reason(make: Callable[[], str | None]) -> None:
    with pytest.raises(AuthenticationError, match=r"^Invalid token$") as refused:
        await identify(make())
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def as_hs256(head: dict[str, Any], secret: bytes) -> str:
    return by_hand({**HS256, **head}, GOOD, secret)


async def test_public_key_is_not_accepted_as_secret() -> None:
    """The attack on libraries that trust the token's `alg`: HS256, signed with the public key."""
    pem = public_pem(RSA)
    for secret in (pem, pem.strip(), pem.replace("\n", "")):
        with pytest.raises(AuthenticationError):
            await identify(as_hs256({}, secret.encode()), jwt_public_key=pem)
        with pytest.raises(AuthenticationError):
            await identify(as_hs256({}, secret.encode()), jwt_public_key=pem, jwt_secret=SECRET)
    async with run_key_server(jwk(RSA, "rsa")) as server:
        with pytest.raises(AuthenticationError):
            await identify(as_hs256({"kid": "rsa"}, pem.encode()), jwks_url=server.url)
        inside = as_hs256({"kid": "rsa", "jwk": jwk(RSA), "jku": server.url}, pem.encode())
        with pytest.raises(AuthenticationError):
            await identify(inside, jwks_url=server.url)


async def test_key_inside_token_is_ignored() -> None:
    evil = private_key("RS256", 2)
    said = {"sub": "ann", "exp": NOW + 86400}
    async with run_key_server(jwk(evil, "evil")) as server:
        for head in ({"jwk": jwk(evil)}, {"jku": server.url, "kid": "evil"}):
            token = jwt.encode(said, evil, "RS256", headers=head)
            with pytest.raises(AuthenticationError):
                await identify(token, jwt_public_key=public_pem(RSA))
        assert server.asked == 0


async def test_claimed_user_must_match_token() -> None:
    assert (await identify(make_token("ann"), claimed="ann")).user_id == "ann"
    for other in ("bob", "Ann", "ann ", ""):
        with pytest.raises(IdentityMismatchError, match=r"^Identity mismatch$"):
            await identify(make_token("ann"), claimed=other)


# Minting


async def test_minted_token_is_valid() -> None:
    server = settings(jwt_secret=SECRET, jwt_issuer="us", jwt_audience="signal")
    grants = Grants(("a-*",), publish=False, moderator=True, creator=True, team_of="cyd")
    token = mint_token(server, "ann", name="Ann", grants=grants, ttl=60)
    async with open_auth(server) as auth:
        identity = await auth.authenticate(Authenticate("x", token))
    assert (identity.user_id, identity.username, identity.grants) == ("ann", "Ann", grants)
    assert identity.subject == "us\0ann"
    assert identity.expires == pytest.approx(time.time() + 60, abs=10)


def test_minted_token_has_only_required_claims() -> None:
    token = mint_token(settings(jwt_secret=SECRET), "ann", ttl=60)
    said = jwt.decode(token, options={"verify_signature": False})
    assert set(said) == {"sub", "iat", "exp"}


def test_minting_needs_a_secret() -> None:
    with pytest.raises(ConfigError, match="TRIO_SIGNAL_JWT_SECRET"):
        mint_token(settings(), "ann", ttl=60)


# The mode


@pytest.mark.parametrize(
    ("given", "wants"),
    [
        ({}, False),
        ({"auth": "open"}, False),
        ({"jwt_secret": SECRET}, True),
        ({"jwt_public_key": public_pem(RSA)}, True),
        ({"jwks_url": "https://id.example.com"}, True),
        ({"jwt_secret": SECRET, "users_file": "users.json"}, True),
        ({"jwt_secret": SECRET, "auth": "open"}, False),
        ({"jwt_secret": SECRET, "auth": "token"}, True),
        ({"jwt_secret": "", "auth": ""}, False),
    ],
)
async def test_key_enables_token_mode(given: dict[str, Any], wants: bool) -> None:
    server = settings(**given)
    assert server.wants_tokens is wants
    async with open_auth(server) as auth:
        assert isinstance(auth, TokenAuth if wants else OpenAuth)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"auth": "token"}, "TRIO_SIGNAL_JWT_SECRET"),
    ({"users_file": "users.json"}, "TRIO_SIGNAL_USERS_FILE.*TRIO_SIGNAL_JWT_SECRET"),
    ({"jwt_secret": "hunter2"}, "TRIO_SIGNAL_JWT_SECRET.*32 bytes"),
    ({"jwt_public_key": "hunter2"}, "TRIO_SIGNAL_JWT_PUBLIC_KEY"),
    ({"jwks_url": "http://id.example.com/keys"}, "TRIO_SIGNAL_JWKS_URL.*https"),
    ({"jwks_url": "https:///keys"}, "TRIO_SIGNAL_JWKS_URL.*https"),
    ({"jwks_url": "file:///etc/passwd"}, "TRIO_SIGNAL_JWKS_URL.*https"),
    ({"turn_urls": "turn:x"}, "TRIO_SIGNAL_TURN_URLS.*TRIO_SIGNAL_TURN_SECRET"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_wrong_key_settings_are_refused_without_showing_keys(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        settings(**given)
    assert "hunter2" not in str(refused.value)


# Open mode


async def test_open_mode_subject_does_not_contain_the_token() -> None:
    """Replicas exchange the subject; it must not contain a token from elsewhere."""
    auth = OpenAuth()
    token = make_token("ann")
    one = await auth.authenticate(Authenticate("x", token, "Ann"))
    assert token not in repr(one)
    assert one.subject == (await auth.authenticate(Authenticate("y", token, "Ann"))).subject
    assert one.subject != (await auth.authenticate(Authenticate("x", token, "Bob"))).subject


async def test_nested_login_token_of_open_mode_is_an_ordinary_text() -> None:
    """Anybody can send it, and in token mode too: HTTP calls read it before they verify it."""
    nested = b'{"sub":"ann","name":"Ann","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    token = "open." + encoded(nested)
    assert read_login_token(token) is None
    identity = await OpenAuth().authenticate(Authenticate("x", token))
    assert identity.username is None


# Where a token is found

Headers = dict[str, list[str]]
PLACES: list[tuple[Headers, dict[str, str], FoundToken | None]] = [
    ({}, {}, None),
    ({"Authorization": ["Bearer t"]}, {}, FoundToken("t")),
    ({"Authorization": ["bearer  t "]}, {"token": "q"}, FoundToken("t")),
    ({"Authorization": ["Basic t"]}, {}, None),
    ({"Authorization": ["Bearer "]}, {}, None),
    ({"Sec-WebSocket-Protocol": ["bearer, t"]}, {}, FoundToken("t")),
    ({"Sec-WebSocket-Protocol": ["bearer", "t"]}, {}, FoundToken("t")),
    ({"Sec-WebSocket-Protocol": ["bearer"]}, {}, None),
    ({"Sec-WebSocket-Protocol": ["chat, t"]}, {}, None),
    ({}, {"token": "q"}, FoundToken("q")),
    ({"Cookie": ["session_id=c"]}, {"token": "q"}, FoundToken("q")),
    ({"Cookie": ["a=b; session_id=c; d"]}, {}, FoundToken("c", from_cookie=True)),
    ({"Cookie": ['session="c"']}, {}, FoundToken("c", from_cookie=True)),
    ({"Cookie": ["session=s; session_id=i"]}, {}, FoundToken("i", from_cookie=True)),
    ({"Cookie": ["bad cookie[]; session=s"]}, {}, FoundToken("s", from_cookie=True)),
    ({"Cookie": ["mysession=s"]}, {}, None),
]


@pytest.mark.parametrize(("headers", "query", "found"), PLACES)
def test_token_is_found_in_request(
    headers: Headers, query: dict[str, str], found: FoundToken | None
) -> None:
    assert find_token(lambda name: headers.get(name, []), query) == found


@pytest.mark.parametrize(
    "value",
    [
        FoundToken("s3cret"),
        Authenticate("x", "s3cret"),
        Renew("s3cret"),
        AuthToken("s3cret"),
        settings(jwt_secret=SECRET + "s3cret", turn_secret="s3cret", metrics_token="s3cret"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_repr_hides_tokens_and_secrets(
    value: FoundToken | Authenticate | Renew | AuthToken | Settings,
) -> None:
    assert "s3cret" not in f"{value!r} {value}"
