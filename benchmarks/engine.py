"""How fast is the engine, and how much memory does it take? ``python -m benchmarks.engine [--shape NAME]``.

Random models of real shapes, random token ids, everything timed in one process, the ways taking turns so that a slow
minute hits all of them; what is printed is the median ratio. Compared are

- the textbook way: ``output_hidden_states``, a float32 log-softmax over the whole vocabulary of two adjacent layers at
  every position needed, arccos of the overlap, ``numpy.linalg.svd`` of the centred rows;
- the floor: one forward pass without the head, one product with the unembedding per node and position read, and
  the Gram matrices with their eigenvalues, all results thrown away.

Memory is the growth of the peak resident set over the loaded model, in a process of its own for every case.
"""

import argparse
import ctypes
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import transformers
from safetensors import safe_open

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.canonical import digest_of
from spinal.engine.anatomy import Anatomy, find_anatomy
from spinal.engine.contraction import node_spectrum, split_prompts
from spinal.engine.gather import RowGatherer
from spinal.engine.load import LoadedModel
from spinal.engine.measure import measure, walk
from spinal.engine.reporter import Reporter
from spinal.engine.session import Session, Setup
from spinal.engine.tokens import GatheredRows, Tokens, lens_rows, make_batches
from spinal.engine.transport import TOKEN_BLOCK, VOCABULARY_BLOCK, Readout, read_lens
from spinal.engine.walk import node_residuals, prepare
from spinal.profile import MeasurementProfile
from spinal.progress import ignore_progress, never_cancelled
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Shape:
    """A model's shape and the prompts it is given."""

    family: str
    hidden: int
    blocks: int
    heads: int
    vocabulary: int
    prompts: int
    tokens: int


SHAPES = {
    "tiny": Shape("llama", 256, 6, 4, 8192, 16, 48),
    "gpt2-small": Shape("gpt2", 768, 12, 12, 50257, 12, 192),
    "qwen2.5-0.5b": Shape("qwen2", 896, 24, 14, 151936, 4, 128),
}


def build(shape: Shape, device: str, dtype: torch.dtype) -> tuple[LoadedModel, Anatomy]:
    """A random model of that shape, as the loader would hand it over."""
    if shape.family == "gpt2":
        config: transformers.PreTrainedConfig = transformers.GPT2Config(
            vocab_size=shape.vocabulary, n_embd=shape.hidden, n_layer=shape.blocks, n_head=shape.heads
        )
    else:
        config = transformers.AutoConfig.for_model(
            shape.family, vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.blocks,
            num_attention_heads=shape.heads, num_key_value_heads=max(1, shape.heads // 7), tie_word_embeddings=True,
            intermediate_size=shape.hidden * 5, max_position_embeddings=2048,
        )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype=dtype, device=device)
    model.eval().requires_grad_(False)
    checkpoint = Checkpoint(ROOT, "local:random", {})
    loaded = LoadedModel(checkpoint, model, None, torch.device(device))  # type: ignore[arg-type]  # the ids are drawn
    return loaded, find_anatomy(model, shape.blocks, "random")


