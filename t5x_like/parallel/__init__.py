# SPDX-License-Identifier: Apache-2.0
"""Device meshes and the rules that place named dimensions on them."""
