"""The server: routes, streams, disconnects. Why it exists: what a proxy sees of vLLM is decided here and in uvicorn -
when headers go out, what a closed connection does, which path answers what."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aibrix_mock import metrics, openai
from aibrix_mock.engine import Dead, Engine
from aibrix_mock.faults import Faults
from aibrix_mock.openai import ApiError, Call, Shape
from aibrix_mock.options import Options
from aibrix_mock.serving import VERSION, Models, Reply
from aibrix_mock.tokens import to_ids

LOG = logging.getLogger("aibrix_mock")
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


class Server:
    """Everything that the routes share."""

    def __init__(self, options: Options, models: Models, engine: Engine, died: Callable[[], None]) -> None:
        """`died` is called when a request met a dead engine: vLLM's server then leaves."""
        self.options, self.models, self.engine, self.died = options, models, engine, died
        self.faults = Faults(engine) if models.settings.faults else None
        collector = metrics.EngineMetrics(engine.core, options.names[0], options.cache_labels, options.lora)
        self._page = metrics.Page(collector)
        self._fingerprint = f"vllm-{VERSION}-mock"

    def app(self) -> ASGIApp:
        routes = [
            Route("/v1/completions", Generation(self, openai.COMPLETION), methods=["POST"]),
            Route("/v1/chat/completions", Generation(self, openai.CHAT), methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/health", self._health),
            Route("/ping", self._health, methods=["GET", "POST"]),
            Route("/version", self._version),
            Route("/load", self._load),
            Route("/metrics", self._metrics),
        ]
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "").lower() in ("1", "true"):
            routes.append(Route("/v1/load_lora_adapter", self._adapter(self.models.load), methods=["POST"]))
            routes.append(Route("/v1/unload_lora_adapter", self._adapter(self.models.unload), methods=["POST"]))
        if self.faults:
            routes.append(Route("/mock/fault", self._fault, methods=["POST"]))
        handlers: Mapping[Any, Any] = {ApiError: _api_error, HTTPException: _http_error, Dead: self._dead}
        app: ASGIApp = Starlette(routes=routes, exception_handlers=handlers)
        return _with_request_ids(app) if self.options.request_id_headers else app

    async def _models(self, request: Request) -> Response:
        return JSONResponse(self.models.listing())

    async def _health(self, request: Request) -> Response:
        """503 with a dead engine, as the source of 0.32 has it."""
        return Response(status_code=503 if self.engine.dead else 200)

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def _load(self, request: Request) -> Response:
        return JSONResponse({"server_load": self.engine.core.unfinished})

    async def _metrics(self, request: Request) -> Response:
        if self.faults and self.faults.kind == "metrics_gone":
            raise HTTPException(404)
        return Response(self._page.text(), headers={"content-type": metrics.TYPE})

    async def _tokenize(self, request: Request) -> Response:
        data = await _body(request)
        self.models.find(openai.model(data))
        kind = openai.CHAT if "messages" in data else openai.COMPLETION
        prompt = openai.prompt(kind, data)
        tokens, longest = to_ids(prompt), self.options.limits.max_model_len
        return JSONResponse({"count": len(tokens), "max_model_len": longest, "tokens": tokens, "token_strs": None})

    def _adapter(
        self, handle: Callable[[Mapping[str, Any]], Awaitable[str]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            text = await handle(await _body(request))
            LOG.info("%s", text)
            return Response(text)

        return answer

    async def _fault(self, request: Request) -> Response:
        assert self.faults is not None
        self.faults.set(await _body(request))
        return JSONResponse({"kind": self.faults.kind})

    async def _dead(self, request: Request, error: Exception) -> Response:
        self.died()
        return JSONResponse(ApiError(str(error), 500, "InternalServerError").body, 500)

    def shape(self, call: Call, reply: Reply, ident: str) -> Shape:
        return Shape(call.kind, ident, reply.model, int(time.time()), self._fingerprint)


class Generation:
    """An endpoint that answers with text. Plain ASGI: at thousands of chunks a second a response object for each stream
    and a task group around it would cost more than the scheduler."""

    def __init__(self, server: Server, kind: str) -> None:
        self._server, self._kind = server, kind
        self._prefix = "chatcmpl" if kind == openai.CHAT else "cmpl"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server, request = self._server, Request(scope, receive)
        data = await _body(request)
        if server.faults:
            server.faults.refuse()
        if isinstance(model := data.get("model"), str):
            server.models.find(model)  # a name that is not served is told before a prompt that is too long
        call = openai.call(self._kind, data, server.options.limits.max_model_len)
        ident = f"{self._prefix}-{request.headers.get('x-request-id') or uuid.uuid4().hex}"
        reply = server.models.submit(server.engine, call, ident)
        watcher = asyncio.create_task(_watch(receive, reply))
        try:
            if call.stream:
                await self._stream(send, call, reply, server.shape(call, reply, ident))
            else:
                await self._whole(send, call, reply, server.shape(call, reply, ident))
        except Dead as error:
            server.died()
            if not call.stream:
                raise
            failed = ApiError(str(error), 500, "InternalServerError")
            await send({"type": "http.response.body", "body": openai.failure(failed)})
        finally:
            watcher.cancel()
            reply.ticket.cancel()

    def _usage(self, reply: Reply, generated: int, details: bool) -> dict[str, Any]:
        request = reply.ticket.request
        return openai.usage(request.prompt_tokens, generated, request.cached if details else None)

    async def _whole(self, send: Send, call: Call, reply: Reply, shape: Shape) -> None:
        request = reply.ticket.request
        await reply.ticket.reach(request.limit)
        count = request.generated
        stop = reply.stop if request.finished == "stop" else None
        used = self._usage(reply, count, self._server.options.token_details)
        body = shape.whole(reply.text(0, count), request.finished, stop, used)
        headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, send: Send, call: Call, reply: Reply, shape: Shape) -> None:
        """Headers before anything is computed; then a chunk for what there is each time there is something."""
        options, ticket, request = self._server.options, reply.ticket, reply.ticket.request
        usage, continuous = call.usage or options.force_usage, call.continuous_usage or options.force_usage
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        sent, wanted = 0, 1
        while True:
            await ticket.reach(wanted)
            count, ending = request.generated, request.finished or None
            body = b""
            if sent == 0:
                body = shape.opening(self._usage(reply, 0, False) if continuous else None)
            stop = reply.stop if ending == "stop" else None
            so_far = self._usage(reply, count, False) if continuous else None
            body += shape.chunk(reply.text(sent, count), ending, stop, so_far, not usage)
            if ending:
                body += shape.closing(self._usage(reply, count, options.token_details) if usage else None)
                await send({"type": "http.response.body", "body": body})
                return
            await send({"type": "http.response.body", "body": body, "more_body": True})
            sent, wanted = count, count + options.stream_interval


async def _watch(receive: Receive, reply: Reply) -> None:
    """A client that leaves ends its request, wherever it is."""
    while (await receive())["type"] != "http.disconnect":
        pass
    reply.ticket.cancel()


async def _body(request: Request) -> dict[str, Any]:
    return openai.decode(await request.body(), request.headers.get("content-type", ""))


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(openai.refused(error.status_code, error.detail).body, error.status_code, error.headers)


def _with_request_ids(app: ASGIApp) -> ASGIApp:
    """--enable-request-id-headers: the client's X-Request-Id or a new one, on every answer."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers") or ()).get(b"x-request-id") or uuid.uuid4().hex.encode()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", given)]
            await send(message)

        await app(scope, receive, named)

    return wrapped
