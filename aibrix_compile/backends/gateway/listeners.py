"""Plan -> Envoy's listeners: the filters that a request passes, in order, and what is logged of it.

keys -> requests a minute -> size of the body -> gate -> picker -> usage -> router. A change here drains
connections, so nothing that names a service or a tenant's right stands here; see routes.py.
"""

from __future__ import annotations

from typing import Any

from aibrix_compile.backends.gateway.clusters import ADMIN, PICKER, TYPE, Config, Place
from aibrix_compile.backends.gateway.routes import GATE, PICK
from aibrix_compile.plan import EnvironmentPlan, GatewayPlan

KEYS_FILE = "api_keys.yaml"
HOLD_MARGIN = 5
"""Seconds that Envoy waits for the picker beyond the longest hold: the picker says no, not a timeout."""
_HTTP = "envoy.extensions.filters.http"
_NETWORK = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def listeners(
    environment: EnvironmentPlan, gateway: GatewayPlan, place: Place, routes: Config, secret: Config
) -> list[Config]:
    """The one for traffic and the one for operations. `routes` and `secret` say where the first finds its routes and its
    certificate."""
    return [_traffic(environment, gateway, place, routes, secret), _operations(place)]


def _traffic(
    environment: EnvironmentPlan, gateway: GatewayPlan, place: Place, routes: Config, secret: Config
) -> Config:
    longest = max((one.routing.idle_seconds for one in environment.services), default=0.0)
    held = longest_hold(environment)
    manager = {
        "@type": TYPE + _NETWORK,
        "stat_prefix": "gateway",
        "codec_type": "AUTO",
        "always_set_request_id_in_response": True,
        "use_remote_address": True,  # x-envoy-* of a client has no effect
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "server_header_transformation": "PASS_THROUGH",
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "headers_with_underscores_action": "REJECT_REQUEST",  # x_tenant and x-tenant are one to some servers
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 1000,
            "initial_stream_window_size": 1048576,
            "initial_connection_window_size": 16777216,
        },
        "stream_idle_timeout": f"{max(longest, held + HOLD_MARGIN):g}s",
        "request_headers_timeout": "10s",
        "request_timeout": "60s",
        "drain_timeout": "30s",
        "early_header_mutation_extensions": [_strip()],
        "access_log": _logs(gateway),
        "http_filters": _filters(environment, gateway, place),
        **routes,
        "local_reply_config": _replies(),
    }
    chain: Config = {"filters": [{"name": "http", "typed_config": manager}]}
    if gateway.tls_secret:
        chain["transport_socket"] = _tls(secret)
    return {
        "name": "gateway",
        "address": _address(place.listen, place.port),
        # a watermark, not a limit of bodies: large, it lets slow readers hold memory
        "per_connection_buffer_limit_bytes": 1048576,
        "filter_chains": [chain],
    }


def longest_hold(environment: EnvironmentPlan) -> float:
    """Seconds that the picker may keep a request."""
    return max((one.routing.hold_seconds for one in environment.services), default=0.0)


