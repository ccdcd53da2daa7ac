"""``python -m devstack demo|serve|registry``: the embedded stack from the shell."""

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from devstack.demo import audit_bundled_pair
from devstack.mlflow import MlflowServer
from devstack.processes import StackError
from devstack.registry import settings_for, show_arrow
from devstack.stack import Stack, throwaway_folder
from spinal.errors import SpinalError

CHECKOUT = Path(__file__).resolve().parents[1]
BUNDLED = CHECKOUT / "examples" / "checkpoints"
MLFLOW = CHECKOUT / ".venv" / "servers" / "mlflow" / "bin" / "mlflow"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m devstack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="audit the bundled pair, print and write the result, stop")
    demo.add_argument("--keep", action="store_true", help="keep serving afterwards, until Ctrl-C")
    demo.add_argument("--report", type=Path, default=Path("reports/demo.html"), help="where the report goes")
    serve = commands.add_parser("serve", help="serve until Ctrl-C, keeping the state for the next time")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--state", type=Path, help="folder of databases and captures [.spinal of the checkout]")
    serve.add_argument("--models", type=Path, action="append", help="folder of checkpoints; may be repeated")
    registry = commands.add_parser("registry", help="have a version in a local mlflow server audited, and say so on it")
    registry.add_argument("--keep", action="store_true", help="keep both serving afterwards, until Ctrl-C")
    chosen = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt(stop))
    try:
        return {"demo": _demo, "serve": _serve, "registry": _registry}[chosen.command](chosen, console, stop)
    except SpinalError as error:
        console.print(f"error: {error.detail}\nnext: {error.hint}", markup=False)
        return 1
    except StackError as error:
        console.print(f"error: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130


def _interrupt(stop: threading.Event) -> Callable[..., None]:
    def handler(*_: object) -> None:
        if stop.is_set():
            return
        stop.set()
        raise KeyboardInterrupt

    return handler


def _demo(chosen: argparse.Namespace, console: Console, stop: threading.Event) -> int:
    if not (BUNDLED / "sft" / "model.safetensors").is_file():
        raise StackError(f"no bundled checkpoints in {BUNDLED}; run the demo from a checkout of the repository")
    report = chosen.report.absolute()
    with throwaway_folder() as folder, Stack(folder, durable=False, model_roots=(BUNDLED,)) as stack:
        stack.start(console.print)
        try:
            done = audit_bundled_pair(stack, report, console)
        except SpinalError:
            console.print(f"last lines of the worker's log:\n{stack.child('worker').tail()}", markup=False)
            raise
        if done and chosen.keep:
            _stay(stack, console, stop)
        return 0 if done else 1


def _registry(chosen: argparse.Namespace, console: Console, stop: threading.Event) -> int:
    with throwaway_folder() as folder, MlflowServer(MLFLOW, folder / "mlflow") as server:
        console.print("starting an mlflow server")
        server.start()
        own = folder / "registry"
        settings = settings_for(server, own)
        with Stack(folder / "stack", durable=False, model_roots=(BUNDLED,), settings=settings) as stack:
            stack.start(console.print)
            done = show_arrow(stack, server, own, BUNDLED / "sft", BUNDLED / "dpo-short", console)
            if done and chosen.keep:
                _stay(stack, console, stop)
    return 0 if done else 1


def _serve(chosen: argparse.Namespace, console: Console, stop: threading.Event) -> int:
    roots = tuple(folder.absolute() for folder in chosen.models or [BUNDLED])
    for root in roots:
        if not root.is_dir():
            raise StackError(f"--models {root} is not a folder")
    folder = (chosen.state or CHECKOUT / ".spinal").absolute()
    with Stack(folder, durable=True, model_roots=roots, port=chosen.port) as stack:
        stack.start(console.print)
        console.print(f"models below {', '.join(map(str, roots))} are named local:PATH; state and logs in {folder}")
        _stay(stack, console, stop)
    return 0


def _stay(stack: Stack, console: Console, stop: threading.Event) -> None:
    console.print(f"serving {stack.url} (docs at {stack.url}/docs), Ctrl-C stops\n", markup=False)
    console.print(f"export SPINAL_SERVER={stack.url} SPINAL_API_KEY={stack.api_key}", soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        stack.watch(stop.is_set, console.print)
    console.print("stopping")


if __name__ == "__main__":
    sys.exit(main())
