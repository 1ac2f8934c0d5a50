# SPDX-License-Identifier: Apache-2.0
"""Attention weights against those of `transformers`, which tests/golden/make_attention_goldens.py made."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.interop.hugging_face import load_hf
from t5x_like.models.context import Context

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = dict(np.load(GOLDEN / "attentions.npz"))


@pytest.mark.parametrize("name", sorted({key.split()[0] for key in EXPECTED}))
@pytest.mark.parametrize("scan", [True, False])
def test_weights_are_theirs(name, scan):
    given = np.load(GOLDEN / "hf" / name / "expected.npz")
    model, params = load_hf(GOLDEN / "hf" / name)
    streams = {"encoder": "tokens", "decoder": "decoder_tokens" if "decoder_tokens" in given else "tokens"}
    batch = {f"{stream}_input_tokens": jnp.asarray(given[streams[stream]]) for stream in model.config.streams}
    first = model.config.streams[0]
    batch[f"{first}_segment_ids"] = real = jnp.asarray(given["real"])
    if "types" in given:
        batch["encoder_token_types"] = jnp.asarray(given["types"])
    want = [key.split()[1] for key in EXPECTED if key.split()[0] == name]
    found = jax.jit(lambda p: model.apply(p, batch, want=want, ctx=Context(scan_layers=scan)))(params)
    for output in want:
        weights, expected = found[output], EXPECTED[f"{name} {output}"]
        assert weights.dtype == jnp.float32 and weights.shape == expected.shape
        both = len(model.config.streams) == 2 and not output.startswith("encoder_")
        seen = np.ones_like(real) if both else np.asarray(real)  # queries that are padding see other keys there
        difference = np.abs(weights - expected) * seen[None, :, None, :, None]
        assert difference.max() < 1e-5  # of float32


def test_documents_are_apart_and_kinds_without_weights_say_so(make_run, redraw):
    from t5x_like.training.program import program_for

    def apply(*overrides):
        model = program_for(make_run("model.positions=none", *overrides)).model
        tokens = jnp.ones((1, 8), jnp.int32)
        batch = {"decoder_input_tokens": tokens, "decoder_segment_ids": jnp.asarray([[1, 1, 1, 2, 2, 2, 0, 0]])}
        return model.apply(redraw(model.specs()), batch, want=("attentions",))["attentions"]

    weights = np.asarray(apply())
    assert weights.shape == (2, 1, 4, 8, 8)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert not weights[..., 3:, :3].any()  # another document's
    with pytest.raises(UserError, match=r"attentions: model\.attention\.kind='linear' has none; accepted: None"):
        apply("model.attention={'kind':'linear'}")
