"""Bodies of the OpenAI API: what is accepted, and what is answered, in vLLM 0.32's words and shapes.

Why it exists: routers and gateways parse these; the scheduler must not. Only fields that change the mock's answer are
read, all others are ignored as vLLM ignores unknown ones.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aibrix_mock.tokens import TOKEN_BYTES, encode, from_ids, render

CHAT, COMPLETION = "chat", "completion"
_dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_COMPLETION_DEFAULT = 16  # tokens of /v1/completions without max_tokens, as the OpenAI API says


class ApiError(Exception):
    """An answer with a status of 400 or more."""

    def __init__(
        self, message: str, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        message = message.encode("utf-8", "replace").decode()  # it may quote half a surrogate pair of the client's
        self.message, self.status, self.kind, self.param = message, status, kind, param

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}


def refused(status: int, message: str) -> ApiError:
    """An error whose type is the status's name."""
    return ApiError(message, status, HTTPStatus(status).phrase)


def invalid(message: str, param: str) -> ApiError:
    """A body that is not of the right form."""
    return ApiError(f"1 validation error:\n  {message}", 400, "Bad Request", param)


@dataclass(frozen=True, slots=True)
class Call:
    """One request for an answer."""

    kind: str
    model: str
    """"" for the base model."""
    prompt: bytes
    """Tokens, four bytes each."""
    max_tokens: int | None
    min_tokens: int
    ignore_eos: bool
    stop: tuple[str, ...]
    stream: bool
    usage: bool
    """A last chunk with the usage."""
    continuous_usage: bool
    """The usage so far in every chunk."""


def decode(body: bytes, content_type: str) -> dict[str, Any]:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise invalid("Unsupported Media Type: Only 'application/json' is allowed", "body")
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        place = getattr(error, "pos", 0)
        raise invalid(
            f"{{'type': 'json_invalid', 'loc': 'body.{place}', 'msg': 'JSON decode error'}}", f"body.{place}"
        ) from None
    if not isinstance(data, dict):
        raise invalid(
            "{'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid dictionary'}", "body"
        )
    return data


def prompt(kind: str, data: Mapping[str, Any]) -> bytes:
    """The tokens of a body's prompt or messages; ApiError."""
    return _chat(data) if kind == CHAT else _prompt(data)


def model(data: Mapping[str, Any]) -> str:
    """The name that is asked for, "" for the base model; ApiError."""
    name: str = _read(data, "model", str, "")
    return name


def call(kind: str, data: Mapping[str, Any], max_model_len: int) -> Call:
    """ApiError for what vLLM refuses, and for what the mock does not do: n above 1, several prompts."""
    tokens_of = prompt(kind, data)
    stream = _read(data, "stream", bool, False)
    options = _read(data, "stream_options", dict, {})
    if options and not stream:
        raise ApiError("Stream options can only be defined when `stream=True`.", param="stream_options")
    if (n := _read(data, "n", int, 1)) != 1:
        raise ApiError(f"n must be 1: the mock engine gives one answer, got {n}.", param="n")
    _in_range(data)
    field = "max_completion_tokens" if kind == CHAT and data.get("max_completion_tokens") is not None else "max_tokens"
    asked = _read(data, field, int, None if kind == CHAT else _COMPLETION_DEFAULT)
    tokens = len(tokens_of) // TOKEN_BYTES
    if asked is not None and asked > max_model_len:
        raise ApiError(
            f"{field}={asked} cannot be greater than max_model_len={max_model_len}. Please request fewer output tokens.",
            param=field,
        )
    if tokens > max_model_len:
        raise ApiError(
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains {tokens} input "
            "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.",
            param="input_tokens",
        )
    room = max_model_len - tokens
    granted = room if asked is None else min(asked, room)  # vLLM shortens the answer, it does not refuse it
    if granted < 1:
        raise ApiError(f"max_tokens must be at least 1, got {granted}.", param="max_tokens")
    least = _read(data, "min_tokens", int, 0)
    if least < 0:
        raise ApiError(f"min_tokens must be greater than or equal to 0, got {least}.")
    if least > granted:
        raise ApiError(f"min_tokens must be less than or equal to max_tokens={granted}, got {least}.")
    stop = data.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise invalid(
            "{'type': 'string_type', 'loc': 'body.stop', 'msg': 'Input should be a valid string'}", "body.stop"
        )
    if "" in stop:
        raise ApiError("stop cannot contain an empty string.")
    usage = bool(options.get("include_usage"))
    return Call(
        kind=kind,
        model=model(data),
        prompt=tokens_of,
        max_tokens=None if asked is None else granted,
        min_tokens=least,
        ignore_eos=_read(data, "ignore_eos", bool, False),
        stop=tuple(stop),
        stream=stream,
        usage=usage,
        continuous_usage=usage and bool(options.get("continuous_usage_stats")),
    )


_NAMES = {bool: "boolean", int: "integer", str: "string", dict: "dictionary", list: "list"}


def _read(data: Mapping[str, Any], field: str, kind: type, default: Any) -> Any:
    value = data.get(field)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        name = _NAMES[kind]
        message = f"{{'type': '{name}_type', 'loc': 'body.{field}', 'msg': 'Input should be a valid {name}'}}"
        raise invalid(message, f"body.{field}")
    return value


