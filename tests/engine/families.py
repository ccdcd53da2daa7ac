"""Tables of architectures for the battery: model types of transformers, and small sizes for them.

``FAMILIES`` are measured in every way. ``KINDS`` stand for what else blocks do: they return pairs or lists, differ from
one another, scale in front of the head. ``MORE`` are all the other causal families that transformers has and that have
a depth trace; ``TOWERS`` the multimodal ones. ``REFUSED`` says of the rest why they have none.
"""

from typing import Any

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


SIZES: dict[str, Any] = HEAD | {
    "n_embd": 64, "d_model": 64, "dim_model": 64, "emb_dim": 64, "embedding_size": 64, "word_embed_proj_dim": 64,
    "lru_width": 64, "n_layer": BLOCKS, "n_layers": BLOCKS, "num_layers": BLOCKS, "num_blocks": BLOCKS,
    "decoder_layers": BLOCKS, "num_decoder_layers": BLOCKS, "encoder_layers": 2, "n_head": 4, "n_heads": 4,
    "num_heads": 4, "decoder_attention_heads": 4, "encoder_attention_heads": 4, "n_positions": 128, "n_ctx": 128,
    "max_seq_len": 128, "n_words": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8, "decoder_ffn_dim": 96, "encoder_ffn_dim": 96, "ffn_dim": 96,
    "ffn_hidden_size": 96, "intermediate_size_mlp": 96, "dff": 96, "num_local_experts": 4, "num_experts": 4,
    "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "shared_intermediate_size": 32,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "qk_head_dim": 16, "v_head_dim": 16, "index_n_heads": 2,
    "index_head_dim": 16, "index_topk": 8, "sliding_window": 16, "attention_window_size": 16,
    "query_pre_attn_scalar": 16, "rotary_dim": 8, "chunk_size": 8, "conv1d_width": 4, "state_size": 4,
    "conv_kernel": 4, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 8, "mamba_n_groups": 1,
    "mamba_expand": 2, "mamba_d_ssm": 64, "mamba_num_heads": 4, "mamba_head_dim": 16, "mamba_headdim": 16,
    "mamba_ngroups": 1, "ssm_state_size": 8, "n_groups": 1, "mamba_dt_rank": 4, "time_step_rank": 4,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
"""Small values of whatever a configuration calls so."""
SEEING: dict[str, Any] = {
    "hidden_size": 32, "embed_dim": 32, "intermediate_size": 48, "num_hidden_layers": 2, "depth": 2,
    "num_attention_heads": 2, "num_heads": 2, "image_size": 28, "patch_size": 14, "out_hidden_size": 64,
    "projection_dim": 64,
}  # fmt: skip
"""The same for parts that see or hear."""
LATENT: dict[str, Any] = {"num_key_value_heads": 4, "head_dim": ...}
"""Attention through a latent: the rotary part has a width of its own. ``...`` leaves a member at its default."""
KINDS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "xlstm": {},
    "openai-gpt": {},
    "rwkv": {},
    "bart": {},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "mlp"]},
    "minicpm3": {},
    "qwen3_next": {},
    "recurrent_gemma": {},
    "bert": {"is_decoder": True},
}
"""The families whose blocks do something that none of ``FAMILIES`` does."""
AS_SIZED = """
    afmoe apertus arcee aria_text bailing_hybrid beam bigbird_pegasus biogpt bitnet blenderbot
    blenderbot-small codegen cohere2 cohere2_moe ctrl cwm deepseek_v2 diffllama doge ernie4_5 ernie4_5_moe
    exaone4 exaone_moe falcon_mamba flex_olmo flint gemma gemma4_text gemma4_unified_text glm glm4 glm4_moe
    glm4_moe_lite gpt_bigcode gpt_neox_japanese gptj granite_swa granitemoe granitemoe_swa granitemoehybrid
    granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax inkling_text jais2 jamba jetmoe
    kolibri1 laguna lfm2 lfm3 llama4_text marian mbart mellum mimo_v2_flash minimax minimax_m2
    minimax_m3_vl_text ministral ministral3 modernbert-decoder mvp nanochat nemotron olmo olmo3 olmo_hybrid
    olmoe pegasus persimmon phimoe plbart qwen2_moe qwen3_5_moe_text qwen3_5_text qwen3_moe seed_oss smollm3
    solar_open trocr vaultgemma whisper xglm mistral4
    gemma4 gemma4_unified
"""
MORE: dict[str, dict[str, Any]] = {
    **{name: {} for name in AS_SIZED.split()},
    "axk1": LATENT,
    "axk2": LATENT,
    "deepseek_v32": LATENT,
    "falcon_h1": {"mamba_d_head": 16},
    "glm_moe_dsa": LATENT,
    "gpt_neo": {"attention_types": [[["global", "local", "local"], 1]], "window_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "youtu": LATENT,
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba"], "layer_types": ["mamba", "hybrid", "mamba"]},
}  # fmt: skip
MROPE: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
TOWERS_AS_SIZED = """
    gemma3 mistral3 llama4 llava idefics3 smolvlm idefics2 llava_onevision aya_vision internvl qwen3_5 aria
    voxtral fuyu git lfm2_vl ovis2 lighton_ocr granite_docling llava_next video_llava vipllava
    deepseek_vl video_llama_3 qwen3_5_moe
"""
TOWERS: dict[str, dict[str, Any]] = {
    **{name: {} for name in TOWERS_AS_SIZED.split()},
    "qwen2_vl": MROPE,
    "qwen2_5_vl": MROPE,
    "glm4v": MROPE,
    "glm46v": MROPE,
    "glm_ocr": MROPE,
    "exaone4_5": MROPE,
    "qwen3_vl_moe": MROPE,
    "qwen3_vl": MROPE,
    "paddleocr_vl": MROPE,
}  # fmt: skip
"""Multimodal checkpoints by model type, with what the text part needs beside ``SIZES``."""
LATER = "attends to later tokens"
STREAMS = "not one residual for each"
PATH = "not a chain of modules"
ENCODERS = """
    bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta
    roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl
"""
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    **{name: ({}, LATER) for name in ENCODERS.split()},
    "llama": ({"is_causal": False}, LATER),
    "gemma3_text": ({"use_bidirectional_attention": True}, LATER),
    "paligemma": ({}, LATER),
    "roberta": ({"is_decoder": True}, PATH),
    "xlm": ({}, PATH),
    "xlnet": ({}, STREAMS),
    "cpmant": ({}, STREAMS),
    "prophetnet": ({}, STREAMS),
    "deepseek_v4": ({}, STREAMS),
    "hy_v4": ({}, STREAMS),
    "gemma3n_text": ({"num_kv_shared_layers": 0}, STREAMS),
    "mllama": ({"cross_attention_layers": [1]}, "a text alone passes"),
    "blip-2": ({}, "fails on token ids alone"),
    "kosmos-2": ({}, "fails on token ids alone"),
}  # fmt: skip
"""By model type: what the configuration says beside ``SIZES``, and the reason that is given."""
