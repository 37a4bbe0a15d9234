"""A kubeconfig with a client certificate, as kind writes it: where its API server is, and how to prove who we are."""

import base64
import ssl
import tempfile
from pathlib import Path
from typing import Any

import yaml


def read(path: Path) -> tuple[str, ssl.SSLContext]:
    """Address and TLS of the current context. Only embedded data: kind and kubeadm write nothing else."""
    config = yaml.safe_load(path.read_text("utf-8"))
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    tls = ssl.create_default_context(cadata=_decoded(cluster, "certificate-authority-data").decode())
    with tempfile.NamedTemporaryFile() as pair:  # OpenSSL reads certificates and keys from files only; this one is 0600
        for part in ("client-certificate-data", "client-key-data"):
            pair.write(_decoded(user, part) + b"\n")
        pair.flush()
        tls.load_cert_chain(pair.name)
    return str(cluster["server"]), tls


def _named(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in rows if row["name"] == name)


def _decoded(where: dict[str, Any], name: str) -> bytes:
    if name not in where:
        raise ValueError(f"the kubeconfig has no {name}; it has {sorted(where)}")
    return base64.b64decode(where[name])
