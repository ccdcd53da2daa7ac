"""No file of a checkpoint takes a thread or the memory of the service; each of these is one clear 422, in time."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.settings import Settings
from tests.api.conftest import clone
from tests.support.served import application
from tests.support.waiting import until

AT_MOST_S = 15.0
"""For one answer, on a machine whose cores do other things too. Without bounds these took minutes, or for ever."""
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "adapter_config.json",
         "model.safetensors.index.json", "adapter_model.safetensors")  # fmt: skip


@pytest.fixture(scope="module")
def entry() -> bytes:
    return b'"layers.%07d.w":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},'


def header(raw: bytes, data: int = 0) -> bytes:
    return len(raw).to_bytes(8, "little") + raw + bytes(data)


def submitted(api: TestClient, name: str) -> Any:
    began = time.monotonic()
    answer = api.post("/v1/audits", json={"candidate": f"local:{name}", "prompt_set": "hh-harmless-64"})
    assert time.monotonic() - began < AT_MOST_S, name
    return answer


def refused(api: TestClient, name: str) -> str:
    """The code with which a checkpoint is refused, by a service that goes on answering."""
    answer = submitted(api, name)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["hint"]
    assert problem["detail"].isprintable()
    assert len(problem["detail"]) < 400
    assert api.get("/livez").status_code == 200
    return str(problem["code"])


@pytest.mark.parametrize("file", FILES)
def test_a_pipe_in_place_of_a_file_takes_no_thread(api: TestClient, models: Path, file: str) -> None:
    folder = clone("sft", models / "pipe")
    if "adapter" in file or "index" in file:
        (folder / "model.safetensors").unlink()
    if file == "adapter_model.safetensors":
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "../sft"}')
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    # More than there are threads.
    codes = {refused(api, "pipe") for _ in range(45)}
    assert len(codes) == 1
    assert codes <= {"config_invalid", "tokenizer_invalid", "weights_corrupt", "adapter_invalid"}
    assert submitted(api, "sft").status_code == 202


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "adapter_config.json"])
def test_a_storm_of_requests_for_a_pipe_silences_nobody(
    api_settings: Settings, ledger: Ledger, models: Path, file: str
) -> None:
    folder = clone("sft", models / "pipe")
    if "adapter" in file:
        (folder / "model.safetensors").unlink()
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    with ledger.begin() as session:
        keys = [create_key(session, tenant=name, scopes=("read", "write"), pepper="p") for name in ("storms", "reads")]
    storms, reads = ({"Authorization": f"Bearer {key}"} for key in keys)
    settings = api_settings.model_copy(update={"auth": "required", "key_pepper": SecretStr("p")})
    body = {"candidate": "local:pipe", "prompt_set": "hh-harmless-64"}
    with TestClient(create_app(settings), raise_server_exceptions=False) as api, ThreadPoolExecutor(45) as pool:
        asked = [pool.submit(api.post, "/v1/audits", json=body, headers=storms) for _ in range(45)]
        looked = 0
        while not looked or not all(each.done() for each in asked):
            assert api.get("/livez").status_code == 200
            assert api.get("/v1/audits", headers=reads).status_code == 200
            looked += 1
        answers = [each.result() for each in asked]
        # Not one waits for ever; who found no child in time is told to come again.
        assert {answer.status_code for answer in answers} <= {422, 503}
        assert 422 in {answer.status_code for answer in answers}
        shared = application(api).state
        until(lambda: not shared.inspecting.borrowed_tokens, "the places of those who submit")
        until(lambda: not shared.turns.borrowed_tokens, "the turns")
        assert shared.inspectors.working() == 0
        again = api.post("/v1/audits", json=body | {"candidate": "local:sft"}, headers=storms)
        assert again.status_code == 202


def endless(folder: Path, file: str) -> None:
    (folder / file).unlink(missing_ok=True)
    (folder / file).symlink_to("/dev/zero")


def huge(folder: Path, file: str) -> None:
    with (folder / file).open("ab") as stream:
        stream.truncate(1 << 40)


@pytest.mark.parametrize("make", [endless, huge])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_file_without_end_is_not_read_to_its_end(
    api: TestClient, models: Path, make: Callable[[Path, str], None], file: str
) -> None:
    make(clone("sft", models / "endless"), file)
    assert refused(api, "endless") in ("config_invalid", "tokenizer_invalid", "weights_corrupt", "model_path_refused")


CONFIGS: list[dict[str, Any]] = [
    {"num_hidden_layers": 2**70}, {"num_hidden_layers": 10**9}, {"num_hidden_layers": 25}, {"hidden_size": 10**9},
    {"vocab_size": 2**40}, {"vocab_size": 10**6}, {"num_attention_heads": 10**12}, {"max_position_embeddings": 10**18},
    {"architectures": {"0": "LlamaForCausalLM"}}, {"num_key_value_heads": 0},
]  # fmt: skip


@pytest.mark.parametrize("members", CONFIGS, ids=str)
def test_a_configuration_of_absurd_size_is_refused_before_anything_is_built(
    api: TestClient, models: Path, members: dict[str, Any]
) -> None:
    config = json.loads((models / "sft" / "config.json").read_text()) | members
    clone("sft", models / "absurd", config__json=json.dumps(config))
    assert refused(api, "absurd") == "config_invalid"


def added(models: Path, count: int) -> bytes:
    tokenizer = json.loads((models / "sft" / "tokenizer.json").read_text())
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] = [{"id": 9000 + n, "content": f"<{n}>"} | token for n in range(count)]
    return json.dumps(tokenizer).encode()


def test_a_tokenizer_with_hundreds_of_thousands_of_added_tokens_is_refused(api: TestClient, models: Path) -> None:
    clone("sft", models / "added", tokenizer__json=added(models, 250_000))
    assert refused(api, "added") == "tokenizer_invalid"


def test_a_tokenizer_of_a_hundred_megabytes_is_refused_unread(api: TestClient, models: Path) -> None:
    raw = (models / "sft" / "tokenizer.json").read_bytes()
    clone("sft", models / "added", tokenizer__json=raw[:-1] + b" " * 100_000_000 + raw[-1:])
    assert refused(api, "added") == "tokenizer_invalid"


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "a million tensors": lambda entry: header(b"{" + b"".join(entry % n for n in range(1_000_000))[:-1] + b"}"),
    "700,000 tensors": lambda entry: header(b"{" + b"".join(entry % n for n in range(700_000))[:-1] + b"}"),
    "600 dimensions of 4,200 digits": lambda _: header(
        b'{"w":{"dtype":"F32","shape":[' + b",".join([b"9" * 4200] * 600) + b'],"data_offsets":[0,4]}}', 4
    ),
    "3,000 dimensions": lambda _: header(
        b'{"w":{"dtype":"F32","shape":[' + b",".join([b"9" * 90] * 3000) + b'],"data_offsets":[0,4]}}', 4
    ),
    "brackets": lambda _: header(b"[" * 40_000_000),
    "a length beyond the file": lambda _: (1 << 62).to_bytes(8, "little"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_without_bounds_is_refused_within_bounds(
    api: TestClient, models: Path, name: str, entry: bytes
) -> None:
    clone("sft", models / "header", model__safetensors=HEADERS[name](entry))
    assert refused(api, "header") == "weights_corrupt"


def test_files_that_are_not_part_of_a_checkpoint_cost_nothing(api: TestClient, models: Path) -> None:
    folder = clone("sft", models / "crowded")
    for number in range(20_000):
        (folder / f"optimizer-{number}.safetensors").touch()
    assert submitted(api, "crowded").status_code == 202

    def cost() -> float:
        began = time.monotonic()
        assert submitted(api, "crowded").status_code == 202
        return time.monotonic() - began

    # The best of ten, as other processes share the two cores; each request once cost 0.44 s of computing.
    assert min(cost() for _ in range(10)) < 0.2


def test_a_cycle_of_adapters_is_refused(api: TestClient, models: Path) -> None:
    for name, base in (("a", "../b"), ("b", "../a"), ("own", "../own")):
        folder = clone("sft", models / name)
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    assert {refused(api, name) for name in ("a", "b", "own")} == {"adapter_invalid"}


# children that do not come back


@pytest.fixture
def hasty(api_settings: Settings) -> Iterator[TestClient]:
    """A service whose inspections may take a few seconds, on a machine that does other things too."""
    settings = api_settings.model_copy(update={"inspect_seconds": 4, "inspect_children": 2})
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def test_a_tokenizer_that_makes_text_longer_without_bounds_is_refused(hasty: TestClient, models: Path) -> None:
    tokenizer = json.loads((models / "sft" / "tokenizer.json").read_text())
    tenfold = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [tenfold] * 11}
    clone("sft", models / "longer", tokenizer__json=json.dumps(tokenizer))
    assert refused(hasty, "longer") == "inspection_exceeded"


def test_a_mount_that_hangs_costs_a_request_its_time_and_nobody_else_anything(hasty: TestClient) -> None:
    assert submitted(hasty, "sft").status_code == 202
    inspectors = application(hasty).state.inspectors
    hanging = inspectors._idle[-1]._process.pid
    os.kill(hanging, signal.SIGSTOP)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(submitted(hasty, "sft")))
    asking.start()
    until(
        lambda: all(child._process.pid != hanging for child in inspectors._idle), "the question to the one that hangs"
    )
    assert hasty.get("/livez").status_code == 200
    assert submitted(hasty, "dpo-short").status_code == 202
    asking.join(AT_MOST_S)
    assert (answers[0].status_code, answers[0].json()["code"]) == (422, "inspection_exceeded")
    assert submitted(hasty, "sft").status_code == 202


def test_when_all_children_hang_requests_are_told_to_come_again_and_then_served(hasty: TestClient) -> None:
    inspectors = application(hasty).state.inspectors
    taken = [inspectors._take() for _ in range(2)]
    for _ in taken:
        inspectors._turns.acquire()
    assert hasty.get("/livez").status_code == 200
    answer = submitted(hasty, "sft")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert "Retry-After" in answer.headers
    for child in taken:
        inspectors._put_back(child)
        inspectors._turns.release()
    assert submitted(hasty, "sft").status_code == 202


def test_submissions_that_wait_for_a_child_leave_turns_to_those_who_read(hasty: TestClient) -> None:
    shared = application(hasty).state
    for _ in range(2):
        # Hung, for all that anybody can see.
        shared.inspectors._turns.acquire()
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(submitted, hasty, "sft") for _ in range(20)]
        until(lambda: shared.inspecting.available_tokens == 0, "submissions in every place that they can have")
        answers = [hasty.get("/v1/audits").status_code for _ in range(5)]
        assert hasty.get("/livez").status_code == 200
        assert answers == [200] * 5
        assert {each.result().json()["code"] for each in asked} == {"not_ready"}
    for _ in range(2):
        shared.inspectors._turns.release()
    assert shared.inspecting.borrowed_tokens == shared.turns.borrowed_tokens == 0
    assert submitted(hasty, "sft").status_code == 202


def test_a_registration_is_bounded_as_an_audit_is(api: TestClient, models: Path) -> None:
    folder = clone("sft", models / "pipe", config__json=None)
    os.mkfifo(folder / "config.json")
    answer = api.post("/v1/models", json={"name": "pipe", "reference": "local:pipe"})
    assert (answer.status_code, answer.json()["code"]) == (422, "config_invalid")
