# SPDX-License-Identifier: Apache-2.0
"""The published models as configs: their parameters are those that the papers and the released weights have."""

import math
from pathlib import Path

import jax
import pytest

from t5x_like.accounting.parameters import count_parameters
from t5x_like.config_files import load_run
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import ParamSpec

MODELS = Path(__file__).parents[2] / "configs" / "models"

# {config: (parameters, within, where from)}
PUBLISHED = {
    "gpt2_xl": (1_557_611_200, 0, "the weights OpenAI released"),
    "gpt3_175b": (174.6e9, 0.05e9, "Brown et al. 2020, table D.1, in millions 174,600"),
    "llama3_8b": (8_030_261_248, 0, "the weights Meta released"),
    "llama3_70b": (70_553_706_496, 0, "the weights Meta released"),
    "mixtral_8x7b": (46_702_792_704, 0, "the weights Mistral AI released"),
    "switch_c": (1571e9, 1e9, "Fedus et al. 2022, table 9"),
    "vit_g14": (1.843e9, 0.05e9, "Zhai et al. 2022, table 2, before a head of 1,000 classes and its own pooling"),
    "llava_7b": (7_063_427_072 - 12_598_272, 0, "the released weights without the encoder's last layer and its norm"),
    "flamingo_80b": (80e9 - 6.4e9, 0.1e9, "Alayrac et al. 2022, table 5, see the config for the parts that differ"),
}


def config(name):
    return load_run(str(MODELS / f"{name}.py"))


def test_every_config_is_listed():
    assert {path.stem for path in MODELS.glob("*.py")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_published(name):
    expected, within, _ = PUBLISHED[name]
    model = config(name).model
    leaves = jax.tree.leaves(build_model(model).specs(), is_leaf=lambda node: isinstance(node, ParamSpec))
    stored = sum(math.prod(spec.shape) for spec in leaves)
    assert abs(stored - expected) <= within
    assert count_parameters(model).total == stored


def test_what_a_token_meets():
    """Mixtral: 12.9B (Jiang et al. 2024). By its parts: tables, attention, router, two experts, norms."""
    d, layers, vocab = 4096, 32, 32000
    attention, router, experts = 2 * d * d + 2 * d * 1024, d * 8, 2 * 3 * d * 14336
    expected = 2 * vocab * d + layers * (attention + router + experts + 2 * d) + d
    assert count_parameters(config("mixtral_8x7b").model).active == expected == 12_879_925_248


def test_switch_c_by_its_parts():
    """30 layers of 2048 experts of 2 D M, attention of 4 D H C, a router of D E, two norms; a table and a norm."""
    d, m, experts, layers = 2080, 6144, 2048, 30
    expected = layers * (experts * 2 * d * m + 4 * d * 32 * 64 + d * experts + 2 * d) + 32128 * d + d
    assert count_parameters(config("switch_c").model).total == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_docstrings_have_the_command(name):
    text = (MODELS / f"{name}.py").read_text()
    assert f"python scripts/plan.py --config=configs/models/{name}.py --topology=" in text
