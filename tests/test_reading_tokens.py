"""Tokens are parsed as by PyJWT, or more strictly."""

import time
from typing import Any

import jwt
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.test_auth import by_hand
from tests.tokens import SECRET
from trio_signal.keys import secret_key
from trio_signal.tokens import LEEWAY, BadTokenError, Claims, read_token

KEY = secret_key(SECRET)
NOW = int(time.time())

TIMES = st.sampled_from([0, NOW - 3600, NOW - LEEWAY - 9, NOW, NOW + LEEWAY + 99, NOW + 3600, 2.5])
NAMES = st.sampled_from(["signal", "https://id", "ann", ""])
ANYTHING = st.one_of(
    TIMES, NAMES, st.none(), st.booleans(), st.lists(st.one_of(NAMES, st.integers()), max_size=2)
)
CLAIMS = st.fixed_dictionaries(
    {"sub": st.one_of(NAMES, ANYTHING), "exp": st.one_of(st.just(NOW + 3600), ANYTHING)},
    optional=dict.fromkeys(("nbf", "iat", "jti", "iss", "aud", "name"), ANYTHING),
)
HEADS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256", "HS256", "HS256", "none", "HS512", ["HS256"], None])},
    optional={"kid": ANYTHING, "crit": ANYTHING, "b64": ANYTHING, "typ": ANYTHING},
)
WANTED = st.sampled_from([None, "signal", "https://id"])


def by_pyjwt(token: str, issuer: str | None, audience: str | None) -> dict[str, Any] | None:
    options: Any = {"require": ["exp", "sub"], "verify_aud": audience is not None}
    try:
        return jwt.decode(
            *(token, SECRET, ["HS256"]),
            issuer=issuer,
            audience=audience,
            leeway=LEEWAY,
            options=options,
        )
    except (jwt.PyJWTError, ValueError, TypeError):
        return None


def by_us(token: str, issuer: str | None, audience: str | None) -> Claims | None:
    try:
        return read_token(token, KEY, issuer=issuer, audience=audience)
    except BadTokenError:
        return None


@given(head=HEADS, said=CLAIMS, issuer=WANTED, audience=WANTED)
@example(head={"alg": "HS256"}, said={"sub": "a", "exp": NOW - 9}, issuer=None, audience=None)
@settings(max_examples=300, deadline=None)
def test_tokens_refused_by_pyjwt_are_refused(
    head: dict[str, Any], said: dict[str, Any], issuer: str | None, audience: str | None
) -> None:
    token = by_hand(head, said)
    ours = by_us(token, issuer, audience)
    if ours is not None:
        theirs = by_pyjwt(token, issuer, audience)
        assert theirs is not None
        assert (ours.sub, ours.exp, ours.iss) == (theirs["sub"], theirs["exp"], theirs.get("iss"))


@given(
    exp=TIMES,
    nbf=TIMES,
    iat=TIMES,
    iss=NAMES,
    aud=st.one_of(NAMES, st.lists(NAMES)),
    issuer=WANTED,
    audience=WANTED,
)
@settings(max_examples=300, deadline=None)
def test_well_formed_tokens_are_read_as_by_pyjwt(
    issuer: str | None, audience: str | None, **said: Any
) -> None:
    token = by_hand({"alg": "HS256", "typ": "JWT", "kid": "one"}, {"sub": "ann", **said})
    assert (by_us(token, issuer, audience) is None) == (by_pyjwt(token, issuer, audience) is None)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_random_input_is_refused_without_other_errors(text: str) -> None:
    assert by_us(text, None, None) is None
