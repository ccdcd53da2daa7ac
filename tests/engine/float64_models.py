"""Forward passes of a few families written out in numpy, every operation in float64.

A Hugging Face model in ``.double()`` still computes norms, rotary tables and softmax in float32; these share no line
with it. ``residuals(folder, ids)`` gives (D + 1, T, d), ``logits(folder, rows)`` the model's own read-out of rows.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Weights:
    config: dict[str, Any]
    tensors: dict[str, Array]

    def __call__(self, name: str) -> Array:
        return self.tensors[name]

    def linear(self, name: str, x: Array) -> Array:
        """x @ W.T + b as nn.Linear does."""
        out = x @ self(f"{name}.weight").T
        return out + self(f"{name}.bias") if f"{name}.bias" in self.tensors else out


@cache
def read(folder: Path) -> Weights:
    tensors = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}
    return Weights(json.loads((folder / "config.json").read_text()), tensors)


def residuals(folder: Path, ids: tuple[int, ...]) -> Array:
    weights = read(folder)
    blocks, embed = FORWARD[weights.config["model_type"]]
    hidden = embed(weights, np.array(ids))
    nodes = [hidden]
    for index in range(weights.config.get("num_hidden_layers") or weights.config["n_layer"]):
        hidden = blocks(weights, index, hidden)
        nodes.append(hidden)
    return np.stack(nodes)


def logits(folder: Path, rows: Array) -> Array:
    weights = read(folder)
    return READ_OUT[weights.config["model_type"]](weights, rows)


# --- parts ----------------------------------------------------------------------------------------------


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x: Array, weight: Array, bias: Array | float, eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def softmax(x: Array) -> Array:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def silu(x: Array) -> Array:
    return x / (1.0 + np.exp(-x))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def heads(x: Array, count: int) -> Array:
    """(T, count * h) -> (count, T, h)."""
    return x.reshape(x.shape[0], count, -1).transpose(1, 0, 2)


def rotate(x: Array, theta: float, *, interleaved: bool = False) -> Array:
    """Rotary positions on (heads, T, h): halves as Llama pairs them, neighbours as Cohere does."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    turned = (first * cos - second * sin, second * cos + first * sin)
    return np.stack(turned, -1).reshape(x.shape) if interleaved else np.concatenate(turned, -1)


def attend(
    q: Array, k: Array, v: Array, scale: float, *, softcap: float | None = None, window: int | None = None
) -> Array:
    """Causal attention of (heads, T, h) queries on (groups, T, h) keys -> (T, heads * h)."""
    repeat = q.shape[0] // k.shape[0]
    k, v = np.repeat(k, repeat, axis=0), np.repeat(v, repeat, axis=0)
    scores = q @ k.transpose(0, 2, 1) * scale
    if softcap is not None:
        scores = np.tanh(scores / softcap) * softcap
    where = np.arange(q.shape[1])
    hidden = where[None, :] > where[:, None]
    if window is not None:
        hidden |= where[None, :] <= where[:, None] - window
    mixed = softmax(np.where(hidden, -np.inf, scores)) @ v
    return mixed.transpose(1, 0, 2).reshape(q.shape[1], -1)


def projections(w: Weights, prefix: str, x: Array) -> tuple[Array, Array, Array]:
    groups = w.config["num_key_value_heads"]
    counts = (w.config["num_attention_heads"], groups, groups)
    q, k, v = (heads(w.linear(f"{prefix}.{name}_proj", x), n) for name, n in zip("qkv", counts, strict=True))
    return q, k, v


def gated(w: Weights, prefix: str, x: Array, activation: Callable[[Array], Array]) -> Array:
    return w.linear(
        f"{prefix}.down_proj", activation(w.linear(f"{prefix}.gate_proj", x)) * w.linear(f"{prefix}.up_proj", x)
    )


def theta(w: Weights) -> float:
    return float(w.config["rope_parameters"]["rope_theta"])


def embedded(w: Weights, ids: npt.NDArray[np.int64]) -> Array:
    return w("model.embed_tokens.weight")[ids]


# --- families -------------------------------------------------------------------------------------------


def llama_block(w: Weights, index: int, x: Array) -> Array:
    here, eps = f"model.layers.{index}", w.config["rms_norm_eps"]
    q, k, v = projections(w, f"{here}.self_attn", rms_norm(x, w(f"{here}.input_layernorm.weight"), eps))
    if f"{here}.self_attn.q_norm.weight" in w.tensors:  # qwen3 norms queries and keys head by head
        q, k = (rms_norm(part, w(f"{here}.self_attn.{n}_norm.weight"), eps) for part, n in ((q, "q"), (k, "k")))
    mixed = attend(rotate(q, theta(w)), rotate(k, theta(w)), v, q.shape[-1] ** -0.5)
    x = x + w.linear(f"{here}.self_attn.o_proj", mixed)
    return x + gated(w, f"{here}.mlp", rms_norm(x, w(f"{here}.post_attention_layernorm.weight"), eps), silu)


