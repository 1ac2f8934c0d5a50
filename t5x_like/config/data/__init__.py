# SPDX-License-Identifier: Apache-2.0
"""The kinds of data: a task on examples of a source, a process whose entropy is known, or a mixture of tasks."""

from typing import TYPE_CHECKING, get_args

from t5x_like.config.data.base import DataConfig
from t5x_like.config.data.processes import (
    ContextFreeConfig,
    GraphWalkConfig,
    HiddenMarkovConfig,
    HierarchyConfig,
    MarkovConfig,
    ProcessConfig,
)
from t5x_like.config.data.sources import PythonLibraryConfig, SourceConfig, TextFilesConfig
from t5x_like.config.data.tasks import LanguageModelConfig, TaskConfig, TextTaskConfig
from t5x_like.config.data.tokenizers import BPETokenizerConfig, ByteTokenizerConfig, TokenizerConfig
from t5x_like.kinds import kinds_in

if TYPE_CHECKING:
    AnyDataConfig = DataConfig
else:
    AnyDataConfig = kinds_in(__name__, DataConfig)


def kinds() -> dict[str, type[DataConfig]]:
    """Every kind of data by its name."""
    return {str(kind.kind): kind for kind in get_args(AnyDataConfig)}
