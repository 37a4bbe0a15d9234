"""What the picker knows, and how it changes when replicas, engines, configs and other pickers do."""

from __future__ import annotations

from dataclasses import replace

from scenes import CHAT, POOL, SECOND, Scene, config

from aibrix_controllers.picker.state import BLOCK_BYTES, Ended, Learnt, Sent, Spent

A, B = "10.0.0.1:8000", "10.0.0.2:8000"
BLOCKS = [11, 12, 13, 14]


def endpoint(scene: Scene, address: str = A):  # type: ignore[no-untyped-def]
    return scene.state.fleets["chat"].replicas[address].endpoint


def test_a_restarted_engine_has_no_cache_and_nothing_in_flight() -> None:
    scene = Scene(config(replace(CHAT, strategy="cost")))
    scene.add(A)
    talk = scene.stream()
    talk.headers()
    talk.body(b'{"model": "llama", "prompt": "%b"}' % (b"x" * 9 * BLOCK_BYTES))
    fleet = scene.state.fleets["chat"]
    assert fleet.index.held(0) == 9
    scene.add(A, incarnation="2")
    assert fleet.index.held(0) == 0 and endpoint(scene).in_flight == 0
    talk.stream.closed()
    assert endpoint(scene).in_flight == 0, "its end is not the new engine's"


def test_a_config_that_changes_something_else_keeps_counts_and_caches() -> None:
    scene = Scene()
    scene.add(A)
    talk = scene.ask()
    scene.picker.adopt(config(replace(CHAT, priority=("a", "b"))))
    assert endpoint(scene).in_flight == 1
    scene.picker.adopt(config(replace(CHAT, pools={"h100": replace(POOL, slots=9)})))
    assert endpoint(scene).slots == 9
    talk.stream.closed()
    assert endpoint(scene).in_flight == 0


def test_what_the_engine_says_of_its_cache_bounds_the_index() -> None:
    scene = Scene()
    scene.add(A)
    scene.report(A, kv_tokens=1024)
    fleet = scene.state.fleets["chat"]
    fleet.index.remember(0, list(range(100)))
    assert fleet.index.held(0) == 4, "a kilobyte is 256 tokens"
    assert endpoint(scene).kv_used == 102
    scene.report(A, kv_tokens=1024)
    assert fleet.index.held(0) == 4


def test_a_replica_that_is_gone_is_forgotten() -> None:
    scene = Scene()
    scene.add(A)
    index = scene.state.fleets["chat"].index
    index.remember(0, BLOCKS)
    scene.state.gone("chat", A)
    assert index.match(BLOCKS, (0,)) == [0]


def test_numbers_of_replicas_are_used_again() -> None:
    scene = Scene()
    scene.add(A, B)
    scene.state.gone("chat", A)
    scene.add("10.0.0.3:8000")
    assert [one.number for one in scene.state.fleets["chat"].replicas.values()] == [1, 0]


def test_unknown_services_and_addresses_are_ignored() -> None:
    scene = Scene()
    state, now = scene.state, scene.now
    scene.add(A, service="other")
    state.gone("other", A)
    state.gone("chat", A)
    state.failed("chat", A, hung=True, now=now)
    state.serves("chat", A, frozenset(), now)
    state.visible("other", frozenset(), now)
    state.peer_sent("p", "chat", A, 1, "", BLOCKS, now)
    state.peer_ended("p", "chat", A, 1, "")
    state.forget_peer("p")
    assert state.describe(now)["chat"]["replicas"] == {}