def llama_read_out(w: Weights, rows: Array) -> Array:
    head = w("lm_head.weight") if "lm_head.weight" in w.tensors else w("model.embed_tokens.weight")
    return rms_norm(rows, w("model.norm.weight"), w.config["rms_norm_eps"]) @ head.T


def gemma2_norm(w: Weights, name: str, x: Array) -> Array:
    return rms_norm(x, 1.0 + w(f"{name}.weight"), w.config["rms_norm_eps"])


def gemma2_block(w: Weights, index: int, x: Array) -> Array:
    here = f"model.layers.{index}"
    q, k, v = projections(w, f"{here}.self_attn", gemma2_norm(w, f"{here}.input_layernorm", x))
    mixed = attend(
        rotate(q, theta(w)),
        rotate(k, theta(w)),
        v,
        w.config["query_pre_attn_scalar"] ** -0.5,
        softcap=w.config["attn_logit_softcapping"],
        window=w.config["sliding_window"] if w.config["layer_types"][index] == "sliding_attention" else None,
    )
    out = w.linear(f"{here}.self_attn.o_proj", mixed)
    x = x + gemma2_norm(w, f"{here}.post_attention_layernorm", out)
    out = gated(w, f"{here}.mlp", gemma2_norm(w, f"{here}.pre_feedforward_layernorm", x), gelu_tanh)
    return x + gemma2_norm(w, f"{here}.post_feedforward_layernorm", out)


def gemma2_embedded(w: Weights, ids: npt.NDArray[np.int64]) -> Array:
    return embedded(w, ids) * w.config["hidden_size"] ** 0.5


def gemma2_read_out(w: Weights, rows: Array) -> Array:
    cap = w.config["final_logit_softcapping"]
    return np.tanh(gemma2_norm(w, "model.norm", rows) @ w("model.embed_tokens.weight").T / cap) * cap


def cohere_block(w: Weights, index: int, x: Array) -> Array:
    here = f"model.layers.{index}"
    normed = layer_norm(x, w(f"{here}.input_layernorm.weight"), 0.0, w.config["layer_norm_eps"])
    q, k, v = projections(w, f"{here}.self_attn", normed)
    q, k = (rotate(part, theta(w), interleaved=True) for part in (q, k))
    mixed = w.linear(f"{here}.self_attn.o_proj", attend(q, k, v, q.shape[-1] ** -0.5))
    return x + mixed + gated(w, f"{here}.mlp", normed, silu)


def cohere_read_out(w: Weights, rows: Array) -> Array:
    normed = layer_norm(rows, w("model.norm.weight"), 0.0, w.config["layer_norm_eps"])
    return normed @ w("model.embed_tokens.weight").T * w.config["logit_scale"]


def gpt2_norm(w: Weights, name: str, x: Array) -> Array:
    return layer_norm(x, w(f"{name}.weight"), w(f"{name}.bias"), w.config["layer_norm_epsilon"])


def gpt2_linear(w: Weights, name: str, x: Array) -> Array:
    return x @ w(f"{name}.weight") + w(f"{name}.bias")


def gpt2_block(w: Weights, index: int, x: Array) -> Array:
    here = f"transformer.h.{index}"
    parts = np.split(gpt2_linear(w, f"{here}.attn.c_attn", gpt2_norm(w, f"{here}.ln_1", x)), 3, axis=-1)
    q, k, v = (heads(part, w.config["n_head"]) for part in parts)
    x = x + gpt2_linear(w, f"{here}.attn.c_proj", attend(q, k, v, q.shape[-1] ** -0.5))
    inner = gelu_tanh(gpt2_linear(w, f"{here}.mlp.c_fc", gpt2_norm(w, f"{here}.ln_2", x)))
    return x + gpt2_linear(w, f"{here}.mlp.c_proj", inner)


def gpt2_embedded(w: Weights, ids: npt.NDArray[np.int64]) -> Array:
    return w("transformer.wte.weight")[ids] + w("transformer.wpe.weight")[: len(ids)]


def gpt2_read_out(w: Weights, rows: Array) -> Array:
    return gpt2_norm(w, "transformer.ln_f", rows) @ w("transformer.wte.weight").T


FORWARD: dict[str, tuple[Callable[[Weights, int, Array], Array], Callable[[Weights, npt.NDArray[np.int64]], Array]]] = {
    "llama": (llama_block, embedded),
    "qwen3": (llama_block, embedded),
    "gemma2": (gemma2_block, gemma2_embedded),
    "cohere": (cohere_block, embedded),
    "gpt2": (gpt2_block, gpt2_embedded),
}
READ_OUT: dict[str, Callable[[Weights, Array], Array]] = {
    "llama": llama_read_out,
    "qwen3": llama_read_out,
    "gemma2": gemma2_read_out,
    "cohere": cohere_read_out,
    "gpt2": gpt2_read_out,
}
