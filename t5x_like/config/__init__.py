# SPDX-License-Identifier: Apache-2.0
"""The run configuration: frozen dataclasses, one for each kind of model, objective, data, optimizer and schedule.

A field that is `None` in a config is filled in by `resolve`, so that `config.json` in a run folder states every number.
How a config file becomes one of these is in `config_files.py`.
"""

from t5x_like.config.data import (
    BPETokenizerConfig,
    ByteTokenizerConfig,
    ContextFreeConfig,
    DataConfig,
    GraphWalkConfig,
    HiddenMarkovConfig,
    HierarchyConfig,
    LanguageModelConfig,
    MarkovConfig,
    ProcessConfig,
    TextFilesConfig,
)
from t5x_like.config.execution import ExecutionConfig, MeshConfig
from t5x_like.config.models import AnyModelConfig, DecoderOnlyConfig, ExpertsConfig, ModelConfig, TransformerConfig
from t5x_like.config.objectives import CausalLMConfig, CrossEntropyConfig, LabelsConfig, ObjectiveConfig
from t5x_like.config.optimizer import AdafactorConfig, AdamWConfig, LionConfig, MuonConfig, OptimizerConfig, SGDConfig
from t5x_like.config.quantisation import Bf16Config, Fp8Config, Int4Config, Int8Config, NF4Config, QuantisationConfig
from t5x_like.config.run import RunConfig, config_hash, distinctive, identity
from t5x_like.config.schedule import ConstantConfig, CosineConfig, LinearConfig, RsqrtConfig, ScheduleConfig, WSDConfig
from t5x_like.config.teacher import TeacherConfig
from t5x_like.config.training import TrainingConfig
from t5x_like.config.tuning import (
    AdapterConfig,
    FullTuningConfig,
    IA3Config,
    LoRAConfig,
    PartialTuningConfig,
    PrefixConfig,
    PromptConfig,
    TuningConfig,
)
