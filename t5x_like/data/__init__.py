# SPDX-License-Identifier: Apache-2.0
"""Sources, tokenizers, packing and batches: numpy only, never JAX. `pipeline.build_dataset` is the door."""
