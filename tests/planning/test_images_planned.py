# SPDX-License-Identifier: Apache-2.0
"""What a step computes, of families that see images and of targets that are fewer than tokens."""

import pytest

from t5x_like.accounting.flops import forward_flops
from t5x_like.planning.closed_form import Step

ONE = dict.fromkeys(("pipe", "data", "fsdp", "expert", "seq", "tensor"), 1)
IMAGES = {"kind": "image_classification", "num_labels": 5}


def test_flops_are_those_of_all_tokens_of_a_row(make_run):
    remat = "execution.remat=none"
    config = make_run("data={'kind':'prefix_lm','sequence_length':16}", "objective.kind=prefix_lm", remat)
    per_token = sum(forward_flops(config.model, 16).values())  # whether it is a target or not
    assert Step(config, ONE).flops()["model"] == pytest.approx(3 * config.training.batch_size * 16 * per_token)
    model = "model={'kind':'vit','patch_size':2,'num_layers':2,'d_model':16,'num_heads':2}"
    config = make_run(f"data={IMAGES}", model, "objective={'kind':'classification'}", remat)
    per_image = sum(forward_flops(config.model, config.data.mean_lengths).values())
    assert Step(config, ONE).flops()["model"] == pytest.approx(3 * config.training.batch_size * per_image)


def test_a_text_that_is_compared_has_no_logits_over_its_vocabulary(make_run):
    data = "data={'kind':'captions','text_length':8,'tokenizer':{'kind':'byte'}}"
    model = "model={'kind':'clip','num_layers':1,'d_model':16,'num_heads':2,'vision':{'patch_size':2,'d_model':16}}"
    config = make_run(data, model, "objective={'kind':'contrastive'}")
    step = Step(config, ONE)
    assert step.chunks == 1 and step._logits() == 0
