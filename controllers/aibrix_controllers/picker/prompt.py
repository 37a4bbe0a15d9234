"""What a request's body asks for: model, prompt, bounds. Why it exists: all APIs say the same in different words - chat, text and
embeddings of OpenAI, its responses, Anthropic's messages - and one walk over their fields reads them all.

The canonical prompt is the text in the order in which chat templates render it: tools, system, then what was said; JSON's
white space, the order of its keys and the sampling parameters are not in it, so two requests that share a conversation share
its bytes. Pictures and sounds stand in it by their hash.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

import orjson
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from aibrix_controllers.picker.state import BLOCK_BYTES

MEDIA_BYTES = 2048  # what a picture or a sound counts as: 512 tokens, between the 256 and 1,500 of usual models
_DEPTH = 8  # of lists in parts in messages; deeper ones are taken as they are
_FIELDS = ("tools", "instructions", "system", "messages", "prompt", "input")
_MOST = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_MEDIA = frozenset(
    ("image_url", "image", "input_image", "input_audio", "audio_url", "video_url", "document", "file", "input_file")
)


class Malformed(ValueError):
    """Words for the client."""


class Prompt(NamedTuple):
    """`text`: canonical bytes; `size`: how many, media included; `most`: tokens of the answer at most, 0 where not said."""

    model: str
    text: bytes
    size: int
    most: int
    user: str
    salt: str
    """vLLM's `cache_salt`: prompts of different salts share no cache."""


def read(body: bytes) -> Prompt:
    """Malformed: not a JSON object, or no model in it."""
    data = _decoded(body)
    model = data.get("model")
    if not isinstance(model, str) or not model:
        raise Malformed("the request names no model")
    pieces: list[bytes] = []
    media = 0
    for name in _FIELDS:
        if (value := data.get(name)) is not None:
            media += _tools(value, pieces) if name == "tools" else _walk(value, pieces, _DEPTH)
    text = b"\0".join(pieces)
    user, salt = data.get("user"), data.get("cache_salt")
    return Prompt(
        model,
        text,
        len(text) + media * MEDIA_BYTES,
        _most(data),
        user if isinstance(user, str) else "",
        salt if isinstance(salt, str) else "",
    )


def blocks(text: bytes, salt: str) -> list[int]:
    """Chained 64-bit hashes of the whole blocks of a prompt; `salt`: whatever else must be equal, such as the adapter."""
    link = xxh3_64_intdigest(salt.encode())
    view, found = memoryview(text), []
    for start in range(0, len(text) - BLOCK_BYTES + 1, BLOCK_BYTES):
        link = xxh3_64_intdigest(view[start : start + BLOCK_BYTES], link)
        found.append(link)
    return found


def renamed(body: bytes, model: str) -> bytes:
    """The same request to another model."""
    return orjson.dumps(_decoded(body) | {"model": model})


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Malformed("the body is not a JSON object")
    return data


def _most(data: dict[str, Any]) -> int:
    most = next((count for name in _MOST if (count := _count(data.get(name)))), 0)
    return most * (_count(data.get("n")) or 1)


def _count(value: object) -> int:
    """0 of what is no sensible number: the engine will say so."""
    return value if type(value) is int and 0 < value <= 10_000_000 else 0


def _tools(value: object, pieces: list[bytes]) -> int:
    pieces.append(orjson.dumps(value))
    return 0


def _walk(value: Any, pieces: list[bytes], depth: int) -> int:
    """Appends the text of a string, token ids, a message, a part, or a list of them; how many media are among them."""
    if isinstance(value, str):
        pieces.append(value.encode())
        return 0
    if isinstance(value, dict) and depth:
        return _part(value, pieces, depth)
    if isinstance(value, list) and depth and value:
        if isinstance(value[0], int):
            pieces.append(_ids(value))
            return 0
        return sum([_walk(one, pieces, depth - 1) for one in value])
    pieces.append(orjson.dumps(value))
    return 0


def _part(value: dict[str, Any], pieces: list[bytes], depth: int) -> int:
    kind = value.get("type")
    if isinstance(text := value.get("text"), str):
        pieces.append(text.encode())
        return 0
    if isinstance(kind, str) and kind in _MEDIA:
        pieces.append(xxh3_64_digest(orjson.dumps(value)))
        return 1
    if "content" not in value:  # tool calls and results in their several shapes
        pieces.append(orjson.dumps(value))
        return 0
    role, content = value.get("role"), value["content"]
    if isinstance(role, str):
        pieces.append(role.encode())
    media = 0 if content is None else _walk(content, pieces, depth - 1)
    if calls := value.get("tool_calls"):
        pieces.append(orjson.dumps(calls))
    return media


def _ids(value: list[Any]) -> bytes:
    """Four bytes a token, which is what a token of text counts as."""
    try:
        return array("I", value).tobytes()
    except (TypeError, OverflowError):
        return orjson.dumps(value)
