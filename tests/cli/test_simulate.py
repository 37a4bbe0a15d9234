"""`simulate`, `simulate trace` and `simulate calibrate` as a user calls them: what is printed, and what a mistake says."""

import gzip
import json
from pathlib import Path

import pytest

from aibrix_compile.policy.profile import TABLE
from aibrix_compile.simulate.engine import Limits
from aibrix_compile.simulate.measured import Measured, simulated
from aibrix_compile.simulate.trace import Request
from tests.cli import EXAMPLES, MINIMAL, run, write

WORKLOAD = "  workload: {inputTokens: 600, outputTokens: 80, requestsPerSecond: 1.5}\n"
SPEC = MINIMAL + WORKLOAD
SLO = "  slo: {ttft: {p99: 2s}, itl: {p95: 200ms}}\n"
SCALED = (
    SPEC.replace("replicas: 2", "replicas: {min: 1, max: 4}")
    + "  scaling: {strategy: {apa: {target: 50%, metric: kv_cache_usage}}}\n"
)


def simulate(folder: Path, *words: str, spec: str = SPEC) -> dict:  # type: ignore[type-arg]
    write(folder, {"chat.yaml": spec})
    done = run("simulate", "chat.yaml", "--duration", "2m", "--processes", "1", "--format", "json", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_spec_with_nothing_but_a_workload(tmp_path: Path) -> None:
    found = simulate(tmp_path)
    (only,) = found["variants"]
    score = only["score"]
    assert found["service"] == "chat" and score["answered"] == score["requests"] > 120
    assert 0.1 < score["ttft"]["mean"] < 5 and score["cost"] > 0 and score["currency"] == "USD"
    assert only["low"]["ttft"]["p99"] < score["ttft"]["p99"] < only["high"]["ttft"]["p99"]
    lengths = {len(column) for column in only["series"].values() if isinstance(column, list)}
    assert lengths == {len(only["seconds"])}
    assert any("data sheet" in note for note in found["notes"])


def test_the_table_says_what_json_says(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": SPEC + SLO})
    done = run("simulate", "chat.yaml", "--duration", "2m", "--no-range", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert "chat in default, the workload of the spec" in done.stdout
    assert "kept   ttft p99" in done.stdout and "a month at this load" in done.stdout and "\033" not in done.stdout


def test_equal_calls_print_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": SCALED})
    words = (
        "simulate",
        "chat.yaml",
        "--duration",
        "3m",
        "--format",
        "json",
        "--compare",
        "routing.strategy=cost,random",
    )
    one = run(*words, cwd=tmp_path)
    other = run(*words, "--processes", "1", cwd=tmp_path)
    assert one.returncode == 0 and one.stdout == other.stdout


def test_comparing_and_sweeping_change_the_spec(tmp_path: Path) -> None:
    found = simulate(
        tmp_path, "--compare", "routing.strategy=cost,random", "--no-range", "--set", "pools.nvidia-l4.replicas=3"
    )
    assert [one["name"] for one in found["variants"]] == ["routing.strategy=cost", "routing.strategy=random"]
    assert {one["score"]["pools"][0]["replicas_max"] for one in found["variants"]} == {3}
    swept = simulate(tmp_path, "--sweep", "scaling.strategy.apa.target=0.3:0.7:0.2", "--no-range", spec=SCALED)
    names = [one["name"].partition("=")[2] for one in swept["variants"]]
    assert names == ["30%", "50%", "70%"]  # the unit of the value that stands in the spec
    plain = simulate(tmp_path, "--sweep", "pools.nvidia-l4.replicas=1:3:1", "--no-range")
    assert [one["score"]["pools"][0]["replicas_max"] for one in plain["variants"]] == [1, 2, 3]


def test_a_trace_is_bent(tmp_path: Path) -> None:
    rows = "".join(f"{second},300,{20 + second % 7}\n" for second in range(100))
    with gzip.open(tmp_path / "day.csv.gz", "wt") as file:
        file.write("arrival_s,input_tokens,output_tokens\n" + rows)
    write(tmp_path, {"chat.yaml": MINIMAL})

    def score(*words: str) -> dict:  # type: ignore[type-arg]
        done = run(
            "simulate", "chat.yaml", "--trace", "day.csv.gz", "--format", "json", "--no-range", *words, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["variants"][0]["score"]  # type: ignore[no-any-return]

    whole = score()
    assert whole["requests"] == 100 and whole["input_tokens"] == 30_000
    assert score("--rate", "2")["seconds"] < 0.6 * whole["seconds"]
    assert score("--outputs", "2", "--inputs", "0.5")["input_tokens"] == 15_000
    assert score("--from", "20s", "--until", "50s")["requests"] == 30
    assert score("--limit", "7")["requests"] == 7
    assert score("--warm-up", "60s")["requests"] == 40


def test_a_gate_names_what_is_broken(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": SPEC + SLO})
    words = ("simulate", "chat.yaml", "--duration", "2m", "--no-range", "--gate")
    assert run(*words, cwd=tmp_path).returncode == 0
    broken = run(*words, "--set", "slo.ttft.p99=50ms", cwd=tmp_path)
    assert broken.returncode == 1
    assert broken.stderr.startswith("gate: slo.ttft.p99 is ") and "the limit is 50 ms" in broken.stderr


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": SPEC})
    done = run("simulate", "chat.yaml", "--duration", "1m", "--no-range", "--html", "report.html", cwd=tmp_path)
    assert done.returncode == 0 and "<html" in (tmp_path / "report.html").read_text("utf-8")
    lost = run("simulate", "chat.yaml", "--duration", "1m", "--no-range", "--html", "no/where.html", cwd=tmp_path)
    assert lost.returncode == 2 and "can not write no/where.html: no such file" in lost.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--set", "routing.strategy=cots"), 1, "error[AC106]"),
        (("--set", "routing.stategy=cost"), 1, "error[AC101]"),
        (("--sweep", "scaling.strategi.hpa.target=0.5:0.9:0.1"), 1, "error[AC101]"),
        (("--set", "routing.strategy"), 2, "is no setting; write PATH=VALUE"),
        (("--set", "routing.strategy={"), 1, "error[AC001]"),
        (("--compare", "routing.strategy=cost"), 2, "compares nothing"),
        (("--sweep", "pools.nvidia-l4.replicas=3:1:1"), 2, "is no sweep"),
        (("--sweep", "pools.nvidia-l4.replicas=1:1000:1"), 2, "more than 64 steps"),
        (("--trace", "nowhere.csv"), 2, "nowhere.csv: no such file"),
        (("--trace", "chat.yaml"), 1, "error[AC601]"),
        (("--rate", "0"), 2, "rate"),
        (("--duration", "30"), 2, "--duration 30: "),
        (("--from", "31m", "--processes", "1"), 2, "nothing is left of"),
        (("--from", "31m"), 2, "nothing is left of"),
        (("--at", "noon"), 2, "--at noon is no time"),
        (("--profile", "nowhere.json"), 2, "can not read nowhere.json"),
        (("--profile", "chat.yaml"), 1, "error[AC613]"),
        (("--gate",), 1, "error[AC612]"),
        (("--service", "chatt"), 2, "there is no service chatt; choose one with --service: chat"),
        (("-e", "prod"), 2, "there is no environment prod"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes(tmp_path: Path, words: tuple[str, ...], code: int, message: str) -> None:
    write(tmp_path, {"chat.yaml": SPEC})
    done = run("simulate", "chat.yaml", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_mistake_in_the_middle_of_a_trace_is_found_with_its_place(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": SPEC, "t.csv": "arrival_s,input_tokens,output_tokens\n0,10,5\n1,nan,5\n-2,10,5\n"})
    done = run("simulate", "chat.yaml", "--trace", "t.csv", "--html", "r.html", cwd=tmp_path)
    assert done.returncode == 1 and "t.csv:3:3" in done.stderr and done.stdout == ""
    assert not (tmp_path / "r.html").exists()


def test_without_a_workload_a_trace_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL})
    done = run("simulate", "chat.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "chat has no workload to make a trace from; give --trace FILE" in done.stderr


def test_every_example_can_be_simulated(tmp_path: Path) -> None:
    made = (
        "simulate",
        "trace",
        "generate",
        "--requests-per-second",
        "1",
        "--input-tokens",
        "500",
        "--output-tokens",
        "100",
    )
    trace = tmp_path / "t.jsonl"
    assert run(*made, "--duration", "60s", "--turns", "2", "-o", str(trace), cwd=tmp_path).returncode == 0
    for folder, service in (
        ("01-minimal", "chat"),
        ("02-environments", "support-chat"),
        ("03-multi-gpu", "assistant"),
        ("04-scaling", "chat"),
        ("05-lora", "support"),
        ("06-multi-node", "deepseek"),
    ):
        words = ("simulate", ".", "--service", service, "--trace", str(trace), "--no-range", "--format", "json")
        done = run(*words, cwd=EXAMPLES / folder)
        assert done.returncode == 0, (folder, done.stderr)
        score = json.loads(done.stdout)["variants"][0]["score"]
        assert score["answered"] == score["requests"] > 30, folder


# --- traces


def test_a_trace_is_made_and_converted(tmp_path: Path) -> None:
    words = (
        "simulate",
        "trace",
        "generate",
        "--requests-per-second",
        "5",
        "--input-tokens",
        "100",
        "--output-tokens",
        "20",
    )
    printed = run(*words, "--duration", "20s", cwd=tmp_path)
    assert printed.returncode == 0 and printed.stdout.startswith("arrival_s,input_tokens,output_tokens")
    written = run(*words, "--duration", "20s", "-o", "t.csv", cwd=tmp_path)
    assert written.returncode == 0 and "t.csv: " in written.stderr and written.stdout == ""
    assert (tmp_path / "t.csv").read_text("utf-8") == printed.stdout
    turned = run("simulate", "trace", "convert", "t.csv", cwd=tmp_path)
    assert turned.stdout == printed.stdout
    other = run(*words, "--duration", "20s", "--seed", "1", cwd=tmp_path)
    assert other.stdout != printed.stdout


def test_mistakes_in_making_one(tmp_path: Path) -> None:
    words = (
        "simulate",
        "trace",
        "generate",
        "--requests-per-second",
        "5",
        "--input-tokens",
        "100",
        "--output-tokens",
        "20",
    )
    for more, message in (
        (("--swing", "2"), "--swing 2: "),
        (("--duration=-3s",), "--duration -3s: "),
        (("-o", "no/t.csv"), "no/t.csv"),
        (("--turns", "0.2"), "turns"),
    ):
        done = run(*words, *more, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, (more, done.stderr)


# --- calibration


def log(count: int, name: str = "rtx-4090/8b") -> str:
    """A log as an engine of that profile would write it."""
    requests = [Request(index * 300_000, 100 + index * 37 % 900, 20 + index * 13 % 60) for index in range(count)]
    times = simulated([Measured(one, 1, 1) for one in requests], TABLE[name], Limits(256, 2048))
    rows = [
        f"{one.at / 1e6},{one.input},{one.output},{ttft / 1e6},{e2e / 1e6}\n"
        for one, (ttft, e2e) in zip(requests, times, strict=True)
    ]
    return "arrival_s,input_tokens,output_tokens,ttft_s,e2e_s\n" + "".join(rows)


def test_a_profile_is_found_again_from_what_its_engine_did(tmp_path: Path) -> None:
    write(tmp_path, {"log.csv": log(80), "chat.yaml": SPEC})
    words = (
        "simulate",
        "calibrate",
        "log.csv",
        "--like",
        "h100/8b",
        "--pool",
        "nvidia-l4",
        "-o",
        "p.json",
        "--format",
        "json",
    )
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    profile, real = found["profile"], TABLE["rtx-4090/8b"]
    assert profile["weights_ms"] == pytest.approx(real.weights_ms, rel=0.15)
    assert profile["token_ms"] == pytest.approx(real.token_ms, rel=0.15)
    held = {row["figure"]: row["error"] for row in found["errors"]["held back"]}
    assert abs(held["TTFT mean"]) < 0.05 and abs(held["e2e mean"]) < 0.05
    used = run("simulate", "chat.yaml", "--profile", "p.json", "--duration", "1m", "--format", "json", cwd=tmp_path)
    assert used.returncode == 0, used.stderr
    assert "fitted to 80 requests of log.csv" in json.loads(used.stdout)["notes"][0]


def test_errors_of_a_profile_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, {"log.csv": log(30)})
    right = run("simulate", "calibrate", "log.csv", "--like", "rtx-4090/8b", "--check", cwd=tmp_path)
    assert right.returncode == 0 and "+0.0%" in right.stdout
    wrong = run("simulate", "calibrate", "log.csv", "--like", "h100/8b", "--check", cwd=tmp_path)
    assert "-4" in wrong.stdout or "-5" in wrong.stdout


@pytest.mark.parametrize(
    ("text", "words", "code", "message"),
    [
        ("arrival_s,input_tokens,output_tokens\n0,1,1\n", (), 1, "log.csv:1:1"),
        ("arrival_s,input_tokens,output_tokens,ttft_s,e2e_s\n0,1,1,2,1\n0,1,1,nan,1\n", (), 1, "log.csv:3:1"),
        ("arrival_s,input_tokens,output_tokens,ttft_s,e2e_s\n", (), 1, "error[AC606]"),
        (log(5), (), 2, "5 requests are too few"),
        (log(5), ("--like", "b200/8b", "--check"), 2, "there is no profile b200/8b; known: h100/8b"),
        (log(5), ("-o", "p.json"), 2, "-o needs --pool NAME"),
        (log(5), ("--check", "--max-num-seqs", "0"), 2, "at least 1"),
    ],
)
def test_mistakes_in_calibration(tmp_path: Path, text: str, words: tuple[str, ...], code: int, message: str) -> None:
    write(tmp_path, {"log.csv": text})
    done = run("simulate", "calibrate", "log.csv", *words, cwd=tmp_path)
    assert done.returncode == code and message in done.stderr and done.stdout == "", done.stderr
