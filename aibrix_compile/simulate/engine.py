"""One replica's engine, as a function of arrivals: continuous batching with chunked prefill, a KV cache with a prefix cache in
it, preemption and LoRA slots, in the rules of vLLM's V1 scheduler and the times of `policy.profile`.

Why it is not the mock engine's scheduler: that one makes every step, 200 of them for an answer. Here a batch that only
decodes is one event, from now to the next end of an answer, and an arrival cuts it at the next step's end; so an answer costs
three or four events, however long it is. What that gives up: blocks are counted (half a block of slack for each sequence), not
handed out one by one.

Clock: integer microseconds. `add` and `advance` return when the engine must be advanced next, None while it is idle.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from math import sqrt

from aibrix_compile.policy.profile import Profile
from aibrix_compile.simulate.trace import Request


@dataclass(frozen=True, slots=True)
class Limits:
    """The engine's flags and what its memory leaves; a LoRA adapter's times are those of a copy from host memory."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    prefix_caching: bool = True
    max_loras: int = 1
    max_cpu_loras: int = 1
    adapter_host_us: int = 15_000
    """Host memory to GPU: 10-20 ms (measured with vLLM 0.32)."""
    adapter_fetch_us: int = 2_000_000
    """Storage to host memory, of an adapter that is in neither."""
    lora_step_us: float = 0.0
    """What adapters in a batch add to a step."""
    lora_token_share: float = 0.0
    """And to the products of each token in it."""


class Sequence:
    """One request in an engine. Times are microseconds, -1 while they have not come."""

    __slots__ = (
        *("adapter", "arrived", "blocks", "cached", "cached_guess", "computed", "end_step", "finished", "first"),
        *("generated", "index", "input", "output", "pinned", "preemptions", "session", "target"),
    )

    def __init__(self, index: int, request: Request, arrived: int) -> None:
        self.index = index
        self.arrived = arrived
        _, self.input, self.output, self.blocks, self.adapter, session = request
        self.session = str(session) if session >= 0 else ""
        self.first = self.finished = -1
        self.generated = self.computed = self.cached = self.cached_guess = self.preemptions = 0
        self.pinned = 0
        """Blocks of the prompt that it holds in the KV cache."""
        self.target = request.input
        """Tokens to compute before the next one can be sampled: the prompt, and after a preemption what was generated."""
        self.end_step = -1


