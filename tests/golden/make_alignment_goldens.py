# SPDX-License-Identifier: Apache-2.0
"""Makes alignment.npz: losses of trl's trainers and their gradients by log-probability, of numbers that are drawn.

pip install trl==1.16.0 && python tests/golden/make_alignment_goldens.py

The trainers' own methods are called with a model that says what was drawn.
"""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch
from trl import DPOTrainer, GRPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

PAIRS, LENGTH, PROMPT = 5, 9, 3
DRAWN = np.random.default_rng(0)


def draw(*shape: int) -> torch.Tensor:
    return torch.tensor(DRAWN.normal(-1.2, 0.7, shape).clip(max=-0.05), dtype=torch.float32)


def trainer(**fields: object) -> MagicMock:
    made = MagicMock(**fields)
    made.accelerator.gather_for_metrics = made.accelerator.gather = lambda x: x
    made.accelerator.num_processes = 1
    made.model.training, made._metrics = True, {"train": defaultdict(list)}
    made.current_gradient_accumulation_steps = 1
    return made


def outputs(log_probs: torch.Tensor) -> SimpleNamespace:
    zeros = torch.zeros(log_probs.shape)
    return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros > 0)


def preferences(found: dict[str, np.ndarray]) -> None:
    """Of pairs [chosen, rejected], and of those with a third part, whose prompts have others' answers."""
    log_p, reference = draw(3 * PAIRS, LENGTH), draw(3 * PAIRS, LENGTH)
    lengths = DRAWN.integers(2, LENGTH - PROMPT, 3 * PAIRS)
    places = np.arange(LENGTH)
    mask = torch.tensor((places >= PROMPT) & (places < PROMPT + lengths[:, None]))
    log_p, reference = log_p * mask, reference * mask
    found |= {"log_p": log_p.numpy(), "reference": reference.numpy(), "mask": mask.numpy()}
    two = slice(0, 2 * PAIRS)
    for name, kind, smoothing in (("dpo", "sigmoid", 0.0), ("ipo", "ipo", 0.0)):
        own = log_p[two].clone().requires_grad_()
        told = iter([outputs(own), outputs(reference[two])])
        fields = {"beta": 0.3, "loss_types": [kind], "loss_weights": [1.0], "label_smoothing": smoothing}
        made = trainer(**fields, ld_alpha=None, precompute_ref_logps=False, f_divergence_type="reverse_kl")
        made.use_weighting, made.aux_loss_enabled, made._total_train_tokens, made._tp_size = False, False, 0, 1

        def calls(*_: object, told: object = told, **__: object) -> SimpleNamespace:
            return next(told)

        made.ref_model = calls
        padded = torch.nn.functional.pad(mask[two].long(), (1, 0))
        inputs = {"input_ids": padded, "attention_mask": padded, "completion_mask": padded}
        loss = DPOTrainer._compute_loss(made, calls, inputs, return_outputs=False)
        found |= {f"{name}_loss": loss.detach().numpy(), f"{name}_gradient": torch.autograd.grad(loss, own)[0].numpy()}
    found["orpo_loss"], found["orpo_gradient"] = odds(log_p[two], mask[two])
    own = log_p[two].clone().requires_grad_()
    chosen, rejected = (own.sum(1) / mask[two].sum(1)).chunk(2)
    made = trainer(alpha=0.0, beta=2.0, simpo_gamma=0.5, label_smoothing=0.0, loss_type="simpo")
    made.accelerator.device = "cpu"
    loss = CPOTrainer.cpo_loss(made, chosen, rejected)[0].mean()
    found |= {"simpo_loss": loss.detach().numpy(), "simpo_gradient": torch.autograd.grad(loss, own)[0].numpy()}
    found |= unpaired(log_p, reference, mask)