def _strip() -> Config:
    """What only the gateway may say is taken from clients before anything looks at it."""
    kind = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    mutations = [{"remove_on_match": {"key_matcher": {"prefix": "x-gateway-"}}}, {"remove": "x-tenant"}]
    mutations.append({"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}})
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {"@type": TYPE + kind, "mutations": mutations},
    }


def _filters(environment: EnvironmentPlan, gateway: GatewayPlan, place: Place) -> list[Config]:
    found = []
    if gateway.keys_secret:
        found.append(_keys(place))
        if any(tenant.requests_per_minute for tenant in gateway.tenants):
            found.append(_rates(gateway))
    found += [
        _filter(
            "envoy.filters.http.body_size_limit",
            f"{_HTTP}.body_size_limit.v3.BodySizeLimit",
            max_request_bytes=gateway.body_limit,
        ),
        _filter(
            GATE, f"{_HTTP}.lua.v3.Lua", default_source_code={"inline_string": "-- the table comes with the routes"}
        ),
    ]
    if gateway.picker:
        found.append(_picker(environment))
    found += [
        _filter(
            "aibrix.usage",
            f"{_HTTP}.ai_protocol_manager.v3.AiProtocolManager",
            response_handling={"token_usage": {"include_unconfigured_routes": True}},
        ),
        _filter("envoy.filters.http.router", f"{_HTTP}.router.v3.Router", suppress_envoy_headers=True),
    ]
    return found


def _keys(place: Place) -> Config:
    """The filter's whole configuration is a file beside the keys, so that keys stand in no ConfigMap and a new one needs
    no restart."""
    return {
        "name": "envoy.filters.http.api_key_auth",
        "config_discovery": {
            "type_urls": [f"{TYPE}{_HTTP}.api_key_auth.v3.ApiKeyAuth"],
            "config_source": _watched(f"{place.keys}/{KEYS_FILE}", place.keys),
        },
    }


def _rates(gateway: GatewayPlan) -> Config:
    """Requests a minute, by tenant and by replica of the gateway."""
    limited = [tenant for tenant in gateway.tenants if tenant.requests_per_minute]
    plenty = {"max_tokens": 1000000, "tokens_per_fill": 1000000, "fill_interval": "1s"}
    return _filter(
        "envoy.filters.http.local_ratelimit",
        f"{_HTTP}.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="tenant",
        token_bucket=plenty,
        always_consume_default_token_bucket=False,
        filter_enabled={"default_value": {"numerator": 100}},
        filter_enforced={"default_value": {"numerator": 100}},
        enable_retry_after_header=True,
        rate_limits=[
            {
                "actions": [{"request_headers": {"header_name": "x-tenant", "descriptor_key": "tenant"}}],
                "x_ratelimit_option": "DRAFT_VERSION_03",  # here: who has no limit is not told of the bucket of plenty
            }
        ],
        descriptors=[
            {
                "entries": [{"key": "tenant", "value": tenant.name}],
                "token_bucket": {
                    "max_tokens": tenant.requests_per_minute,
                    "tokens_per_fill": tenant.requests_per_minute,
                    "fill_interval": "60s",
                },
            }
            for tenant in limited
        ],
    )


def _picker(environment: EnvironmentPlan) -> Config:
    """Buffered, because the streamed mode never fails open; a header message before, because without it Envoy does not wait."""
    return _filter(
        PICK,
        f"{_HTTP}.ext_proc.v3.ExternalProcessor",
        stat_prefix="picker",
        grpc_service={"envoy_grpc": {"cluster_name": PICKER}, "timeout": "0s"},
        message_timeout="1s",
        max_message_timeout=f"{longest_hold(environment) + HOLD_MARGIN:g}s",
        failure_mode_allow=True,
        status_on_error={"code": 503},  # where a route says that it must not pass
        processing_mode={
            "request_header_mode": "SEND",
            "request_body_mode": "BUFFERED",
            "request_trailer_mode": "SKIP",
            "response_header_mode": "SKIP",  # the stream stays open until the answer ends: its close is the end
            "response_body_mode": "NONE",
            "response_trailer_mode": "SKIP",
        },
        request_attributes=["xds.cluster_name"],
        route_cache_action="RETAIN",
        mutation_rules={"disallow_all": False, "allow_all_routing": False, "disallow_is_error": False},
        metadata_options={
            "receiving_namespaces": {"untyped": ["envoy.lb", "gateway"]},  # else dropped, and nobody says so
            "forwarding_namespaces": {"untyped": ["envoy.lb.subset_hint"]},
        },
    )


# --- logs and Envoy's own answers


LOG = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace": "%REQ(TRACEPARENT)%",
    "tenant": "%REQ(X-TENANT)%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "route": "%ROUTE_NAME%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "endpoint": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "model": "%DYNAMIC_METADATA(gateway:model)%",
    "adapter": "%DYNAMIC_METADATA(gateway:adapter)%",
    "strategy": "%DYNAMIC_METADATA(gateway:strategy)%",
    "reason": "%DYNAMIC_METADATA(gateway:reason)%",
    "picked": "%DYNAMIC_METADATA(envoy.lb:x-gateway-destination-endpoint)%",
    "tokens_in": "%TYPED_CEL(metadata.typed_filter_metadata['envoy.ai.token_usage'].input_tokens)%",
    "tokens_out": "%TYPED_CEL(metadata.typed_filter_metadata['envoy.ai.token_usage'].output_tokens)%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "ms_total": "%DURATION%",
    "ms_first_byte": "%RESPONSE_DURATION%",
    "ms_pick": "%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:ms)%",
    "ms_stream": "%RESPONSE_TX_DURATION%",
}
"""`endpoint` answered, `picked` is what the picker wanted first: where they differ, it was retried or not a member.
`ms_first_byte` is no TTFT: an engine sends its headers before the first token."""


def _logs(gateway: GatewayPlan) -> list[Config]:
    found = [
        {
            "name": "envoy.access_loggers.stdout",
            "typed_config": {
                "@type": f"{TYPE}envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                "log_format": {"json_format": dict(LOG)},
            },
        }
    ]
    if gateway.picker:
        tags = [{"tag": "tenant", "request_header": {"name": "x-tenant"}}]  # the rest is in the entry's metadata
        found.append(
            {
                "name": "envoy.access_loggers.http_grpc",
                "typed_config": {
                    "@type": f"{TYPE}envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
                    "common_config": {
                        "log_name": "gateway",
                        "transport_api_version": "V3",
                        "grpc_service": {"envoy_grpc": {"cluster_name": PICKER}},
                        "buffer_flush_interval": "0.2s",
                        "buffer_size_bytes": 16384,
                        "custom_tags": tags,
                    },
                },
            }
        )
    return found


