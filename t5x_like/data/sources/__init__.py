# SPDX-License-Identifier: Apache-2.0
"""Sources of examples: random access, a length, columns. A file for each kind, or for those that read alike."""

from t5x_like.data.sources.source import BadExample, Example, Source, build_source