def random_tokens(shape: Shape) -> Tokens:
    generator = np.random.default_rng(0)
    lengths = generator.integers(shape.tokens // 2, shape.tokens + 1, shape.prompts)
    return Tokens(tuple(tuple(generator.integers(5, shape.vocabulary, n).tolist()) for n in lengths), 0)


class Case:
    """One shape under one profile: the three ways of doing the same work."""

    def __init__(self, shape: Shape, positions: int | Literal["full"], device: str, dtype: torch.dtype) -> None:
        self.shape = shape
        self.loaded, self.anatomy = build(shape, device, dtype)
        self.readout = Readout(self.anatomy, shape.vocabulary)
        self.tokens = random_tokens(shape)
        self.gathered = lens_rows(self.tokens.ids, positions)
        self.profile = MeasurementProfile(name="spinal/1", lens_positions=positions, batch_size=8, max_tokens=2048)
        self.device = torch.device(device)

    def at(self, positions: int | Literal["full"]) -> "Case":
        """The same model and prompts with other lens positions."""
        other = object.__new__(Case)
        other.__dict__ = self.__dict__ | {
            "gathered": lens_rows(self.tokens.ids, positions),
            "profile": self.profile.model_copy(update={"lens_positions": positions}),
        }
        return other

    def at_last(self) -> "Case":
        """The same model and prompts with the last position alone."""
        other = self.at(1)
        rows, last = other.gathered, other.gathered.is_last
        kept = GatheredRows(rows.prompt[last], rows.position[last], rows.is_last[last], rows.in_all[last])
        other.__dict__["gathered"] = kept
        return other

    def steps(self) -> list[tuple[int, int]]:
        return [(node, node + 1) for node in range(self.shape.blocks)]

    def walk_only(self) -> torch.Tensor:
        """Forward pass, gathered rows and spectra with intervals, no lens."""
        reporter = Reporter(ignore_progress, never_cancelled)
        prompts = PromptSet(("random",), (None,))
        setup = Setup(prompts, self.profile, self.profile.batch_size, str(self.device), False, reporter)
        return walk(Session(setup, self.loaded, self.readout, self.tokens, self.gathered)).rows

    def lens_only(self, rows: torch.Tensor) -> None:
        read_lens([(self.readout, rows)], self.steps())

    def last_token_trace(self) -> None:
        """What policy ``last`` alone costs: the walk, its spectra with intervals, its lens."""
        prepared = prepare(self.anatomy, make_batches(self.tokens.ids, 8, self.device), "random")
        nodes, prompts = self.shape.blocks + 1, len(self.tokens.ids)
        kept = RowGatherer(prepared, self.gathered, nodes)
        split = split_prompts(prompts, self.profile.jackknife_groups)
        for node, hidden in enumerate(node_residuals(self.anatomy, prepared)):
            kept.add(node, hidden, "random")
            node_spectrum(kept.rows[node, kept.last], kept.last_prompt, prompts, split, self.profile)
        self.lens_only(kept.rows)

    def ours(self) -> None:
        self.lens_only(self.walk_only())

    def forward(self) -> None:
        for batch in make_batches(self.tokens.ids, self.profile.batch_size, self.device):
            self.anatomy.core(input_ids=batch.input_ids, use_cache=False)

    def products(self, rows: torch.Tensor) -> None:
        """The bare unembedding products of the lens, in the same blocks, results thrown away."""
        count, width = rows.shape[1:]
        weight = self.anatomy.head_weight
        for start in range(0, count, TOKEN_BLOCK):
            normed = self.readout.normed(rows[:, start : start + TOKEN_BLOCK].reshape(-1, width))
            for v in range(0, self.shape.vocabulary, VOCABULARY_BLOCK):
                torch.nn.functional.linear(normed, weight[v : v + VOCABULARY_BLOCK].float())

    def floor(self, rows: torch.Tensor, pooled: torch.Tensor) -> None:
        self.forward()
        self.products(rows)
        for _ in range(rows.shape[0]):
            centred = pooled.double() - pooled.double().mean(0)
            small = centred.T @ centred if centred.shape[0] > centred.shape[1] else centred @ centred.T
            torch.linalg.eigvalsh(small)

    def hidden_states(self) -> list[torch.Tensor]:
        """(D + 1, n, d) residuals of every prompt's positions but the first, as the textbook takes them."""
        found = []
        for ids in self.tokens.ids:
            batch = torch.tensor([ids], device=self.device)
            states = self.anatomy.core(input_ids=batch, use_cache=False, output_hidden_states=True).hidden_states
            found.append(torch.stack([state[0, 1:] for state in states]))
        return found

    def textbook_lens(self, states: list[torch.Tensor], *, entropy: bool = False) -> None:
        """Sliding window over the layers: two full log-softmaxes are held at a time."""
        for rows in states:
            before = None
            for node in rows:
                logits = self.readout.logits(self.readout.normed(node), 0, self.shape.vocabulary)
                logp = torch.log_softmax(logits, dim=-1)
                if entropy:
                    (logp.exp() * logp).sum(-1)
                if before is not None:
                    overlap = (0.5 * (before + logp)).exp().sum(-1)
                    torch.arccos(overlap.clamp(max=1.0))
                before = logp

    def textbook(self) -> None:
        states = self.hidden_states()
        self.textbook_lens(states, entropy=True)
        pooled = torch.cat(states, dim=1).float().cpu().numpy()
        for node in pooled:
            np.linalg.svd(node - node.mean(axis=0), compute_uv=False)


def ratios(ways: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds per way, the ways taking turns."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            with torch.inference_mode():
                way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                took[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in took.items()}


def row(what: str, figure: float, bar: str, met: bool | None) -> None:
    mark = "" if met is None else ("met" if met else "MISSED")
    print(f"  {what:66} {figure:7.2f}  {bar:10} {mark}", flush=True)


def speed(shape: Shape, rounds: int, device: str, dtype: torch.dtype) -> None:
    case = Case(shape, "full", device, dtype)
    with torch.inference_mode():
        full = case.walk_only()
        states = case.hidden_states()
    last, sixteen = case.at_last(), case.at(16)
    with torch.inference_mode():
        last_rows, sixteen_rows = last.walk_only(), sixteen.walk_only()
        pooled = torch.cat(states, dim=1)[-1]
    count = {"full": full.shape[1], "16": sixteen_rows.shape[1], "last": last_rows.shape[1]}
    print(
        f"  rows read {count}, pooled rows n = {pooled.shape[0]} (n/d = {pooled.shape[0] / shape.hidden:.2f}), "
        f"V = {shape.vocabulary}, D = {shape.blocks}, d = {shape.hidden}, {str(dtype).removeprefix('torch.')}, "
        f"threads {torch.get_num_threads()}, device {device}"
    )
    t = ratios(
        {
            "ours, all": lambda: case.lens_only(full),
            "textbook, all": lambda: case.textbook_lens(states),
            "textbook, all, entropy": lambda: case.textbook_lens(states, entropy=True),
            "products, all": lambda: case.products(full),
            "ours, last": lambda: last.lens_only(last_rows),
            "textbook, last": lambda: case.textbook_lens([state[:, -1:] for state in states]),
            "trace, 16": sixteen.ours,
            "trace, last": last.last_token_trace,
            "floor, 16": lambda: sixteen.floor(sixteen_rows, pooled),
            "forward": case.forward,
            "textbook, whole": case.textbook,
        },
        rounds,
        torch.device(device),
    )
    wide = shape.hidden >= 768
    of = t["textbook, all"] / t["ours, all"]
    row("lens at all positions: textbook / ours (ours gives entropy too)", of, ">= 2.0", of >= 2.0 if wide else None)
    of = t["textbook, all, entropy"] / t["ours, all"]
    row("lens at all positions, with entropy: textbook / ours", of, ">= 2.3", of >= 2.3 if wide else None)
    of = t["ours, all"] / t["products, all"]
    row("lens at all positions: ours / its bare products", of, "<= 1.30", of <= (1.30 if wide else 1.35))
    of = t["textbook, last"] / t["ours, last"]
    row("lens at the last position: textbook / ours", of, ">= 7", of >= 7.0 if wide else None)
    of = t["trace, last"] / t["forward"]
    row("trace of the last position alone: ours / bare forward", of, "<= 1.3", of <= 1.3 if wide else None)
    of = t["textbook, whole"] / t["trace, 16"]
    row("whole trace, 16 positions: textbook at all positions / ours", of, ">= 6", of >= 6.0 if wide else None)
    of = t["trace, 16"] / t["floor, 16"]
    row("whole trace, 16 positions: ours / floor", of, "", None)
    print("  seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in t.items()))


def spectra(rounds: int) -> None:
    """One node at d = 768, n = 8 d with intervals, on one thread of both libraries (a process of its own)."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    arguments = [sys.executable, "-m", "benchmarks.engine", "--spectra", str(rounds)]
    subprocess.run(arguments, check=True, cwd=ROOT, env=environment)


def one_node(rounds: int) -> None:
    """The child of :func:`spectra`."""
    width, prompts = 768, 128
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8 * width, width, generator=generator) * torch.arange(1, width + 1) ** -0.7
    prompt = torch.arange(8 * width) % prompts
    split, profile = split_prompts(prompts, 16), MeasurementProfile(name="spinal/1")
    array = rows.numpy().astype(np.float64)

    def ours() -> None:
        node_spectrum(rows, prompt, prompts, split, profile)

    def numpy() -> None:
        np.linalg.svd(array - array.mean(axis=0), compute_uv=False)

    t = ratios({"ours": ours, "numpy": numpy}, rounds, torch.device("cpu"))
    of = t["numpy"] / t["ours"]
    row("a node's spectrum with intervals, d = 768, n = 8d: numpy svd / ours", of, ">= 8", of >= 8.0)
    print(f"  seconds: ours {t['ours']:.2f}, numpy.linalg.svd, values alone {t['numpy']:.2f}")


# --- memory ---------------------------------------------------------------------------------------------


RETURN_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
"""Has glibc return freed tensors to the system at once, so that the resident set is what is held, not what is kept."""


def peak_growth(shape: Shape, way: str) -> float:
    """MB by which the peak resident set grows over the loaded model, in a fresh process."""
    arguments = [sys.executable, "-m", "benchmarks.engine", "--grow", way, *map(str, shape.__dict__.values())]
    environment = os.environ | RETURN_AT_ONCE
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    return float(done.stdout.split()[-1])


def grow(way: str, values: list[str]) -> None:
    """The child of :func:`peak_growth`."""
    shape = Shape(values[0], *(int(value) for value in values[1:]))
    case = Case(shape, 16, "cpu", torch.float32)
    small = Case(SHAPES["tiny"], 16, "cpu", torch.float32)
    with torch.inference_mode():
        # Code and tables that the libraries load on first use are not the measurement's.
        small.ours()
        small.textbook()
        case.forward()
    del small
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is not the model
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = status("VmRSS")
    with torch.inference_mode():
        case.ours() if way == "ours" else case.textbook()
    kept = case.gathered.prompt.size * (shape.blocks + 1) * shape.hidden * 4 / 2**20
    print(status("VmHWM") - before - (kept if way == "ours" else 0.0))


def status(field: str) -> float:
    """MB of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


def memory(shape: Shape) -> None:
    shape = replace(shape, prompts=8, tokens=64)
    base = peak_growth(shape, "ours")
    row("peak over the loaded model, less the kept rows: ours, MB", base, "<= 64", base <= 64)
    row("the same, the textbook way, MB", peak_growth(shape, "textbook"), "", None)
    wide = peak_growth(replace(shape, vocabulary=4 * shape.vocabulary), "ours")
    row("the same, four times the vocabulary: ours / ours", wide / base, "<= 1.1", wide <= 1.1 * base)
    long = peak_growth(replace(shape, tokens=4 * shape.tokens, prompts=shape.prompts // 4), "ours")
    row("the same, four times the prompt length: ours / ours", long / base, "<= 1.1", long <= 1.1 * base)


# --- weights larger than memory -------------------------------------------------------------------------


def streaming(shape: Shape) -> None:
    """A checkpoint on disk measured whole and with its blocks read one at a time, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="spinal-engine-") as temporary:
        folder = Path(temporary) / "model"
        loaded, anatomy = build(shape, "cpu", torch.float32)
        loaded.model.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(ROOT / "examples" / "checkpoints" / "sft" / name, folder / name)
        block = sum(p.numel() for p in anatomy.blocks[0].parameters()) * 4 / 2**20
        embedding = anatomy.head_weight.numel() * 4 / 2**20
        whole, streamed = (measured(folder, how, {}) for how in ("whole", "stream"))
        peaks = [measured(folder, how, RETURN_AT_ONCE)[1] for how in ("whole", "stream")]
    row("streamed and whole trace: digest of all results equal", float(whole[2] == streamed[2]), "= 1",
        whole[2] == streamed[2])  # fmt: skip
    row("CPU time: streamed / whole", streamed[0] / whole[0], "<= 1.15", streamed[0] <= 1.15 * whole[0])
    row("peak over the bare process, whole, MB", peaks[0], "", None)
    limit = max(embedding, 2 * block) + 64.0 + KEPT_ROWS * (shape.blocks + 1) * shape.hidden * 4 / 2**20
    row("the same, streamed, MB", peaks[1], f"<= {limit:.0f}", peaks[1] <= limit)


KEPT_ROWS = 64 * 17
"""Upper bound of the rows kept of 64 prompts at 16 positions and the last."""


def measured(folder: Path, how: str, extra: dict[str, str]) -> tuple[float, float, str]:
    """CPU seconds, MB, and a digest of trace and capture."""
    arguments = [sys.executable, "-m", "benchmarks.engine", "--measure", how, str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | extra)
    seconds, megabytes, digest = done.stdout.split()[-3:]
    return float(seconds), float(megabytes), digest


def measure_once(how: str, folder: Path) -> None:
    """The child of :func:`measured`."""
    prompts, profile = (
        builtin_prompts("hh-harmless-64"),
        MeasurementProfile(name="spinal/1", max_tokens=64, batch_size=8),
    )
    capture = folder / f"{how}.capture"
    # Once on a small checkpoint: what torch and transformers load on first use is not the model's.
    small = resolve_reference(str(ROOT / "examples" / "checkpoints" / "sft"), roots=None)
    measure(small, prompts, profile, capture_path=capture)
    checkpoint = resolve_reference(str(folder), roots=None)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, started = status("VmRSS"), time.process_time()
    trace = measure(checkpoint, prompts, profile, capture_path=capture, stream=how == "stream")
    took, peak = time.process_time() - started, status("VmHWM") - before
    hasher = hashlib.sha256(digest_of(trace.model_dump(mode="json", exclude={"provenance"})).encode())
    with safe_open(capture, framework="numpy") as file:
        for name in sorted(file.keys()):
            hasher.update(file.get_tensor(name).tobytes())
    print(took, peak, hasher.hexdigest())


def main() -> int:
    if "--measure" in sys.argv:
        measure_once(sys.argv[-2], Path(sys.argv[-1]))
        return 0
    if "--grow" in sys.argv:
        at = sys.argv.index("--grow")
        grow(sys.argv[at + 1], sys.argv[at + 2 :])
        return 0
    if "--spectra" in sys.argv:
        one_node(int(sys.argv[-1]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="gpt2-small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--only", choices=["speed", "spectra", "memory", "stream"])
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {name}")
    for shape in SHAPES if options.shape == "all" else [options.shape]:
        print(shape)
        if options.only in (None, "speed"):
            speed(SHAPES[shape], options.rounds, options.device, dtype)
        if options.only in (None, "memory") and options.device == "cpu":
            memory(SHAPES[shape])
        if options.only in (None, "stream") and options.device == "cpu":
            streaming(SHAPES[shape])
    if options.only in (None, "spectra"):
        spectra(options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
