# SPDX-License-Identifier: Apache-2.0
"""Measurements that come with the package, for machines that its own tests do not have."""
