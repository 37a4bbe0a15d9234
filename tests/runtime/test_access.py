"""Who may call: tokens of a cluster's accounts, verified with its keys, and what happens while those can not be had."""

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from aibrix_runtime.access import AGAIN_S, REFRESH_S, Caller, Cluster, Tokens, bearer
from aibrix_runtime.config import Mistake, parse
from aibrix_runtime.errors import Failed
from tests.runtime.sidecar import LLAMA, METRICS

ISSUER, AUDIENCE, SUBJECT = "https://cluster", "aibrix-runtime", "system:serviceaccount:models:aibrix-adapters"
KEY, OTHER = (rsa.generate_private_key(65537, 2048) for _ in range(2))
CONFIG = parse(
    {
        "engine": {"kind": "mock", "url": "http://127.0.0.1:8000", "model": "base"},
        "base": {name: getattr(LLAMA, name) for name in LLAMA.__slots__},
        "adapters": None,
        "metrics": METRICS,
        "storage": {"s3": None},
        "claims": {},
        "models": {"folder": "/models", "allow": []},
        "access": {"audience": AUDIENCE, "subjects": {SUBJECT: ["read", "load"]}},
    }
)


def card(key: rsa.RSAPrivateKey, ident: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    return found | {"kid": ident, "alg": "RS256", "use": "sig"}


def token(key: Any = KEY, ident: str = "one", algorithm: str = "RS256", **claims: Any) -> str:
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "exp": time.time() + 600} | claims
    return jwt.encode(
        {name: value for name, value in whole.items() if value is not None}, key, algorithm, {"kid": ident}
    )


class Keys:
    """The issuer. `away`: it does not answer."""

    def __init__(self) -> None:
        self.cards, self.away, self.asked, self.now = [card(KEY, "one")], False, 0, 1000.0

    async def __call__(self) -> Mapping[str, Any]:
        self.asked += 1
        if self.away:
            raise OSError("no route to host")
        return {"keys": self.cards}


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def access(keys: Keys, tmp_path: Path) -> Cluster:
    (tmp_path / "token").write_text(token())
    return Cluster(lambda: CONFIG, tmp_path, keys, lambda: keys.now)


def ask(access: Cluster | Tokens, text: str) -> Caller:
    return asyncio.run(access.caller(text))


def refused(access: Cluster | Tokens, text: str) -> str:
    with pytest.raises(Failed) as caught:
        ask(access, text)
    return caught.value.code


def test_a_good_token_has_the_rights_of_its_account(access: Cluster) -> None:
    assert ask(access, token()) == (SUBJECT, {"read", "load"})
    assert ask(access, token(sub="system:serviceaccount:models:default")).rights == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        token(exp=time.time() - 60),
        token(exp=None),
        token(aud="kubernetes"),
        token(aud=None),
        token(iss="https://elsewhere"),
        token(sub=None),
        token(nbf=time.time() + 600),
        token(OTHER),
        token(ident="unknown"),
        token("x" * 40, algorithm="HS256"),
        jwt.encode({"sub": SUBJECT}, None, "none", {"kid": "one"}),
        token()[:-4] + "AAAA",
        *("", "x", "a.b.c", "ey" * 4000),
    ],
)
def test_a_bad_token_is_refused(access: Cluster, text: str) -> None:
    assert refused(access, text) == "unauthorized"


def test_a_public_key_is_no_secret(access: Cluster) -> None:
    """A token signed with the public key's text as HMAC secret, which careless readers take."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    text = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, body = (
        {"alg": "HS256", "kid": "one"},
        {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "exp": time.time() + 60},
    )
    whole = b".".join(jwt.utils.base64url_encode(json.dumps(one).encode()) for one in (head, body))
    import hashlib
    import hmac

    forged = whole + b"." + jwt.utils.base64url_encode(hmac.digest(text, whole, hashlib.sha256))
    assert refused(access, forged.decode()) == "unauthorized"


def test_keys_that_are_known_outlive_the_issuer(access: Cluster, keys: Keys) -> None:
    ask(access, token())
    keys.away, keys.now = True, keys.now + 2 * REFRESH_S
    assert ask(access, token()).subject == SUBJECT


def test_without_any_key_it_says_so(access: Cluster, keys: Keys) -> None:
    keys.away = True
    with pytest.raises(Failed, match="no route to host") as caught:
        ask(access, token())
    assert caught.value.status == 503


def test_a_new_key_is_looked_for_and_a_flood_of_unknown_ones_is_not(access: Cluster, keys: Keys) -> None:
    ask(access, token())
    keys.cards.append(card(OTHER, "two"))
    for _ in range(50):
        assert refused(access, token(OTHER, "two")) == "unauthorized"
    assert keys.asked == 1
    keys.now += AGAIN_S
    assert ask(access, token(OTHER, "two")).subject == SUBJECT
    assert keys.asked == 2


def test_a_file_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("first read\n\nsecond read,load\n")
    access = Tokens(path)
    assert ask(access, "second") == ("token of line 3", {"read", "load"})
    assert refused(access, "third") == refused(access, "") == "unauthorized"
    for text, words in (("first write", "rights are read, load"), ("\xff", "utf-8"), ("first", "TOKEN RIGHT")):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(Mistake, match=words):
            Tokens(path)
    with pytest.raises(Mistake, match="No such file"):
        Tokens(tmp_path / "nothing")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic x", "x", f"Bearer {'x' * 20000}"])
def test_no_bearer_token(header: str) -> None:
    with pytest.raises(Failed, match="a bearer token is wanted"):
        bearer(header)
