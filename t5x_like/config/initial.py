# SPDX-License-Identifier: Apache-2.0
"""Where a run's parameters come from."""

from dataclasses import dataclass, field

from t5x_like.config.checks import Checked, Patterns, matches

HEADS = "(critic/)?(head|labels|distillation_labels|next_sentence|pooler|replaced_tokens)/.*"


@dataclass(frozen=True)
class InitConfig(Checked):
    """A folder whose parameters a run begins with: of another run, or of Hugging Face.

    A config that says nothing of the model, or of the tokenizer, has the folder's; fields of `model` change it.
    """

    path: str
    # Which of the folder's layers, from 0, each layer of a stack is that is not as deep as the folder's: DistilBERT's
    # are every second one of BERT (Sanh et al. 2019); `model.num_layers` is their number unless it is given. None: all
    # are as deep.
    layers: tuple[int, ...] | None = None
    new: Patterns = (HEADS,)  # regular expressions of parameters that are drawn where the folder lacks them
    # Other folders by the part of the tree that is theirs: {"critic": DIR} takes "critic/labels/kernel" from what is
    # called "labels/kernel" there.
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def folders(self) -> dict[str, str]:
        """Folders by what is put before the names of their parameters; the first is the whole model's."""
        return {"": self.path} | {f"{part}/": folder for part, folder in self.parts.items()}

    def may_lack(self, name: str) -> bool:
        """Whether the folder may lack the parameter of a name."""
        return matches(self.new, name)
