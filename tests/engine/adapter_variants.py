"""Adapters of every kind that is measured: how each is configured, on which tiny base, and what PEFT computes."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig

LAYERS = ["q_proj", "down_proj"]
IDS = torch.arange(5, 2000, 83)[None]
"""(1, 25) token ids that all bases know."""


def lora(**settings: Any) -> Callable[[], Any]:
    return other("LoraConfig", **({"r": 4} | settings))


def other(kind: str, **settings: Any) -> Callable[[], Any]:
    known = {"target_modules": LAYERS, "task_type": "CAUSAL_LM"}
    return lambda: getattr(peft, kind)(**(known | settings))


VARIANTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "lora": ("llama", lora()),
    "lora of no task": ("llama", lora(task_type=None)),
    "lora with rslora": ("llama", lora(use_rslora=True, lora_alpha=3)),
    "lora with dora": ("llama", lora(use_dora=True)),
    "lora with its own bias": ("qwen2", lora(lora_bias=True, target_modules=["q_proj", "k_proj"])),
    "lora with all biases": ("qwen2", lora(bias="all")),
    "lora with biases of its layers": ("qwen2", lora(bias="lora_only", target_modules=["q_proj"])),
    "lora of some blocks": ("llama", lora(layers_to_transform=[0, 2])),
    "lora of some blocks by pattern": ("llama", lora(layers_to_transform=[1], layers_pattern="layers")),
    "lora by expression": ("llama", lora(target_modules=r"model\.layers\.\d+\.(self_attn|mlp)\.[qd]\w+_proj")),
    "lora with other ranks": ("llama", lora(rank_pattern={"q_proj": 8}, alpha_pattern={"layers.0.mlp.down_proj": 32})),
    "lora of all but": ("llama", lora(target_modules="all-linear", exclude_modules=["k_proj", "up_proj"])),
    "lora with norms to save": ("llama", lora(modules_to_save=["norm", "input_layernorm"])),
    "lora with a head to save": ("llama", lora(modules_to_save=["lm_head"])),
    "lora with tables to save": ("llama", lora(modules_to_save=["embed_tokens", "lm_head"])),
    "lora of conv1d": ("gpt2", lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "lora with dora of conv1d": ("gpt2", lora(target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True)),
    "lora of a tied head": ("llama-tied", lora(target_modules=["q_proj", "lm_head"])),
    "lora of tied embeddings": ("llama-tied", lora(target_modules=["q_proj", "embed_tokens"])),
    "lora of both tied": ("llama-tied", lora(target_modules=["lm_head", "embed_tokens"])),
    "lora of both, kept tied": ("llama-tied", lora(target_modules=["embed_tokens"], ensure_weight_tying=True)),
    "lora with a tied head to save": ("llama-tied", lora(modules_to_save=["lm_head"])),
    "lora with tied embeddings to save": ("llama-tied", lora(modules_to_save=["embed_tokens"])),
    "lora with both tied to save": ("llama-tied", lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    "lora with tokens": ("llama", lora(trainable_token_indices=[5, 7, 171])),
    "lora with tied tokens": ("llama-tied", lora(trainable_token_indices={"embed_tokens": [5, 7, 171]})),
    "lora with tokens of conv1d": ("gpt2", lora(target_modules=["c_attn"], trainable_token_indices={"wte": [5, 88]})),
    "lora from pissa": ("llama", lora(init_lora_weights="pissa")),
    "lora from olora": ("llama", lora(init_lora_weights="olora")),
    "lora from olora in capitals": ("llama", lora(init_lora_weights="OLoRA")),
    "lora from gaussian": ("llama", lora(init_lora_weights="gaussian")),
    "lora from orthogonal": ("llama", lora(init_lora_weights="orthogonal")),
    "lora from mica": ("llama", lora(init_lora_weights="mica")),
    "lora with qalora": ("llama", lora(use_qalora=True, qalora_group_size=8)),
    "lora in blocks": (
        "llama",
        lora(use_bdlora=BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["down_proj"], nblocks=2)),
    ),
    "lora with kasa": ("llama", lora(kasa_config=KasaConfig())),
    "lora with velora": ("llama", lora(velora_config=VeloraConfig())),
    "lora with monteclora": ("llama", lora(monteclora_config=MontecloraConfig())),
    "lora of experts": (
        "mixtral",
        lora(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    ),
    "lora of one table of experts": ("mixtral", lora(target_modules=[], target_parameters=["experts.down_proj"])),
    "lora of a router": ("mixtral", lora(target_modules=["q_proj", "o_proj"])),
    "adalora": ("llama", other("AdaLoraConfig", total_step=10)),
    "beft": ("qwen2", other("BeftConfig", target_modules=["q_proj", "v_proj"])),
    "boft": ("llama", other("BOFTConfig", boft_block_size=4)),
    "c3a": ("llama", other("C3AConfig", block_size=8)),
    "deft": ("llama", other("DeftConfig")),
    "delora": ("llama", other("DeloraConfig")),
    "fourierft": ("llama", other("FourierFTConfig", n_frequency=20)),
    "glora": ("llama", other("GloraConfig")),
    "gralora": ("llama", other("GraloraConfig", gralora_k=2)),
    "hira of tied embeddings": ("llama-tied", other("HiraConfig", r=4, target_modules=["embed_tokens", "q_proj"])),
    "hira": ("llama", other("HiraConfig", r=4)),
    "hra": ("llama", other("HRAConfig", r=4)),
    "ia3": ("llama", other("IA3Config", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "ia3 of conv1d": (
        "gpt2",
        other("IA3Config", target_modules=["c_attn", "c_fc"], feedforward_modules=["c_fc"], fan_in_fan_out=True),
    ),
    "layer norms": ("llama", other("LNTuningConfig", target_modules=["input_layernorm", "norm"])),
    "loha": ("llama", other("LoHaConfig")),
    "lokr": ("llama", other("LoKrConfig")),
    "lokr of full size": ("llama", other("LoKrConfig", r=100_000, alpha=100_000)),
    "miss": ("llama", other("MissConfig", r=4)),
    "miss in blocks": ("llama", other("MissConfig", r=4, init_weights="bat")),
    "miss of small ranks": ("llama", other("MissConfig", r=4, mini_r=8, init_weights="mini")),
    "oft": ("llama", other("OFTConfig", oft_block_size=8, r=0)),
    "oft of one block": ("llama", other("OFTConfig", oft_block_size=8, r=0, block_share=True)),
    "osf": ("llama", other("OSFConfig")),
    "peanut": ("llama", other("PeanutConfig")),
    "psoft": ("llama", other("PsoftConfig")),
    "randlora": ("llama", other("RandLoraConfig")),
    "road": ("llama", other("RoadConfig", group_size=8)),
    "shira": ("llama", other("ShiraConfig", r=4)),
    "supertuning": ("llama", other("SupertuningConfig")),
    "tinylora": ("llama", other("TinyLoraConfig")),
    "tokens": ("llama", other("TrainableTokensConfig", token_indices=[5, 7, 171], target_modules=["embed_tokens"])),
    "tied tokens": (
        "llama-tied", other("TrainableTokensConfig", token_indices=[5, 171], target_modules=["embed_tokens"]),
    ),
    "unilora": ("llama", other("UniLoraConfig")),
    "vblora": ("llama", other("VBLoRAConfig", num_vectors=16, vector_length=16, topk=2)),
    "vblora of its best": (
        "llama", other("VBLoRAConfig", num_vectors=16, vector_length=16, topk=2, save_only_topk_weights=True),
    ),
    "vera": ("llama", other("VeraConfig", r=8)),
    "vera from its seed": ("llama", other("VeraConfig", r=8, save_projection=False)),
    "waveft": ("llama", other("WaveFTConfig", n_frequency=20)),
}  # fmt: skip


def open_base(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype).eval()


def save_adapter(model: Any, config: Any, folder: Path, *, seed: int = 1, by: float = 0.1) -> Path:
    """An adapter of ``model`` whose every trained tensor was moved at random, as PEFT saves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(model, config)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * by)
        wrapped.peft_config["default"].base_model_name_or_path = "base"
        wrapped.save_pretrained(str(folder))
    return folder


def own_logits(base: Any, adapter: Path, ids: torch.Tensor = IDS) -> torch.Tensor:
    """(1, T, V) of PEFT's own forward pass, nothing merged; uses ``base`` up."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        wrapped = peft.PeftModel.from_pretrained(base, str(adapter)).eval()
        logits: torch.Tensor = wrapped(input_ids=ids).logits
    return logits
