"""Run a whole stack in the folder named first, audit with an engine double, print as JSON what was seen. A program
of its own: tests run it as another user, with another umask and other variables."""

import json
import os
import sys
from pathlib import Path

import httpx

from devstack.stack import Stack
from spinal.client import Client

MODELS = Path(__file__).resolve().parents[2] / "examples" / "checkpoints"


def main() -> None:
    folder = Path(sys.argv[1])
    double = folder / "double"
    double.mkdir(parents=True)
    engine = {"SPINAL_ENGINE": "tests.support.engine_double", "SPINAL_DOUBLE_DIR": str(double)}
    said: list[str] = []
    with Stack(folder, durable=True, model_roots=(MODELS,), concurrency=1, settings=engine) as stack:
        stack.start(said.append)
        with Client(stack.url, stack.api_key) as client:
            audit = client.submit("local:dpo-short", "local:sft", prompt_set="hh-harmless-64")
            ended = client.wait(audit["id"], timeout=120, every=1.0)
        metrics = httpx.get(f"http://127.0.0.1:{os.environ['SPINAL_METRICS_PORT']}/metrics").text
    print(json.dumps({"said": said, "state": ended["state"], "metrics": metrics}))


main()
