"""The scheduler: which tokens of which requests go into the next step, and how long it takes.

Why it exists apart from the server: it is a function of arrivals and time, so batching, chunked prefill, preemption and
the prefix cache are tested in microseconds without a socket. The rules are those of vLLM's V1 scheduler: running requests
first, in the order in which they were admitted - so decodes before the one prompt that is still being read -, then waiting
ones in order of arrival while the step's token budget, a place in the batch and KV blocks for the whole prompt are left.
When blocks run out the request that was admitted last is preempted, and recomputed from its first token later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from aibrix_compile.policy.profile import Profile, step_ms
from aibrix_mock.adapters import READ_SECONDS, Adapter, HostCache
from aibrix_mock.blocks import BlockPool, Chain
from aibrix_mock.stats import Stats
from aibrix_mock.tokens import TOKEN_BYTES, Answer


@dataclass(frozen=True, slots=True)
class Limits:
    """What vLLM's flags set; the names are the flags'."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    num_gpu_blocks: int
    enable_prefix_caching: bool = True
    max_loras: int = 1
    max_cpu_loras: int = 1


class Request:
    """One prompt and its answer; `limit` tokens are generated unless it is aborted, then `ending` is why it finished."""

    __slots__ = (
        *("answer", "adapter", "arrived", "blocks", "cached", "chain", "computed", "ending", "finished", "first_at"),
        *(
            "generated",
            "last_at",
            "limit",
            "max_tokens",
            "name",
            "preemptions",
            "prompt",
            "prompt_tokens",
            "started_at",
        ),
    )

    def __init__(
        self,
        name: str,
        prompt: bytes,
        answer: Answer,
        limit: int,
        ending: str = "length",
        adapter: Adapter | None = None,
        max_tokens: int = 0,
    ) -> None:
        """`max_tokens`: what the client asked for, 0 for nothing; it only fills a histogram."""
        self.name, self.prompt, self.answer = name, prompt, answer
        self.prompt_tokens = len(prompt) // TOKEN_BYTES
        self.limit, self.ending, self.adapter, self.max_tokens = limit, ending, adapter, max_tokens
        self.generated = self.computed = self.preemptions = 0
        self.cached = 0
        """Prompt tokens that were in the prefix cache when it was first admitted."""
        self.finished = ""
        """Why: stop, length, abort; "" while it is not."""
        self.arrived = self.last_at = 0.0
        self.started_at = self.first_at = -1.0
        self.blocks: list[int] = []
        self.chain: Chain | None = None

    @property
    def total(self) -> int:
        return self.prompt_tokens + self.generated

    def read(self, start: int, end: int) -> bytes:
        """Bytes of prompt and answer together."""
        edge = len(self.prompt)
        if end <= edge:
            return self.prompt[start:end]
        first, last = (max(0, start - edge) // TOKEN_BYTES, (end - edge) // TOKEN_BYTES)
        return self.prompt[start:] + self.answer.data(first, last)


class EngineCore:
    """`begin(now)` plans a step and says when it ends, `finish()` is that moment; in between only `add` and `abort`."""

    def __init__(self, profile: Profile, limits: Limits, host: HostCache | None = None) -> None:
        self.profile, self.limits, self.host = profile, limits, host
        self.pool = BlockPool(limits.num_gpu_blocks, limits.enable_prefix_caching)
        self.stats = Stats(limits.max_model_len)
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.deferred = 0
        """Of those waiting: passed over in the last step because `max_loras` other adapters were in it."""
        self.progressed: list[Request] = []
        """Requests with a new token or an end since the reader last emptied the list."""
        self.adapters: dict[str, int] = {}
        """Requests that are not finished, by adapter."""
        self.slowness = 1.0
        self.now = 0.0
        """The end of the last step."""
        self._plan: list[tuple[Request, int]] = []
        self._end = 0.0

    @property
    def unfinished(self) -> int:
        return len(self.running) + len(self.waiting)

    def queued_tokens(self) -> int:
        """Prompt tokens of requests without a first token."""
        return sum(r.prompt_tokens for queue in (self.running, self.waiting) for r in queue if not r.generated)

    def add(self, request: Request, now: float) -> None:
        request.arrived = now
        salt = request.adapter.salt if request.adapter else b""
        request.chain = Chain(salt, self.limits.block_size * TOKEN_BYTES, request.read)
        if request.adapter:
            self.adapters[request.adapter.name] = self.adapters.get(request.adapter.name, 0) + 1
        self.waiting.append(request)

    def abort(self, request: Request) -> None:
        """Its place and its blocks are free at once; nothing happens to a finished one."""
        if request.finished:
            return
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        self._end_of(request, "abort")

    def begin(self, now: float) -> float | None:
        """Plans the step that begins at `now` and returns its end; None if nothing can run."""
        self.now = now
        plan, budget, preempted = self._plan, self.limits.max_num_batched_tokens, False
        plan.clear()
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            chunk = min(request.total - request.computed, budget)
            while not self._grow(request, request.computed + chunk):
                preempted = True
                if self._preempt() is request:
                    break
            else:
                plan.append((request, chunk))
                budget -= chunk
                index += 1
        self.deferred = 0
        if self.waiting and not preempted:
            self._admit(budget)
        if not plan:
            return None
        self._end = now + self._seconds()
        return self._end

    def finish(self) -> None:
        """The step's end: every planned request that has all its tokens computed gets its next one."""
        now, previous, together, prefilled, new = self._end, self.now, 0, 0, 0
        self.now = now
        stats, progressed = self.stats, self.progressed
        for request, chunk in self._plan:
            if request.finished:
                continue
            request.computed += chunk
            if request.computed < request.prompt_tokens + request.generated:
                continue
            new += 1
            request.generated += 1
            if request.first_at < 0:
                request.first_at = now
                prefilled += request.prompt_tokens - request.cached
                self._first(request)
            elif request.last_at == previous:
                together += 1
            else:
                stats.between_tokens.observe(now - request.last_at)
            request.last_at = now
            progressed.append(request)
            if request.generated >= request.limit:
                self.running.remove(request)
                self._end_of(request, request.ending)
        if together:
            stats.between_tokens.observe(now - previous, together)
        stats.generated_tokens += new
        stats.iteration.observe(prefilled + new)
        self._plan.clear()

    def _admit(self, budget: int) -> None:
        limits, pool, passed = self.limits, self.pool, deque[Request]()
        active = {r.adapter.name for r, _ in self._plan if r.adapter}
        while self.waiting and budget > 0 and len(self.running) < limits.max_num_seqs:
            request = self.waiting.popleft()
            if request.adapter and request.adapter.name not in active and len(active) >= limits.max_loras:
                passed.append(request)
                continue
            hits: list[int] = []
            if pool.caching:
                assert request.chain is not None
                hits = pool.cached(request.chain.first((request.total - 1) // limits.block_size))
            wanted = -(-request.total // limits.block_size) - len(hits)
            if wanted > pool.free - pool.idle(hits):
                self.waiting.appendleft(request)
                break
            pool.share(hits)
            request.blocks = hits
            request.computed = len(hits) * limits.block_size
            if not request.preemptions:
                request.cached = request.computed
                self.stats.prefix_queries += request.total
                self.stats.prefix_hits += request.computed
            if request.started_at < 0:
                request.started_at = self.now
            chunk = min(request.total - request.computed, budget)
            self._grow(request, request.computed + chunk)
            self.running.append(request)
            self._plan.append((request, chunk))
            budget -= chunk
            if request.adapter:
                active.add(request.adapter.name)
        self.deferred = len(passed)
        self.waiting.extendleft(reversed(passed))

    def _grow(self, request: Request, tokens: int) -> bool:
        """Blocks for the first `tokens` of a request; those that they fill can be shared from now on."""
        size, pool, blocks = self.limits.block_size, self.pool, request.blocks
        more = -(-tokens // size) - len(blocks)
        if more > 0:
            if more > pool.free:
                return False
            blocks += pool.take(more)
        if pool.caching:
            chain = request.chain
            assert chain is not None
            for index in range(request.computed // size, tokens // size):
                pool.remember(blocks[index], chain.block(index))
        return True

    def _preempt(self) -> Request:
        victim = self.running.pop()
        self.pool.give_back(victim.blocks)
        victim.blocks, victim.computed = [], 0
        victim.preemptions += 1
        self.stats.preemptions += 1
        self.waiting.appendleft(victim)
        return victim

    def _seconds(self) -> float:
        sequences, context, chunks = 0, 0, []
        adapters: dict[str, Adapter] = {}
        for request, chunk in self._plan:
            if chunk == 1 and request.generated and request.computed == request.total - 1:
                sequences += 1
                context += request.prompt_tokens + request.generated
            else:
                chunks.append((chunk, request.computed))
            if request.adapter:
                adapters[request.adapter.name] = request.adapter
        reads = self.host.use(adapters.values()) if self.host and adapters else 0
        seconds = step_ms(self.profile, sequences, context, chunks) / 1000
        return seconds * self.slowness + reads * READ_SECONDS

    def _first(self, request: Request) -> None:
        stats = self.stats
        stats.first_token.observe(max(0.0, request.first_at - request.arrived))
        stats.prompt_tokens += request.prompt_tokens
        stats.cached_tokens += request.cached

    def _end_of(self, request: Request, reason: str) -> None:
        request.finished = reason
        self.pool.give_back(request.blocks)
        request.blocks = []
        self.progressed.append(request)
        if request.adapter:
            name = request.adapter.name
            self.adapters[name] -= 1
            if not self.adapters[name]:
                del self.adapters[name]
        stats = self.stats
        stats.finished[reason] += 1
        if reason == "abort":
            return  # as in vLLM, whose histograms only know answers that came to their end
        end, first, start = request.last_at, request.first_at, request.started_at
        stats.whole.observe(max(0.0, end - request.arrived))
        stats.queued.observe(max(0.0, start - request.arrived))
        stats.inference.observe(end - start)
        stats.prefill.observe(first - start)
        stats.decode.observe(end - first)
        stats.per_token.observe((end - first) / (request.generated - 1) if request.generated > 1 else 0.0)
        stats.prompt.observe(request.prompt_tokens)
        stats.generation.observe(request.generated)
        stats.max_generation.observe(request.generated)
        stats.computed.observe(request.prompt_tokens - request.cached)
        stats.preempted.observe(request.preemptions)
        stats.choices.observe(1)
        if request.max_tokens:
            stats.max_tokens.observe(request.max_tokens)
