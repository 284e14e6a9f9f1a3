"""What all of TRL's trainers are told, so that no side of a comparison differs in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def shared_settings(*, work: str, learning_rate: float, gradient_clip: float, seed: int) -> dict[str, Any]:
    """Arguments of a TRL configuration: our optimizer's settings, and what would only slow TRL down switched off."""
    return {
        "output_dir": str(Path(work) / "output"),
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": gradient_clip,
        "seed": seed,
        "model_init_kwargs": {"dtype": "float32"},
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