def test_what_peers_send_counts_as_ours_until_it_ends_or_they_go() -> None:
    scene = Scene()
    scene.add(A, B)
    state, now = scene.state, scene.now
    state.peer_sent("p", "chat", A, 1000, "red", BLOCKS, now)
    state.peer_sent("p", "chat", A, 1000, "red", (), now)
    state.peer_sent("q", "chat", A, 500, "", (), now)
    assert (endpoint(scene).in_flight, endpoint(scene).adapters) == (3, {"red": 2})
    assert scene.ask().endpoints[0] == B
    assert state.fleets["chat"].index.match(BLOCKS, (0, 1)) == [4, 0]
    state.peer_ended("p", "chat", A, 1000, "red")
    assert endpoint(scene).in_flight == 2
    state.peer_ended("p", "chat", A, 1000, "red")
    state.peer_ended("p", "chat", A, 1000, "red")  # once too often
    assert endpoint(scene).in_flight == 1 and state.peers["p"] == {}
    state.forget_peer("q")
    state.forget_peer("p")
    assert (endpoint(scene).in_flight, endpoint(scene).prompt_tokens) == (0, 0)


def test_a_report_that_counts_our_requests_has_no_others() -> None:
    scene = Scene()
    scene.add(A)
    scene.ask()
    scene.state.peer_sent("p", "chat", A, 10, "", (), scene.now)
    scene.report(A, running=3)
    assert endpoint(scene).others == 1


def test_the_outbox_has_what_we_did_and_only_where_somebody_listens() -> None:
    scene = Scene(config(budgets={"acme": 10_000}), sharing=True)
    scene.add(A)
    talk = scene.ask(x_tenant="acme")
    assert list(scene.state.in_flight()) == [Sent("chat", A, 3, "", ())]
    talk.stream.closed()
    scene.state.learn(Learnt("chat", 1, 40, 10, 20))
    assert scene.state.outbox == [
        Spent("acme", 203),
        Sent("chat", A, 3, "", ()),
        Ended("chat", A, 3, ""),
        Learnt("chat", 1, 40, 10, 20),
    ]
    assert list(scene.state.in_flight()) == []
    alone = Scene(config(budgets={"acme": 10_000}))
    alone.add(A)
    alone.ask(x_tenant="acme").stream.closed()
    assert alone.state.outbox == []


def test_estimates_follow_what_usage_says() -> None:
    scene = Scene()
    scene.add(A)
    fleet = scene.state.fleets["chat"]
    assert fleet.tokens(1000) == 251
    for _ in range(10):
        scene.state.learn(Learnt("chat", 64, 64 * 300, 64 * 100, 64 * 50))
    assert (fleet.tokens(1000), fleet.answer_tokens) == (334, 50)
    assert endpoint(scene).answer_tokens == 50
    scene.state.peer_learnt("p", "chat", 640, 640 * 2000, 640, 640)
    assert fleet.bytes_per_token == 16, "bounded: a broken engine must not make prompts free"
    scene.state.learn(Learnt("chat", 0, 0, 0, 0))
    scene.add(B)
    assert endpoint(scene, B).answer_tokens == fleet.answer_tokens == 1


def test_names_from_requests_do_not_fill_memory() -> None:
    scene = Scene()
    scene.add(A)
    fleet = scene.state.fleets["chat"]
    for number in range(5000):
        fleet.candidates(f"adapter-{number}")
    assert len(fleet.found) == 4096


def test_statuses_for_people() -> None:
    scene = Scene()
    scene.add(A)
    states = []
    for change in (
        lambda: None,
        lambda: scene.report(A, kv_share=0.99),
        lambda: scene.state.failed("chat", A, hung=False, now=scene.now),
        lambda: scene.state.failed("chat", A, hung=True, now=scene.now),
        lambda: scene.add(A, ready=False),
        lambda: scene.add(A, draining=True),
    ):
        change()  # type: ignore[no-untyped-call]
        states.append(scene.state.describe(scene.now)["chat"]["replicas"][A]["status"])
    assert states[:4] == ["ready", "full", "no metrics", "hung"]
    assert states[4:] == ["not ready", "draining"]
    scene.now += 2 * SECOND
    assert scene.state.describe(scene.now)["chat"]["replicas"][A]["report_age_seconds"] == 2
