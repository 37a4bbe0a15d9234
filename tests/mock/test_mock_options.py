"""The command line is vLLM 0.32's, the mock's own settings are variables."""

import json

import known_flags
import pytest

from aibrix_compile.catalog import engines
from aibrix_compile.policy.profile import TABLE
from aibrix_mock.options import HONOURED, Refused, Settings, human, parse, settings

H100 = Settings(TABLE["h100/8b"])


def test_every_flag_of_the_catalog_is_known() -> None:
    assert known_flags.FILE.read_text("utf-8") == known_flags.text(), "python tests/mock/known_flags.py"
    engine = engines.find("vllm", "0.32.0")
    assert engine and engine.flags.keys() >= HONOURED


def test_every_flag_is_accepted_in_every_spelling() -> None:
    engine = engines.find("vllm", "0.32.0")
    assert engine
    samples = {
        "int": "64",
        "human-int": "8k",
        "human-int-or-auto": "4096",
        "float": "0.5",
        "json": "{}",
        "str-or-json": "{}",
    }
    commands: list[list[str]] = [[] for _ in range(5)]
    for name, flag in engine.flags.items():
        if flag.kind == "bool":
            ways = [[f"--{name}"], *([[f"--no-{name}"]] if flag.negatable else [])]
        else:
            value = (
                flag.choices[-1] if flag.choices else "a=/b" if name == "lora-modules" else samples.get(flag.kind, "x")
            )
            ways = [[f"--{name}={value}"], [f"--{name.replace('-', '_')}", value]]
            ways += [[f"-{short}", value] for short in flag.short]
            if flag.nargs == "+" and flag.kind == "str":
                ways.append([f"--{name}", value, value])
        for command, words in zip(commands, ways, strict=False):
            command += words
    for command in commands:
        parse([*command, "--max-cpu-loras=512", "--num-gpu-blocks-override=9999"], H100)
    assert len(commands[1]) > 300


def test_what_an_emitted_command_says() -> None:
    words = (
        "--model=meta-llama/Llama-3.1-8B-Instruct --served-model-name=llama --port=8000 --revision=main "
        "--max-model-len=8192 --enable-lora --max-loras=8 --max-cpu-loras=64 --max-lora-rank=32"
    )
    options = parse(words.split(), H100)
    assert (options.model, options.names, options.port) == ("meta-llama/Llama-3.1-8B-Instruct", ("llama",), 8000)
    limits = options.limits
    assert (limits.max_model_len, limits.max_loras, limits.max_cpu_loras) == (8192, 8, 64)
    assert (limits.max_num_seqs, limits.max_num_batched_tokens) == (1024, 8192)  # vLLM's defaults on 70 GiB and more
    assert (limits.block_size, limits.num_gpu_blocks, limits.enable_prefix_caching) == (16, 25_000, True)
    assert options.without_effect == ("revision",)
    assert (options.cache_labels["block_size"], options.cache_labels["num_gpu_blocks"]) == ("16", "25000")


def test_defaults_of_a_small_card() -> None:
    limits = parse([], Settings(TABLE["l4/8b"])).limits
    assert (limits.max_num_seqs, limits.max_num_batched_tokens, limits.max_model_len) == (256, 2048, 34_000)
    assert parse(["--gpu-memory-utilization=0.46"], H100).limits.num_gpu_blocks == 12_500
    assert parse(["--block-size=32", "--num-gpu-blocks-override=5000"], H100).limits.num_gpu_blocks == 5000
    assert parse(["--seed=5"], H100).seed == 5 and parse(["--seed=5"], Settings(TABLE["h100/8b"], seed=7)).seed == 7


def test_spellings() -> None:
    assert parse(["--served-model-name", "a", "b", "--model", "m"], H100).names == ("a", "b")
    assert parse(["--speculative-config.method", "ngram", "--port=1"], H100).port == 1
    assert parse(["--speculative-config.method=ngram", "-tp", "4"], H100).without_effect == ()
    modules = parse(["--lora-modules", "a=/x", '{"name": "b", "path": "/y"}'], H100).lora_modules
    assert modules == (("a", "/x"), ("b", "/y"))
    assert [human(text) for text in ("8192", "8k", "8K", "1.5k", "1M")] == [8192, 8000, 8192, 1500, 2**20]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--nonsense=1", "--port=1"], "unrecognized arguments: --nonsense=1"),
        (["--port=x"], "argument --port: invalid int value: 'x'"),
        (["--max-lora-rank=7"], "argument --max-lora-rank: invalid choice: 7"),
        (["--max-num-seqs"], "argument --max-num-seqs: expected one argument"),
    ],
)
def test_what_the_parser_refuses(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(words, H100)
    assert stopped.value.code == 2
    assert f"api_server.py: error: {message}" in capsys.readouterr().err


def test_what_the_engine_refuses() -> None:
    with pytest.raises(Refused, match="max seq len \\(500000\\)"):
        parse(["--max-model-len=500000"], H100)
    with pytest.raises(Refused, match="max_cpu_loras \\(1\\) must be >= max_loras \\(2\\)"):
        parse(["--max-loras=2", "--max-cpu-loras=1"], H100)


def test_the_environment() -> None:
    assert settings({}) == Settings(TABLE["h100/8b"])
    chosen = settings(
        {"AIBRIX_MOCK_PROFILE": "l4/8b", "AIBRIX_MOCK_SPEED": "10", "AIBRIX_MOCK_ANSWER_TOKENS": "8", "HOME": "/"}
    )
    assert (chosen.profile, chosen.speed, chosen.answer_tokens) == (TABLE["l4/8b"], 10, (8, 8))
    links = {
        "AIBRIX_MOCK_SERVICE_HOST": "10.0.0.1",
        "AIBRIX_MOCK_PORT": "tcp://10.0.0.1:80",
        "AIBRIX_MOCK_PORT_80_TCP": "x",
    }
    assert settings(links) == settings({})
    own = json.dumps({"base": "l4/8b", "name": "mine", "kv_tokens": 1000})
    profile = settings({"AIBRIX_MOCK_PROFILE": own}).profile
    assert (profile.name, profile.kv_tokens, profile.weights_ms) == ("mine", 1000, 67.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AIBRIX_MOCK_SPED", "1", "no variable of the mock engine"),
        ("AIBRIX_MOCK_SPEED", "0", "above 0"),
        ("AIBRIX_MOCK_SPEED", "fast", "could not convert"),
        ("AIBRIX_MOCK_PROFILE", "h100", "there are h100/8b"),
        ("AIBRIX_MOCK_PROFILE", '{"weight": 1}', "a profile has no weight"),
        ("AIBRIX_MOCK_ANSWER_TOKENS", "9-3", "write N or LOW-HIGH"),
    ],
)
def test_a_bad_environment(name: str, value: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        settings({name: value})