class Engine:
    """`finished` collects sequences that ended in the last `advance`; the reader empties it."""

    __slots__ = (
        *(
            "_adapters",
            "_began",
            "_blocked",
            "_budget",
            "_cached",
            "_chunks",
            "_decoding",
            "_deferred",
            "_ends",
            "_first_us",
        ),
        *(
            "_host",
            "_k",
            "_limits",
            "_lora_share",
            "_lora_us",
            "_partial",
            "_per_step",
            "_pinned",
            "_slope",
            "_slots",
            "_steps",
            "_unit",
        ),
        *(
            "busy_us",
            "capacity",
            "context",
            "decode_tokens",
            "finished",
            "first_tokens",
            "gaps_us",
            "hit_tokens",
            "itl",
            "preemptions",
            "private",
        ),
        *("adapter_loads", "profile", "prompt_tokens", "running", "ttft_us", "until", "waiting"),
        *("_ca", "_cf", "_ck", "_cs", "_fixed", "_w2", "_sync"),
    )

    def __init__(self, profile: Profile, limits: Limits, block_tokens: int) -> None:
        """`block_tokens`: the unit of prefix reuse, that of the trace; 0 for a trace without prefixes."""
        self.profile, self._limits = profile, limits
        self._unit = block_tokens if limits.prefix_caching else 0
        self.capacity = profile.kv_tokens
        self._w2 = (profile.weights_ms * 1e3) ** 2
        self._cf, self._ck, self._ca = profile.token_ms * 1e3, profile.context_ms * 1e3, profile.attention_ms * 1e3
        self._cs, self._fixed = profile.sequence_ms * 1e3, (profile.step_ms + profile.sync_ms) * 1e3
        self._sync = profile.sync_token_ms * 1e3
        self._lora_us, self._lora_share = limits.lora_step_us, 1 + limits.lora_token_share
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, None] = {}
        """Admitted, in order of admission; the last one is preempted first."""
        self._partial: list[Sequence] = []
        """Of them, those whose prompt is not computed whole."""
        self._ends: list[tuple[int, int, Sequence]] = []
        """Heap of (decode step at which it ends, index, sequence); entries of preempted ones are stale."""
        self._decoding = 0
        self.context = 0
        """Tokens of all decoding sequences together."""
        self.private = 0
        """KV tokens that belong to one sequence alone."""
        self._pinned: dict[int, int] = {}
        """Prompt blocks in use, and by how many."""
        self._cached: dict[int, None] = {}
        """Prompt blocks in nobody's use, oldest first; they go when room is needed."""
        self._adapters: dict[str, int] = {}
        self._slots: dict[str, None] = {}
        self._host: dict[str, None] = {}
        self._steps = self._k = 0
        self._began = 0
        self._first_us = self._per_step = self._slope = 0.0
        self._chunks: list[tuple[Sequence, int]] = []
        self._blocked = False
        """Whoever waits waits for an end, not for a step."""
        self._deferred = False
        """That is so for want of a place for their adapters alone."""
        self._budget = limits.max_num_batched_tokens
        self.until: int | None = None
        self.finished: list[Sequence] = []
        self.itl: dict[int, int] = {}
        """Gaps between tokens: how many of about so long, by `bucket`."""
        self.busy_us = self.decode_tokens = self.prompt_tokens = self.hit_tokens = self.preemptions = 0
        self.adapter_loads = self.gaps_us = self.ttft_us = self.first_tokens = 0

    # --- what a picker or a scraper can see

    @property
    def kv_tokens(self) -> int:
        """In use, without what is only cached; half a block of slack for each sequence."""
        half = self.profile.block_tokens // 2
        return self.private + len(self._pinned) * self._unit + half * len(self.running)

    @property
    def adapters_active(self) -> int:
        return len(self._adapters)

    @property
    def in_flight(self) -> int:
        return len(self.running) + len(self.waiting)

    # --- what happens to it

    def add(self, sequence: Sequence, now: int) -> int | None:
        """A request arrives."""
        self.waiting.append(sequence)
        if self.until is None:
            return self._plan(now)
        if self._deferred and (not sequence.adapter or sequence.adapter in self._adapters):
            self._blocked = self._deferred = False
        if self._k <= 1 or self._blocked:
            return self.until
        elapsed, linear, slope = now - self._began, self._first_us - self._slope / 2, self._slope
        done = int(
            2 * elapsed / (linear + sqrt(linear * linear + 2 * slope * elapsed))
        )  # k T0 + s k (k-1) / 2 = elapsed
        if done + 1 < self._k:
            self._k = done + 1
            self.until = self._began + self._after(done + 1)
        return self.until

    def advance(self, now: int) -> int | None:
        """The end of what was planned, `until`: tokens are there, answers end, the next steps are planned."""
        k, decoding, took = self._k, self._decoding, now - self._began
        self.busy_us += took
        self._steps += k
        if decoding:
            grown = k * decoding
            self.context += grown
            self.private += grown
            self.decode_tokens += grown
            gap = bucket(took / k)
            self.itl[gap] = self.itl.get(gap, 0) + grown
            self.gaps_us += took * decoding
        if self._chunks:
            self._computed(now)
        ends, steps = self._ends, self._steps
        while ends and ends[0][0] <= steps:
            end, _, sequence = heappop(ends)
            if sequence.end_step == end:
                self._decoding -= 1
                self.context -= sequence.input + sequence.output
                self._end(sequence, now)
        return self._plan(now)

    def hold(self, adapter: str) -> None:
        """Its files come to host memory, in their own time."""
        self._host[adapter] = None

    def drop(self, adapter: str) -> None:
        """It is unloaded; nobody uses it."""
        self._host.pop(adapter, None)
        self._slots.pop(adapter, None)

    def forget(self) -> None:
        """Counts begin anew: what was before was a warm-up. What a scaler reads goes on."""
        self.itl.clear()
        self.busy_us = self.prompt_tokens = self.hit_tokens = self.preemptions = self.adapter_loads = 0

    # --- inside

    def _computed(self, now: int) -> None:
        """Chunks of prompts are done; whole ones have their first token and decode from here on."""
        for sequence, chunk in self._chunks:
            sequence.computed += chunk
            if sequence.computed < sequence.target:
                continue
            self._partial.remove(sequence)
            sequence.generated += 1
            self.private += 1
            if sequence.first < 0:
                sequence.first = now
                self.ttft_us += now - sequence.arrived
                self.first_tokens += 1
            left = sequence.output - sequence.generated
            if left <= 0:
                self._end(sequence, now)
                continue
            sequence.end_step = self._steps + left
            heappush(self._ends, (sequence.end_step, sequence.index, sequence))
            self._decoding += 1
            self.context += sequence.target + 1
        self._chunks = []

    def _end(self, sequence: Sequence, now: int) -> None:
        sequence.finished = now
        sequence.generated = sequence.output
        self._leave(sequence, sequence.input + sequence.output)
        self.finished.append(sequence)

    def _leave(self, sequence: Sequence, tokens: int) -> None:
        """It gives back its KV tokens; whole blocks of its prompt stay as long as nobody needs their room."""
        del self.running[sequence]
        self._blocked = self._deferred = False
        pinned = sequence.pinned
        if pinned:
            held, cached, blocks = self._pinned, self._cached, sequence.blocks
            for index in range(pinned - 1, -1, -1):  # from the end: a chain is lost from its end first
                block = blocks[index]
                users = held[block] - 1
                if users:
                    held[block] = users
                else:
                    del held[block]
                    cached[block] = None
            self.private -= max(0, tokens - sequence.input)
            sequence.pinned = 0
        else:
            self.private -= tokens
        if sequence.adapter:
            left = self._adapters[sequence.adapter] - 1
            if left:
                self._adapters[sequence.adapter] = left
            else:
                del self._adapters[sequence.adapter]

    def _plan(self, now: int) -> int | None:
        """What happens next, as vLLM would schedule it: decodes, the prompt that is under way, then waiting ones."""
        self._began = now
        if self._decoding and self.private + self._decoding + len(self._pinned) * self._unit > self.capacity:
            self._preempt()
        decoding = self._decoding
        extra = 0
        if self._partial or (self.waiting and not self._blocked):
            extra = self._schedule(self._budget - decoding)
        elif not decoding:
            self._k, self.until = 0, None
            return None
        if self._chunks:
            tokens, pairs = decoding, 0.0
            for sequence, chunk in self._chunks:
                tokens += chunk
                pairs += chunk * (sequence.computed + chunk / 2)
            compute, fixed = tokens * self._cf, self._fixed
            if self._adapters:
                compute, fixed = compute * self._lora_share, fixed + self._lora_us
            took = (
                *(sqrt(self._w2 + compute * compute) + fixed, tokens * self._sync, decoding * self._cs),
                *(self.context * self._ck, self._ca * pairs),
            )
            self._k = 1
            self.until = now + int(took[0] + took[1] + took[2] + took[3] + took[4] + 0.5) + extra
            return self.until
        if not decoding:
            self._k, self.until = 0, None
            return None
        ends = self._ends
        while ends[0][2].end_step != ends[0][0]:
            heappop(ends)
        k = ends[0][0] - self._steps
        room = (self.capacity - self.private - len(self._pinned) * self._unit) // decoding
        if k > room:
            k = max(1, room)
        if self._cached:
            self._evict(k * decoding)
        compute, fixed = decoding * self._cf, self._fixed
        if self._adapters:
            compute, fixed = compute * self._lora_share, fixed + self._lora_us
        self._first_us = (
            sqrt(self._w2 + compute * compute) + fixed + decoding * (self._cs + self._sync) + self.context * self._ck
        )
        self._slope = decoding * self._ck
        self._k = k
        self.until = now + self._after(k)
        return self.until

    def _after(self, steps: int) -> int:
        """Microseconds of so many decode steps from `_began` on."""
        return int(steps * self._first_us + self._slope * (steps * (steps - 1) / 2) + 0.5)

    def _schedule(self, budget: int) -> int:
        """Chunks for the next step; the microseconds that loading adapters adds to it."""
        chunks, extra = self._chunks, 0
        for sequence in self._partial:
            chunk = sequence.target - sequence.computed
            if chunk > budget:
                chunk = budget
            if chunk > 0:
                chunks.append((sequence, chunk))
                budget -= chunk
        waiting, limits = self.waiting, self._limits
        passed: list[Sequence] = []
        while waiting and budget > 0 and len(self.running) < limits.max_num_seqs:
            sequence = waiting.popleft()
            if sequence.adapter and sequence.adapter not in self._adapters and len(self._adapters) >= limits.max_loras:
                passed.append(sequence)
                continue
            if not self._admit(sequence):
                waiting.appendleft(sequence)
                self._blocked = True
                break
            if sequence.adapter:
                extra += self._load(sequence.adapter)
            self.running[sequence] = None
            self._partial.append(sequence)
            chunk = sequence.target - sequence.computed
            if chunk > budget:
                chunk = budget
            chunks.append((sequence, chunk))
            budget -= chunk
        if len(self.running) >= limits.max_num_seqs:
            self._blocked = True
        if passed:
            waiting.extendleft(reversed(passed))
            if len(passed) == len(waiting):
                self._blocked = self._deferred = True
        return extra

    def _admit(self, sequence: Sequence) -> bool:
        """KV room for the whole prompt, and what of it is there already."""
        unit, blocks = self._unit, sequence.blocks
        held = self._pinned
        free = self.capacity - self.private - len(held) * unit - self._decoding
        if not unit or not blocks:
            if sequence.target > free and self.running:
                return False
            self.private += sequence.target
            self.prompt_tokens += sequence.target
            if self._cached:
                self._evict(0)
            return True
        cached, hits, fresh = self._cached, 0, 0
        for block in blocks:
            if block in cached:
                fresh += 1  # it is there, but counts as in use from now on
            elif block not in held:
                break
            hits += 1
        fresh += len(blocks) - hits
        more = sequence.target - sequence.input
        if fresh * unit + more > free and self.running:
            return False
        for block in blocks:
            users = held.get(block)
            if users:
                held[block] = users + 1
            else:
                held[block] = 1
                cached.pop(block, None)
        sequence.pinned = len(blocks)
        self.private += more
        sequence.computed = min(hits * unit, sequence.input - 1)
        if not sequence.preemptions:
            sequence.cached = sequence.computed
            self.prompt_tokens += sequence.input
            self.hit_tokens += sequence.computed
        self._evict(0)
        return True

    def _evict(self, more: int) -> None:
        """Forget cached blocks until everything in use and `more` tokens fit beside the rest."""
        unit, cached = self._unit, self._cached
        over = self.private + more + (len(self._pinned) + len(cached)) * unit - self.capacity
        while over > 0 and cached:
            del cached[next(iter(cached))]
            over -= unit

    def _load(self, adapter: str) -> int:
        """Make an adapter active; the microseconds until it is on the GPU."""
        self._adapters[adapter] = self._adapters.get(adapter, 0) + 1
        slots, host, limits, took = self._slots, self._host, self._limits, 0
        if adapter in slots:
            del slots[adapter]
        else:
            self.adapter_loads += 1
            took = limits.adapter_host_us if adapter in host else limits.adapter_host_us + limits.adapter_fetch_us
            if len(slots) >= limits.max_loras:
                del slots[next(one for one in slots if one not in self._adapters or one == adapter)]
        slots[adapter] = None
        host.pop(adapter, None)
        if len(host) >= max(limits.max_cpu_loras, limits.max_loras):
            del host[next(iter(host))]
        host[adapter] = None
        return took

    def _preempt(self) -> None:
        """The ones that were admitted last lose their place until the next step has room; they are recomputed from their
        first token."""
        unit = self._unit
        while len(self.running) > 1 and self.private + self._decoding + len(self._pinned) * unit > self.capacity:
            victim = next(reversed(self.running))
            if victim in self._partial:
                self._partial.remove(victim)
                held = victim.target
            else:
                victim.generated = victim.output - (victim.end_step - self._steps)
                held = victim.input + victim.generated
                self._decoding -= 1
                self.context -= held
                victim.target = held
            victim.end_step, victim.computed = -1, 0
            victim.preemptions += 1
            self.preemptions += 1
            self._leave(victim, held)
            self.waiting.appendleft(victim)
        self._blocked = True  # nothing is admitted in the step of a preemption, nor before something ends


def bucket(microseconds: float) -> int:
    """A number for about so long a gap: those of one bucket differ by 3 % at most, and order is kept."""
    return int(microseconds).bit_length() << 5 | _fine(int(microseconds))


def _fine(value: int) -> int:
    """The five bits below the highest one."""
    shift = value.bit_length() - 6
    return (value >> shift if shift >= 0 else value << -shift) & 31


def gap_us(number: int) -> float:
    """The middle of a bucket, microseconds."""
    bits, fine = number >> 5, number & 31
    return (32 + fine + 0.5) * 2.0 ** (bits - 6) if bits else 0.0
