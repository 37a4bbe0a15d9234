"""Names to models, calls to requests. Why it exists: what the server serves - base model and adapters - and how long an
answer is are decided here, between the HTTP bodies of `openai` and the scheduler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from aibrix_mock.adapters import READ_SECONDS, Adapter, HostCache, Missing, Unusable, read
from aibrix_mock.core import EngineCore, Request
from aibrix_mock.engine import Dead, Engine, Ticket
from aibrix_mock.openai import ApiError, Call, refused
from aibrix_mock.options import Options, Settings
from aibrix_mock.tokens import TOKEN_BYTES, Answer

VERSION = "0.32.0"
"""Of the vLLM that is imitated."""
_QUEUE_FULL = (
    "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
)
_TOKENS_FULL = (
    "The engine has reached its prefill token backlog limit. Please try again later or on a different instance."
)


class Reply:
    """A submitted call: its ticket, and where its text ends."""

    __slots__ = ("cut", "model", "stop", "ticket")

    def __init__(self, ticket: Ticket, model: str, cut: int | None, stop: str | None) -> None:
        """`cut`: characters of text before the stop string `stop`; None: all that is generated."""
        self.ticket, self.model, self.cut, self.stop = ticket, model, cut, stop

    def text(self, start: int, end: int) -> str:
        """Of tokens `start` to `end`."""
        text = self.ticket.request.answer.text(start, end)
        return text if self.cut is None else text[: max(0, self.cut - start * TOKEN_BYTES)]


class Models:
    def __init__(self, options: Options, settings: Settings) -> None:
        self.options, self.settings = options, settings
        self.host = HostCache(options.limits.max_cpu_loras, self._again)
        self.adapters: dict[str, Adapter] = {}
        self.created: dict[str, int] = dict.fromkeys(options.names, int(time.time()))
        self._loading = asyncio.Lock()

    def _again(self, adapter: Adapter) -> Adapter:
        return read(adapter.name, adapter.path, self.options.max_lora_rank)

    def core(self) -> EngineCore:
        return EngineCore(self.settings.profile, self.options.limits, self.host)

    def listing(self) -> dict[str, Any]:
        longest = self.options.limits.max_model_len
        cards = [self._card(name, self.options.model, None, longest) for name in self.options.names]
        cards += [self._card(a.name, a.path, self.options.names[0], None) for a in self.adapters.values()]
        return {"object": "list", "data": cards}

    def _card(self, name: str, root: str, parent: str | None, longest: int | None) -> dict[str, Any]:
        created = self.created[name]
        permission = {
            "id": f"modelperm-{name}",
            "object": "model_permission",
            "created": created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": longest,
            "permission": [permission],
        }

    async def load(self, body: Mapping[str, Any]) -> str:
        """The text of a 200; ApiError with vLLM's status otherwise."""
        name, path, inplace = body.get("lora_name"), body.get("lora_path"), body.get("load_inplace", False)
        if not name or not path:
            raise ApiError("Both 'lora_name' and 'lora_path' must be provided.", 400, "InvalidUserInput")
        if not (isinstance(name, str) and isinstance(path, str) and name.isprintable()):
            raise refused(400, "1 validation error:\n  Input should be a valid string")
        async with self._loading:
            if name in self.options.names:
                message = f"The lora adapter '{name}' conflicts with a served base model."
                raise ApiError(message, 400, "InvalidUserInput")
            if name in self.adapters and not inplace:
                message = (
                    f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
                    "'load_inplace' to True."
                )
                raise ApiError(message, 400, "InvalidUserInput")
            if not self.options.lora:
                raise ApiError("LoRA is not enabled. Use --enable-lora to enable LoRA.", 500, "InternalServerError")
            await asyncio.sleep(READ_SECONDS / self.settings.speed)
            try:
                adapter = read(name, path, self.options.max_lora_rank)
            except Missing as error:
                raise ApiError(str(error), 404, "NotFoundError") from None
            except Unusable as error:
                raise ApiError(str(error), 500, "InternalServerError") from None
            self.host.put(adapter)
            self.adapters[name] = adapter
            self.created[name] = int(time.time())
        return f"Success: LoRA adapter '{name}' added successfully."

    async def unload(self, body: Mapping[str, Any]) -> str:
        """The engine keeps it until its place is needed, as vLLM does; it is only no longer served."""
        name = body.get("lora_name")
        if not name or not isinstance(name, str):
            raise ApiError("'lora_name' needs to be provided to unload a LoRA adapter.", 400, "InvalidUserInput")
        async with self._loading:
            if name not in self.adapters:
                raise ApiError(f"The lora adapter '{name}' cannot be found.", 404, "NotFoundError")
            del self.adapters[name]
        return f"Success: LoRA adapter '{name}' removed successfully."

    def find(self, name: str) -> Adapter | None:
        """The adapter of that name, None for the base model; ApiError 404."""
        if not name or name in self.options.names:
            return None
        if name in self.adapters:
            return self.adapters[name]
        aliases = ", ".join(self.options.names)
        message = f"The model `{name}` does not exist. Valid aliases: {aliases}."
        raise ApiError(message, 404, "NotFoundError", "model")

    def submit(self, engine: Engine, call: Call, ident: str) -> Reply:
        """ApiError 404 and 503; Dead."""
        adapter = self.find(call.model)
        if engine.dead:
            raise Dead
        self._admit(engine.core)
        answer = Answer(self.options.seed, call.prompt, adapter.name if adapter and not adapter.inert else "")
        limit, ending = self._length(call, answer)
        cut, stop = None, None
        if call.stop and (found := answer.find(call.stop, limit, call.min_tokens)):
            cut, stop = found
            limit, ending = -(-(cut + len(stop)) // TOKEN_BYTES), "stop"
        request = Request(ident, call.prompt, answer, limit, ending, adapter, call.max_tokens or 0)
        model = adapter.name if adapter else self.options.names[0]
        return Reply(engine.submit(request), model, cut, stop)

    def _admit(self, core: EngineCore) -> None:
        most, tokens = self.options.max_queued, self.options.max_queued_tokens
        if most is not None and core.unfinished + 1 > most:
            core.stats.rejected["max_num_queued_reqs"] += 1
            raise refused(503, _QUEUE_FULL)
        if tokens is not None and core.queued_tokens() >= tokens:
            core.stats.rejected["max_num_queued_tokens"] += 1
            raise refused(503, _TOKENS_FULL)

    def _length(self, call: Call, answer: Answer) -> tuple[int, str]:
        """Tokens and why they end: with max_tokens exactly as many, else a length that belongs to the prompt."""
        if call.max_tokens is not None:
            return call.max_tokens, "length"
        room = self.options.limits.max_model_len - len(call.prompt) // TOKEN_BYTES
        if call.ignore_eos:
            return room, "length"
        low, high = self.settings.answer_tokens
        drawn = max(call.min_tokens, round(low * (high / low) ** answer.fraction()))
        return (drawn, "stop") if drawn <= room else (room, "length")
