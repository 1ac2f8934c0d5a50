# SPDX-License-Identifier: Apache-2.0
"""Experts in the place of a feed-forward block."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import Checked, Coefficient, Count, Positive, Rate
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class ExpertsConfig(Checked):
    """Feed-forward blocks of which every token meets only a few: a mixture of experts (Shazeer et al. 2017).

    Three ways to route. "capacity": a token asks for its likeliest experts, and an expert takes so many tokens of every
    sequence and no more (Switch, Fedus et al. 2022; GShard, Lepikhin et al. 2021). "dropless": the same without a bound
    (MegaBlocks, Gale et al. 2023). "expert_choice": every expert asks for its likeliest tokens (Zhou et al. 2022); it
    compares a token with those after it, so such a model sees the future and cannot generate token by token.

    Capacity is counted in each sequence, not over a batch as in the papers: so what a row comes to depends neither on
    the other rows nor on the mesh.
    """

    num_experts: Count = 8
    experts_per_token: Count = 1  # 1: Switch; 2: GShard, Mixtral; with expert_choice: how many a token meets on average
    routing: Literal["capacity", "dropless", "expert_choice"] = "capacity"
    capacity_factor: Positive | None = (
        None  # slots for every choice in training; None: 1.25 with capacity, else no such
    )
    eval_capacity_factor: Positive | None = None  # the same outside training; None: nothing is dropped there
    slots: Count | None = None  # of an expert, in every sequence of whatever length; None: as the factors say
    every: Count = 1  # one layer of each n has experts, the others are dense; 2: Switch-Base, 1: Mixtral
    place: int | None = None  # which of the n, from 0; None: the last
    mlp_dim: Count | None = None  # of an expert; None: the model's
    load_balance_loss: Coefficient | None = (
        None  # coefficient; None: .01, or 0 with expert_choice, where loads are even
    )
    router_z_loss: Coefficient = 0.0  # coefficient; ST-MoE (Zoph et al. 2022) has .001
    router_jitter: Rate = 0.0  # in training the router's input is multiplied by noise from [1 - this, 1 + this]
    normalise_weights: bool = False  # a token's weights add up to 1, as Mixtral's do; Switch leaves them as they are

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.place is not None and not 0 <= self.place < self.every:
            self.refuse("place", f"is none of every={self.every} layers; accepted: 0 to {self.every - 1}")
        if self.experts_per_token > self.num_experts:
            most = self.num_experts
            self.refuse("experts_per_token", f"is above num_experts={most}; accepted: 1 to {most}")
        for name in ("capacity_factor", "eval_capacity_factor", "slots"):
            value = getattr(self, name)
            if value is not None and self.routing != "capacity":
                raise FieldError(name, f"{value} with routing={self.routing!r}; accepted: only 'capacity' has one")
            if value is not None and name != "slots" and self.slots is not None:
                raise FieldError("slots", f"{self.slots} with {name}={value}; accepted: one of them")
        if self.routing == "expert_choice" and self.load_balance_loss:
            self.refuse("load_balance_loss", "with routing='expert_choice'; accepted: 0, for its loads are even")
        if self.routing == "expert_choice" and self.normalise_weights:
            raise FieldError("normalise_weights", "True with routing='expert_choice'; accepted: False")

    @property
    def at(self) -> int:
        """Which of each `every` layers has experts."""
        return self.every - 1 if self.place is None else self.place

    def resolve(self, mlp_dim: int) -> "ExpertsConfig":
        """Fills in every field that is None and has a value; `mlp_dim` is the model's."""
        balance = self.load_balance_loss
        return dataclasses.replace(
            self,
            capacity_factor=(self.capacity_factor or 1.25) if self.routing == "capacity" and not self.slots else None,
            mlp_dim=self.mlp_dim or mlp_dim,
            load_balance_loss=(0.0 if self.routing == "expert_choice" else 0.01) if balance is None else balance,
        )
