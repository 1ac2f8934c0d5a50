# SPDX-License-Identifier: Apache-2.0
"""Reading a checkpoint takes little more host memory than the parameters that come of it."""

import subprocess
import sys

import jax
import pytest
from test_hugging_face import GOLDEN

from t5x_like.config.models.llama import LlamaConfig
from t5x_like.interop.hugging_face import save_hf
from t5x_like.models import build_model

MEASURE = """
import re, sys
from pathlib import Path
import jax
from t5x_like.interop.hugging_face import load_hf

def status(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

load_hf(sys.argv[2])  # what any first call takes
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
_, params = load_hf(sys.argv[1])
finished = sum(leaf.nbytes for leaf in jax.tree.leaves(jax.block_until_ready(params)))
print((status("VmHWM") - before - finished) / (Path(sys.argv[1]) / "model.safetensors").stat().st_size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_beyond_the_parameters_is_a_fifth_of_the_checkpoint(tmp_path):
    config = LlamaConfig(num_layers=8, d_model=512, num_heads=8, mlp_dim=2048, vocab_size=4096, max_length=64).filled()
    model = build_model(config)
    save_hf(model, model.init(jax.random.key(0)), tmp_path / "out")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "out"), str(GOLDEN / "llama_single")]
    environment = {"JAX_PLATFORMS": "cpu", "PATH": ""}  # one device, as a program has it
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.2