def _in_range(data: Mapping[str, Any]) -> None:
    for field, low, high, words in (
        ("temperature", 0, 2, "must be in [0, 2]"),
        ("top_p", 1e-9, 1, "must be in (0, 1]"),
        ("presence_penalty", -2, 2, "must be in [-2, 2]"),
        ("frequency_penalty", -2, 2, "must be in [-2, 2]"),
    ):
        value = data.get(field)
        if value is not None and not (isinstance(value, (int, float)) and low <= value <= high):
            raise ApiError(f"{field} {words}, got {value}.", param=field)


def _missing(field: str) -> ApiError:
    return invalid(f"{{'type': 'missing', 'loc': 'body.{field}', 'msg': 'Field required'}}", f"body.{field}")


def _prompt(data: Mapping[str, Any]) -> bytes:
    given = data.get("prompt")
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], (str, list)):
        given = given[0]
    if given is None:
        raise ApiError("Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")
    if isinstance(given, str):
        tokens = encode(given)
    elif isinstance(given, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in given):
        try:
            tokens = from_ids(given)
        except struct.error:
            raise ApiError("Token ids must be whole numbers of 32 bits.", param="prompt") from None
    elif isinstance(given, list):
        raise ApiError("The mock engine answers one prompt a request.", param="prompt")
    else:
        raise invalid(
            "{'type': 'string_type', 'loc': 'body.prompt', 'msg': 'Input should be a valid string'}", "body.prompt"
        )
    return tokens or encode("\n")  # a real tokenizer begins every prompt with a token of its own


def _chat(data: Mapping[str, Any]) -> bytes:
    messages = data.get("messages")
    if messages is None:
        raise _missing("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid(
            "{'type': 'list_type', 'loc': 'body.messages', 'msg': 'Input should be a valid list'}", "body.messages"
        )
    turns = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _missing(f"messages.{index}.role")
        turns.append((message["role"], _content(message.get("content"), index)))
    return render(turns)


def _content(content: Any, index: int) -> str:
    """A text, or the texts of its parts; a part that is no text counts as its JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise invalid(
            f"{{'type': 'string_type', 'loc': 'body.messages.{index}.content', 'msg': 'Input should be a valid string'}}",
            f"body.messages.{index}.content",
        )
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "\n".join(
        text if isinstance(text, str) else json.dumps(part) for text, part in zip(parts, content, strict=True)
    )


def usage(prompt: int, generated: int, cached: int | None) -> dict[str, Any]:
    """`cached`: None where prompt details are not asked for."""
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    return {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated, **details}


class Shape:
    """The JSON of one answer; what does not change from chunk to chunk is encoded once."""

    __slots__ = ("_chat", "_head", "_id", "_model", "created", "fingerprint")

    def __init__(self, kind: str, ident: str, model: str, created: int, fingerprint: str) -> None:
        self._chat = kind == CHAT
        self._id, self._model, self.created, self.fingerprint = ident, model, created, fingerprint
        made = "chat.completion.chunk" if self._chat else "text_completion"
        head = {"id": ident, "object": made, "created": created, "model": model}
        self._head = "data: " + _dump(head)[:-1]

    def opening(self, usage: Mapping[str, Any] | None) -> bytes:
        """A chat's first chunk, which names the role; nothing for completions."""
        if not self._chat:
            return b""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        rest = {"choices": [choice], "prompt_token_ids": None, **({"usage": usage} if usage else {})}
        return self._event(_dump(rest)[1:])

    def chunk(
        self, text: str, ending: str | None, stop: str | None, usage: Mapping[str, Any] | None, last: bool
    ) -> bytes:
        """`last`: no usage chunk follows, so the fingerprint is here."""
        quoted = _dump(text)
        reason = f'"{ending}"' if ending else "null"
        stopped = f',"stop_reason":{_dump(stop)}' if ending or not self._chat else ""
        content = f'"delta":{{"content":{quoted}}}' if self._chat else f'"text":{quoted}'
        tail = "" if usage is None else f',"usage":{_dump(usage)}'
        if last and ending:
            tail += f',"system_fingerprint":"{self.fingerprint}"'
        choice = f'{{"index":0,{content},"logprobs":null,"finish_reason":{reason}{stopped},"token_ids":null}}'
        return self._event(f'"choices":[{choice}]{tail}}}')

    def closing(self, usage: Mapping[str, Any] | None) -> bytes:
        """The usage, if it was asked for, and the end."""
        if usage is None:
            return b"data: [DONE]\n\n"
        rest = {"choices": [], "usage": usage, "system_fingerprint": self.fingerprint}
        return self._event(_dump(rest)[1:]) + b"data: [DONE]\n\n"

    def _event(self, rest: str) -> bytes:
        return f"{self._head},{rest}\n\n".encode()

    def whole(self, text: str, ending: str, stop: str | None, usage: Mapping[str, Any]) -> bytes:
        choice: dict[str, Any] = {
            "index": 0,
            "logprobs": None,
            "finish_reason": ending,
            "stop_reason": stop,
            "token_ids": None,
        }
        if self._chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None, "reasoning": None}
        else:
            choice |= {"text": text, "prompt_logprobs": None, "prompt_token_ids": None}
        answer = {
            "id": self._id,
            "object": "chat.completion" if self._chat else "text_completion",
            "created": self.created,
            "model": self._model,
            "choices": [choice],
            "service_tier": None,
            "system_fingerprint": self.fingerprint,
            "usage": usage,
            "kv_transfer_params": None,
        }
        return _dump(answer).encode()


def failure(error: ApiError) -> bytes:
    """An error in the middle of a stream, whose status has been sent long ago."""
    return f"data: {_dump(error.body)}\n\n".encode() + b"data: [DONE]\n\n"
