# SPDX-License-Identifier: Apache-2.0
"""Parameters, FLOPs and hardware peaks: arithmetic on a config, nothing traced and nothing run."""
