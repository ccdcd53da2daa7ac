"""Tiny seeded checkpoints of many architectures: real model code, random weights, the bundled tokenizer."""

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.conftest import EXAMPLES

VOCABULARY = 2080
"""More rows than the tokenizer has ids, as padded vocabularies have."""
BLOCKS = 3
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GQA: dict[str, Any] = COMMON | {"num_key_value_heads": 2, "intermediate_size": 96}
HEAD: dict[str, Any] = GQA | {"head_dim": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", GQA),
    "llama-tied": ("llama", GQA | {"tie_word_embeddings": True}),
    "mistral": ("mistral", HEAD | {"sliding_window": 8}),
    "mixtral": ("mixtral", GQA | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", GQA),
    "qwen3": ("qwen3", HEAD),
    "gemma2": ("gemma2", HEAD | {"final_logit_softcapping": 5.0, "sliding_window": 8, "query_pre_attn_scalar": 16}),
    "gemma3": ("gemma3_text", HEAD | {"sliding_window": 8, "query_pre_attn_scalar": 16}),
    "phi": ("phi", COMMON | {"intermediate_size": 96}),
    "phi3": ("phi3", GQA),
    "gpt2": ("gpt2", {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": BLOCKS, "n_head": 4, "n_positions": 128}),
    "gpt_neox": ("gpt_neox", COMMON | {"intermediate_size": 96}),
    "opt": ("opt", COMMON | {"ffn_dim": 96}),
    "opt-projected": ("opt", COMMON | {"ffn_dim": 96, "word_embed_proj_dim": 32}),
    "bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": BLOCKS, "n_head": 4}),
    "falcon": ("falcon", COMMON | {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True}),
    "mpt": ("mpt", {"vocab_size": VOCABULARY, "d_model": 64, "n_layers": BLOCKS, "n_heads": 4, "max_seq_len": 128}),
    "olmo2": ("olmo2", GQA),
    "cohere": ("cohere", GQA | {"logit_scale": 0.25}),
    "granite": ("granite", GQA | {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0}),
    "stablelm": ("stablelm", GQA),
    "starcoder2": ("starcoder2", GQA),
    "gpt_oss": ("gpt_oss", HEAD | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}),
    "deepseek_v3": (
        "deepseek_v3",
        GQA
        | {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
        },
    ),
    "mamba": ("mamba", {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": BLOCKS, "state_size": 4}),
}


def build(family: str, folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write a checkpoint of ``family`` with weights large enough for every block to matter."""
    model_type, members = FAMILIES[family]
    config = transformers.AutoConfig.for_model(model_type, **members)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 0.08)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.02)
    model.to(dtype).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(EXAMPLES / "checkpoints" / "sft" / file, folder / file)
    return folder