def odds(log_p: torch.Tensor, mask: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """ORPO's: the chosen answers' loss, each a mean over its tokens, less beta log sigmoid of the odds."""
    own = log_p.clone().requires_grad_()
    chosen, rejected = (own.sum(1) / mask.sum(1)).chunk(2)
    made = trainer(beta=0.3)
    made.accelerator.device = "cpu"
    loss = (-chosen - ORPOTrainer.odds_ratio_loss(made, chosen, rejected)[0]).mean()
    return loss.detach().numpy(), torch.autograd.grad(loss, own)[0].numpy()


def unpaired(log_p: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> dict[str, np.ndarray]:
    """KTO's, of both answers as examples."""
    own = log_p.clone().requires_grad_()
    theirs, two = own[2 * PAIRS :], slice(0, 2 * PAIRS)
    made = trainer(beta=0.3, desirable_weight=1.0, undesirable_weight=1.0, loss_type="kto", calculate_KL=True)
    made.precompute_ref_logps, made.aux_loss_enabled, made.calculate_KL = True, False, True
    made._total_train_tokens, made._tp_size, made.accelerator.device = 0, 1, "cpu"
    # Each of both answers' prompts has another's chosen answer; the mean is the same where each counts twice.
    made._compute_kl_logps = lambda *_: torch.cat([theirs, theirs]).detach().sum(1)
    padded = torch.nn.functional.pad(mask[two].long(), (1, 0))
    label = torch.tensor([True] * PAIRS + [False] * PAIRS)
    inputs = {"input_ids": padded, "attention_mask": padded, "completion_mask": padded, "label": label}
    inputs |= {"ref_logps": reference[two].sum(1), "ref_KL_logps": torch.cat([reference[2 * PAIRS :]] * 2).sum(1)}
    loss = KTOTrainer._compute_loss(made, lambda *_, **__: outputs(own[two]), inputs, return_outputs=False)
    return {"kto_loss": loss.detach().numpy(), "kto_gradient": torch.autograd.grad(loss, own)[0].numpy()}


def policies(found: dict[str, np.ndarray]) -> None:
    rows = 6
    log_p = draw(rows, LENGTH)
    old = log_p + 0.3 * torch.tensor(DRAWN.normal(size=(rows, LENGTH)), dtype=torch.float32)
    reference, advantages = draw(rows, LENGTH), torch.tensor(DRAWN.normal(size=rows), dtype=torch.float32)
    mask = torch.tensor(np.arange(LENGTH) < DRAWN.integers(2, LENGTH, rows)[:, None]).long()
    named = {"log_p": log_p, "old": old, "reference": reference, "advantages": advantages, "mask": mask}
    found |= {f"policy_{name}": value.numpy() for name, value in named.items()}
    for kind, beta, high in (("grpo", 0.05, 0.2), ("dr_grpo", 0.0, 0.2), ("bnpo", 0.0, 0.28)):
        own = log_p.clone().requires_grad_()
        made = trainer(beta=beta, epsilon_low=0.2, epsilon_high=high, loss_type=kind, top_entropy_quantile=1.0)
        made.off_policy_mask_threshold, made.importance_sampling_level = None, "token"
        made.args.delta, made.args.use_bias_correction_kl, made.use_vllm = None, False, False
        made.max_completion_length, made._entropy_bonus_enabled, made.aux_loss_enabled = LENGTH, False, False
        made._get_per_token_logps_and_entropies = lambda *_, own=own, **__: (own, torch.zeros(rows, LENGTH), None)
        empty = torch.zeros(rows, 0).long()
        inputs = {"prompt_ids": empty, "prompt_mask": empty, "completion_ids": mask, "completion_mask": mask}
        inputs |= {"advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference}
        loss = GRPOTrainer._compute_loss(made, None, inputs)
        found |= {f"{kind}_loss": loss.detach().numpy(), f"{kind}_gradient": torch.autograd.grad(loss, own)[0].numpy()}


def main() -> None:
    found: dict[str, np.ndarray] = {}
    preferences(found)
    policies(found)
    np.savez_compressed(Path(__file__).with_name("alignment.npz"), **found)


if __name__ == "__main__":
    main()