_KINDS = {  # status -> what OpenAI and Anthropic call it
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    413: ("request_too_large", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_error"),
    503: ("unavailable", "overloaded_error"),
    504: ("timeout", "timeout_error"),
}
_OURS = "!(response.code_details.startsWith('picker_') || response.code_details in ['direct_response', 'lua_response'])"
_UNPICKED = "response.code_details.startsWith('ext_proc')"


def _replies() -> Config:
    """Envoy's own errors as the objects that clients know; those of the picker, the gate and the engines stay as they are."""
    mappers = []
    for anthropic in (True, False):
        lost = "no picker answers, and this request can not be served without one"
        mappers.append(_reply(anthropic, "EQ", 503, _KINDS[503][anthropic], lost, _UNPICKED))
        for status, kinds in _KINDS.items():
            mappers.append(_reply(anthropic, "EQ", status, kinds[anthropic], "%LOCAL_REPLY_BODY%", _OURS))
        kind = "api_error" if anthropic else "gateway_error"
        mappers.append(_reply(anthropic, "GE", 400, kind, "%LOCAL_REPLY_BODY%", _OURS))
    return {"mappers": mappers}


def _reply(anthropic: bool, comparison: str, status: int, kind: str, message: str, condition: str) -> Config:
    expression = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    where = "request.path.startsWith('/v1/messages') && " if anthropic else ""
    matching = {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {"@type": TYPE + expression, "expression": f"{where}{condition}"},
        }
    }
    compared = {"comparison": {"op": comparison, "value": {"default_value": status, "runtime_key": "none"}}}
    error = {"message": message, "type": kind, **({} if anthropic else {"code": "%RESPONSE_CODE%"})}
    body = {**({"type": "error"} if anthropic else {}), "error": error}
    mapper: Config = {
        "filter": {"and_filter": {"filters": [{"status_code_filter": compared}, matching]}},
        "body_format_override": {"content_type": "application/json", "json_format": body},
    }
    if status == 503:
        mapper["headers_to_add"] = [{"header": {"key": "retry-after", "value": "1"}, "append_action": "ADD_IF_ABSENT"}]
    return mapper


# --- operations and certificates


def _operations(place: Place) -> Config:
    """/ready and /metrics, and nothing else of Envoy's admin interface, which listens on loopback alone."""
    manager: Config = {
        "@type": TYPE + _NETWORK,
        "stat_prefix": "ops",
        "http_filters": [
            _filter(
                "envoy.filters.http.health_check",
                f"{_HTTP}.health_check.v3.HealthCheck",
                pass_through_mode=False,
                headers=[{"name": ":path", "string_match": {"exact": "/ready"}}],
            ),
            _filter("envoy.filters.http.router", f"{_HTTP}.router.v3.Router"),
        ],
        "route_config": {
            "name": "ops",
            "virtual_hosts": [
                {
                    "name": "ops",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {
                                "path": "/metrics",
                                "headers": [{"name": ":method", "string_match": {"exact": "GET"}}],
                            },
                            "route": {"cluster": ADMIN, "prefix_rewrite": "/stats/prometheus?usedonly"},
                        },
                        {"match": {"prefix": "/"}, "direct_response": {"status": 404}},
                    ],
                }
            ],
        },
    }
    return {
        "name": "ops",
        "address": _address(place.listen, place.ops_port),
        "ignore_global_conn_limit": True,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


CERTIFICATE = "certificate"


def _tls(secret: Config) -> Config:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPE}envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [{"name": CERTIFICATE, **secret}],
            },
        },
    }


def certificate(place: Place) -> Config:
    """Where certificate and key are. Only what comes by a file of its own is read again when the Secret changes."""
    return {
        "name": CERTIFICATE,
        "tls_certificate": {
            "certificate_chain": {"filename": f"{place.tls}/tls.crt"},
            "private_key": {"filename": f"{place.tls}/tls.key"},
            "watched_directory": {"path": place.tls},
        },
    }


def _watched(path: str, folder: str) -> Config:
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": path, "watched_directory": {"path": folder}},
    }


def _filter(name: str, kind: str, **settings: Any) -> Config:
    return {"name": name, "typed_config": {"@type": TYPE + kind, **settings}}


def _address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host, "port_value": port}}
