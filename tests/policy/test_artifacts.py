"""Addresses of artifacts: what is read is what is opened."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.policy.artifacts import SCHEMES, Refused, Uri, parse, root, within


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("s3://bucket/a/b", Uri("s3", "bucket", "a/b")),
        ("s3://bucket/a/b/", Uri("s3", "bucket", "a/b")),
        ("gs://bucket", Uri("gs", "bucket", "")),
        ("https://Example.com:8443/x", Uri("https", "example.com:8443", "x")),
        ("hf://org/repo", Uri("hf", "org", "repo")),
        ("hf://org/repo@main/sub", Uri("hf", "org", "repo/sub", "main")),
        ("file:///data/x", Uri("file", "", "data/x")),
        ("pvc://claim/x", Uri("pvc", "claim", "x")),
    ],
)
def test_good_addresses(text: str, uri: Uri) -> None:
    assert parse(text) == uri
    assert parse(str(uri)) == uri


@pytest.mark.parametrize(
    "text",
    [
        *("", None, 7, "bucket/x", "http://host/x", "ftp://host/x", "s3:///x", "s3://", "s3://b/" + "x" * 3000),
        *("s3://b/../x", "s3://b/./x", "s3://b/x/..", "s3://b//x", "s3://b/%2e%2e/x", "s3://b/x?y", "s3://b/x#y"),
        *("s3://b/x\\..\\y", "s3://b/x\n", "s3://b/\x00", "s3://user:key@b/x", "s3://b\u0430d/x", "file://host/x"),
        *("file:///../etc", "file:///etc/../x", "hf://org", "hf://org/@main", "hf://org/re po%/x", "pvc://../x"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: object) -> None:
    with pytest.raises(Refused) as caught:
        parse(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "prefix", "good"),
    [
        ("s3://b/team/x", "s3://b/team/", True),
        ("s3://b/team", "s3://b/team/", True),
        ("s3://b/teammate/x", "s3://b/team/", False),
        ("s3://b2/team/x", "s3://b/", False),
        ("https://host.evil/x", "https://host/", False),
        ("hf://org/repo@rev/x", "hf://org/repo/", True),
        ("file:///data/x", "file:///data/", True),
    ],
)
def test_an_allowed_place_is_a_folder_and_not_a_beginning(text: str, prefix: str, good: bool) -> None:
    assert within(parse(text), (prefix,)) is good


def test_nothing_is_allowed_by_no_prefix() -> None:
    assert not within(parse("s3://b/x"), ())


PARTS = st.text("ab./\\%@:?# -\n\0..", max_size=12)


@given(st.builds("{}://{}/{}".format, st.sampled_from(SCHEMES), PARTS, PARTS) | st.text(max_size=30))
def test_whatever_is_read_stays_below_its_root_and_is_itself_again(text: str) -> None:
    try:
        uri = parse(text)
    except Refused:
        return
    assert within(uri, (root(uri),)) or uri.scheme == "file"
    assert ".." not in uri.path.split("/") and "" not in uri.path.split("/")[1:]
    assert parse(str(uri)) == uri
