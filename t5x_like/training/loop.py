# SPDX-License-Identifier: Apache-2.0
"""The training loop: batches in, metrics out, nothing waited for that need not be."""

import json
import math
import time
from collections import deque
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.accounting.flops import accounting
from t5x_like.accounting.hardware import peak_of_mesh
from t5x_like.config import RunConfig
from t5x_like.data.ahead import made_ahead
from t5x_like.data.cache import cache_root
from t5x_like.data.chat_template import keep_template
from t5x_like.data.dataset import Dataset
from t5x_like.data.packing import COUNTED, count_targets
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.files import read_json, write_json
from t5x_like.parallel.local_rows import as_the_first
from t5x_like.quantisation import whole_specs
from t5x_like.reporting.wording import in_bytes
from t5x_like.rollouts.rollout import Rollout, with_texts
from t5x_like.strict import to_dict
from t5x_like.training.checkpoints import Checkpoints
from t5x_like.training.energy import EnergyMeter, energy_summary
from t5x_like.training.evaluation import build_sets, evaluate
from t5x_like.training.initial import begun, check_initial
from t5x_like.training.layer_statistics import named_by_layer
from t5x_like.training.memory_fit import check_sizes, device_memory, is_settled, settle
from t5x_like.training.metrics import Metrics, Tally
from t5x_like.training.one_writer import AnyProcess, check_same, is_writer, wait_for
from t5x_like.training.profile import Profile
from t5x_like.training.program import program_for
from t5x_like.training.progress import Reporter, Silent
from t5x_like.training.run_folder import (
    check_folder,
    check_unchanged,
    finite,
    hold_folder,
    open_folder,
    write_environment,
)
from t5x_like.training.schedules import learning_rates
from t5x_like.training.startup import StopRequest, peak_memory, stop_on_signals
from t5x_like.training.state import State, state_bytes
from t5x_like.training.stopwatch import Stopwatch, goodput
from t5x_like.training.teachers import fingerprint, load_others
from t5x_like.training.trackers import check_trackers, open_trackers
from t5x_like.training.trunk import Trunk
from t5x_like.training.work_folder import WorkFolder, work_folder

MOST_SKIPS = 20  # steps in a row that are not finite, after which a run has diverged
MOST_REWINDS = 3


def train(
    config: RunConfig,
    workdir: str | Path,
    *,
    dataset: Dataset | None = None,
    reporter: Reporter | None = None,
    started: float | None = None,
    trunk: Trunk | None = None,
) -> dict[str, Any]:
    """Trains a run to its end, or goes on with it where its folder says it stopped.

    Args:
      config: resolved, but for durations in epochs.
      workdir: the run folder, on a disk or gs://; made when missing.
      dataset: as `build_dataset(config.data, config.seed)` gives it, when the caller has it already.
      started: when the program was, on the clock of time.monotonic().
      trunk: the steps that it shares with runs of other lengths.

    Returns:
      What summary.json holds, whose `status` is "finished", "diverged" (a loss that is not finite) or "interrupted"
      (SIGTERM or ctrl-C: state saved, the next call goes on).

    Raises:
      UserError: the folder belongs to another run or another process, its data has changed, or the mesh does not fit.
    """
    started = time.monotonic() if started is None else started
    with work_folder(workdir) as place:
        return _train(config, place, dataset, reporter or Silent(), started, trunk)


def _train(
    config: RunConfig,
    place: WorkFolder,
    dataset: Dataset | None,
    reporter: Reporter,
    started: float,
    trunk: Trunk | None,
) -> dict[str, Any]:
    folder = place.local
    if not config.training.resolved:
        dataset = dataset or build_dataset(config.data, config.seed)
        config = config.resolve(dataset.epoch_rows)
    check_sizes(config)
    few_bits = config.quantisation
    if few_bits is not None and not few_bits.aware and config.tuning.kind == "full":
        raise UserError(
            f"quantisation.kind: kernels in {few_bits.kind} are not trained; accepted: quantisation.aware=true, or a "
            "tuning.kind such as 'lora'"
        )
    check_trackers(config)
    check_folder(folder, config)
    check_same({"the config": json.dumps(to_dict(config))})
    if (ended := _ended(place)) is not None:
        return ended
    if not is_settled(config):
        dataset = dataset or build_dataset(config.data, config.seed)
        config = _settled(config, dataset, reporter)
    program = program_for(config)
    if (idle := jax.device_count() - program.layout.mesh.size) > 0 and jax.default_backend() != "cpu":
        reporter.note(
            f"{idle} of {jax.device_count()} devices are idle; one axis of the mesh can be -1: all that is left"
        )
    if config.init_from is not None and not (folder / "config.json").is_file():
        check_initial(config, whole_specs(program.model))
    dataset = dataset or build_dataset(config.data, config.seed)  # data that cannot be read leave no folder behind
    dataset, plain = with_texts(dataset, config), dataset
    with hold_folder(folder, reporter.note) if is_writer() else nullcontext():
        if is_writer():
            open_folder(folder, config)  # looked at again: another process may just have left it
            place.push()
        if (ended := _ended(place)) is not None:
            return ended
        wait_for(folder / "config.json", place.pull)
        check_unchanged(folder, "data", dataset.fingerprint)
        check_same({"the data": dataset.fingerprint})
        if skipped := dataset.description.get("skipped"):
            reporter.note(f"skipped {skipped:,} examples that cannot be read; {dataset.description['first_skipped']}")
        sets = build_sets(config, dataset.tokenizer)
        ahead = made_ahead(plain, config.data, config.seed, config.execution.data_workers)
        # Until all is on disk: a second signal does not lose what the first one saves.
        with ahead, stop_on_signals() as stop:
            loop = _Loop(config, place, dataset, sets, reporter, started, trunk)
            try:
                summary = loop.summary(loop.run(stop))
            except BaseException:
                if jax.process_count() == 1:  # of several it would wait for those that wait for this one
                    loop.close()
                raise
            loop.close()
            if is_writer():
                write_json(folder / "summary.json", summary)
    return summary


def _settled(config: RunConfig, dataset: Dataset, reporter: Reporter) -> RunConfig:
    """The config without "auto", the same in all processes."""
    row = dataset.training_batch(0, 1)
    features = {name: jax.ShapeDtypeStruct(value.shape[1:], value.dtype) for name, value in row.items()}
    memory = as_the_first(int(device_memory() // 2**20)) * 2.0**20
    return settle(config, features, memory=memory, note=reporter.note)


def _ended(place: WorkFolder) -> dict[str, Any] | None:
    """The summary of a run that has nothing left to do, or None; every process has it, or none."""
    path = place.local / "summary.json"
    ended = path.is_file() and read_json(path)["status"] != "interrupted" if is_writer() else False
    if not as_the_first(ended):
        return None
    wait_for(path, place.pull)
    return read_json(path)


@dataclass
class _Loop:
    """One run in progress."""

    config: RunConfig
    place: WorkFolder
    dataset: Dataset
    sets: dict[str, Dataset]
    reporter: Reporter
    started: float
    trunk: Trunk | None = None

    def __post_init__(self) -> None:
        config, folder, dataset = self.config, self.place.local, self.dataset
        assert config.training.steps is not None
        self.total = config.training.steps
        self.log_every, self.evaluate_every, self.checkpoint_every = config.training.every()
        self.program = program_for(config)
        mesh = self.program.layout.mesh
        # May be measured: before anything else runs. Only the writer needs it.
        peak = peak_of_mesh(mesh.devices, config.precision, cache_root()) if is_writer() else None
        keep = config.training.keep_checkpoints
        self.checkpoints = Checkpoints(self.place.checkpoints, keep, note=self.reporter.note)
        self.checkpoints.make_way()
        init_key, self.key = jax.random.split(jax.random.key(config.seed))  # two streams: parameters, and the steps
        self.tally = Tally()
        check_same({"the newest checkpoint": str(self.checkpoints.latest)})
        self.init_key = init_key
        self.teacher = load_others(config, self.program)
        taught_by = fingerprint(self.teacher) if self.teacher else None
        if taught_by is not None:
            check_unchanged(folder, "teacher", taught_by)
        self._begin()
        self.pending: deque[_Call] = deque()
        counts = accounting(config)
        if is_writer():
            write_environment(folder, mesh, peak, dataset, self.sets, taught_by)
            if dataset.tokenizer is not None:  # a model without its vocabulary is of no use on another machine
                dataset.tokenizer.save(folder / "tokenizer.json")
                keep_template(getattr(config.data, "template", ""), folder)
            write_json(folder / "accounting.json", counts)
        if (trained := counts.get("params_trainable")) is not None:
            whole = counts["params_total"] + counts.get("params_added", 0)
            sizes = ", ".join(f"{name} {in_bytes(size)}" for name, size in state_bytes(config).items() if size)
            self.reporter.note(f"trains {trained:,} of {whole:,} parameters, {trained / whole:.2%}; {sizes}")
        self.flops_per_token, self.peak = counts["flops_per_token"], peak
        self.metrics = self._open_metrics()
        self.profile = Profile(config.execution.profile if is_writer() else None, folder, self.reporter.note)
        self.count_everywhere = jax.jit(_count_everywhere, out_shardings=self.program.layout.replicated)
        self.any_process = AnyProcess(mesh) if jax.process_count() > 1 else None
        self.told = False  # that some process is to stop
        self.rollout = Rollout(config, self.program, dataset) if config.objective.kind == "policy" else None
        self.stopwatch, self.energy = Stopwatch(self.started), EnergyMeter(mesh.devices, self.started)
        self.spent_before = self.tally.spent
        self.began = time.monotonic() - self.tally.wall_seconds

    def _open_metrics(self) -> Metrics:
        folder = self.place.local
        trackers = open_trackers(self.config, folder, self.place.name, self.tally.step) if is_writer() else []
        return Metrics(folder, self.tally, self.flops_per_token, self.peak, trackers)

    def _begin(self) -> None:
        """State, tally and step: of the newest checkpoint, of a trunk, or of a run's first step."""
        abstract = self.program.abstract_state
        if self.checkpoints.latest is not None:
            self._go_on(*self.checkpoints.restore(abstract))
            self.reporter.note(f"resuming from step {self.tally.step}")
        elif (begun := None if self.trunk is None else self.trunk.begin(abstract)) is not None:
            self._go_on(*begun)
            self.reporter.note(f"going on from another run: {self.tally.lineage}")
        else:
            self.state, self.tally = self._begun(self.init_key), Tally()
        self.state = self.state.replace(teacher=self.teacher)
        self.step = self.tally.step  # steps dispatched; the tally's are those whose metrics have come back

    def _go_on(self, state: State, tally: dict[str, Any]) -> None:
        self.state, self.tally = self.program.to_memory(state), Tally(**tally)

    def _begun(self, key: jax.Array) -> State:
        if self.config.init_from is None:
            return self.program.init(key)
        return self.program.to_memory(begun(self.program, self.program.drawn(key), self.config, self.reporter.note))

    def run(self, stop: StopRequest) -> str:
        """Steps to the end, a stop or a loss that is not finite; returns the status."""
        self.reporter.start(self.step, self.total)
        while True:
            try:
                self._steps(stop)
                break
            except _Diverged as diverged:
                self.reporter.note(str(diverged))
                if not self._rewound():
                    return "diverged"
        self._save()
        if self.step < self.total and self._stops(stop):
            self.reporter.note(f"stopped at step {self.step} of {self.total}; the same command goes on from there")
            return "interrupted"
        return "finished"

    def _steps(self, stop: StopRequest) -> None:
        while self.step < self.total and not self._stops(stop):
            if self.profile.due(self.step):
                self._collect_all()
                self.profile.turn(self.step)
            self._dispatch(stop)
            while len(self.pending) > 1:  # the call before; the one just dispatched is running
                self._collect()
            if self.trunk and self.step == self.trunk.keep_at:
                self._collect_all()
                self._count()
                self.trunk.keep(self.place.local, self.program.to_disk(self.state), asdict(self.tally))
            if self.step < self.total and _due(self.step, self.evaluate_every):
                self._evaluate()
            if self.step < self.total and _due(self.step, self.checkpoint_every):
                self._save()
        self._collect_all()
        self.profile.close()
        if self.step == self.total:
            self._evaluate()

    def _rewound(self) -> bool:
        """Goes back to the newest checkpoint, where the config says so, to pass over the batches that came after it."""
        failed = self.tally.step
        if self.config.training.on_nonfinite != "rewind" or self.tally.rewinds >= MOST_REWINDS:
            return False
        self.pending.clear()
        self.checkpoints.wait()
        rewinds, passed_over = self.tally.rewinds + 1, self.tally.passed_over
        self.teacher = self.state.teacher  # a step uses up what it is given
        self._begin()
        self.tally.rewinds, self.tally.passed_over = rewinds, passed_over + failed - self.tally.step
        self.metrics.close()
        self.metrics = self._open_metrics()
        self.reporter.note(f"{failed - self.step} batches are passed over")
        return True

    def _stops(self, stop: StopRequest) -> bool:
        """Whether to stop: of several processes, because of what all of them have heard from all of them."""
        return bool(stop) if self.any_process is None else self.told

    def _dispatch(self, stop: StopRequest) -> None:
        """Sends the next steps to the device: a whole call, or fewer up to the next evaluation or checkpoint. Each of
        several processes sends along whether it was told to stop; all read that with the metrics, and stop together."""
        count = min(self.program.steps_per_call, self.total - self.step)
        for every in (self.evaluate_every, self.checkpoint_every):
            if every is not None:
                count = min(count, every - self.step % every)
        if self.trunk and self.step < self.trunk.keep_at:
            count = min(count, self.trunk.keep_at - self.step)
        count = self.profile.steps_until_due(self.step, count)
        size, share = self.config.training.batch_size, self.program.share
        whole = self.program.steps_per_call  # whatever the count: every call has the same shape
        hosts = {"host_index": share.part, "host_count": share.parts}
        first = self.step + self.tally.passed_over
        if self.rollout is None:
            batches = self.dataset.training_batches(first, whole, size, **hosts)
        else:
            self._collect_all()
            others = self.state.teacher if self.program.others else {}
            with self.stopwatch.aside("rollout"):
                batches = self.rollout(self.program.params(self.state, average=False), others, first)
        steps = np.arange(self.step, self.step + count)
        rates = learning_rates(self.config.schedule, self.config.optimizer.learning_rate, self.total, steps)
        knobs = self.program.knobs(rates, self.key)
        on_devices = self.program.on_devices(batches, leading=1)
        self.stopwatch.sending(idle=all(call.sums["loss"][0].is_ready() for call in self.pending))
        self.state, sums = self.program.step(self.state, on_devices, knobs)
        tokens = count_targets(batches) if jax.process_count() == 1 else self.count_everywhere(on_devices)
        anyone = None if self.any_process is None else self.any_process(bool(stop))
        self.pending.append(_Call(rates, sums, tokens, anyone))
        self.step += count

    def _collect(self) -> None:
        """Fetches the metrics of the oldest call in flight and logs them."""
        call, asked = self.pending.popleft(), self.stopwatch.now()
        sums, tokens, stop = jax.device_get((call.sums, call.tokens, call.stop))
        self.told = self.told or bool(stop)
        count = len(call.rates)
        self.stopwatch.returned(int(tokens[:count].sum()), asked)
        steps = range(self.tally.step + 1, self.tally.step + count + 1)
        logs = [_due(step, self.log_every) or step == self.total for step in steps]
        tokens_per_second = self.stopwatch.take_rate() if any(logs) else None
        columns = {name: list(zip(*(each.tolist() for each in pair), strict=True)) for name, pair in sums.items()}
        for i, (step, log, rate) in enumerate(zip(steps, logs, call.rates.tolist(), strict=True)):
            self.tally.add({name: pairs[i] for name, pairs in columns.items()}, int(tokens[i]))
            if (why := self._diverged({name: pairs[i][0] for name, pairs in columns.items()})) is not None:
                self.metrics.train(self.tally, rate, tokens_per_second)
                raise _Diverged(f"diverged: the loss of step {step} {why}")
            if log:
                line = self.metrics.train(self.tally, rate, tokens_per_second)
                self.reporter.update(step, line["loss"], tokens_per_second)
        self.tally.wall_seconds = time.monotonic() - self.began

    def _diverged(self, sums: dict[str, float]) -> str | None:
        """What is wrong with a step's loss, or with what it made of the parameters; None: nothing."""
        if not math.isfinite(sums["loss"]):
            return f"is {sums['loss']}"
        if self.tally.skipped_in_a_row >= MOST_SKIPS:
            return f"was not finite, nor were those of the {MOST_SKIPS - 1} before"
        if self.config.training.on_nonfinite == "rewind" and not math.isfinite(sums["grad_norm"]):
            return f"is finite, its gradient {sums['grad_norm']}"  # no checkpoint may hold what it makes
        return None

    def _collect_all(self) -> None:
        while self.pending:
            self._collect()

    def _evaluate(self) -> None:
        """Scores the run's own held-out data, then the further sets, unless that was done before a resumed step."""
        self._collect_all()
        with self.stopwatch.aside("evaluation"):
            self._score()

    def _score(self) -> None:
        if self.tally.last_eval.get("step") != self.step:
            result = self._scored(self.dataset)
            self.tally.last_eval = {"step": self.step, **result}
            self.metrics.eval(self.tally, result | self._activations())
            if not math.isfinite(result["loss"]):
                raise _Diverged(f"diverged: the held-out loss at step {self.step} is {result['loss']}")
            self.reporter.note(f"step {self.step}: held-out loss {result['loss']:.4f}")
        for name, dataset in self.sets.items():
            if self.tally.evaluations.get(name, {}).get("step") != self.step:
                result = self._scored(dataset)
                self.tally.evaluations[name] = {"step": self.step, **result}
                self.metrics.eval(self.tally, result, name)
                self.reporter.note(f"step {self.step}: {name} loss {result['loss']:.4f}")

    def _activations(self) -> dict[str, float]:
        if not self.config.execution.layer_statistics:
            return {}
        program, share = self.program, self.program.share
        hosts = {"host_index": share.part, "host_count": share.parts}
        batch = next(iter(self.dataset.eval_batches(self.config.training.batch_size, 1, **hosts)))
        return named_by_layer(program.activation_sizes(program.params(self.state), program.on_devices(batch)))

    def _scored(self, dataset: Dataset) -> dict[str, float]:
        others = self.state.teacher if self.program.others else {}
        return evaluate(self.program, self.program.params(self.state), dataset, self.config, others=others)

    def _save(self) -> None:
        self._collect_all()
        self._count()
        with self.stopwatch.aside("checkpoint"):
            self.place.push()  # metrics of all that a checkpoint holds are there before it is
            self.checkpoints.save(self.program.to_disk(self.state), self.step, asdict(self.tally))

    def _count(self) -> None:
        """Brings the time and the energy of the tally up to now."""
        here, before = self.stopwatch.spent(), self.spent_before
        self.tally.spent = {part: before.get(part, 0.0) + seconds for part, seconds in here.items()}
        used = self.energy.read()
        known = used is not None and self.tally.energy_kwh is not None
        self.tally.energy_kwh = self.tally.energy_kwh + used if known else None  # type: ignore[operator]

    def summary(self, status: str) -> dict[str, Any]:
        """What summary.json holds; a run that did not finish has no final loss."""
        self._count()
        final = self.tally.last_eval if status == "finished" else None
        unique = self.dataset.unique_tokens
        return {
            "status": status,
            "steps": self.tally.step,
            "tokens": self.tally.tokens,
            **({} if self.tally.lineage is None else {"lineage": self.tally.lineage}),
            **({"skipped_steps": self.tally.skipped} if self.tally.skipped else {}),
            **({"rewinds": self.tally.rewinds} if self.tally.rewinds else {}),
            "unique_tokens": self.tally.tokens if unique is None else min(unique, self.tally.tokens),
            "loss": final and final["loss"],
            "loss_stderr": final and final["loss_stderr"],
            "bits_per_byte": final and final.get("bits_per_byte"),
            "evaluations": {name: finite(self.tally.evaluations[name]) for name in self.sets} if final else {},
            "wall_seconds": time.monotonic() - self.began,
            "startup_seconds": self.stopwatch.startup,
            "busy_share": self.stopwatch.busy_share,
            "stall_share": self.stopwatch.stall_share,
            "goodput": {"share": goodput(self.tally.spent), "seconds": self.tally.spent},
            "energy": energy_summary(self.tally.energy_kwh, self.energy.method),
            "peak_memory_bytes": peak_memory(),
        }

    def close(self) -> None:
        self.profile.close()
        self.checkpoints.close()
        self.metrics.close()
        self.reporter.close()


class _Call(NamedTuple):
    """A call on its way, by step but for who stops."""

    rates: np.ndarray
    sums: Any  # of the objective
    tokens: Any  # that are targets
    stop: Any


class _Diverged(Exception):
    """A loss that is not finite."""


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _count_everywhere(batches: dict[str, jax.Array]) -> jax.Array:
    """`count_targets` of batches whose rows lie on several hosts."""
    weights = next((batches[n] for n in COUNTED if n in batches), None)
    if weights is None:
        first = next(iter(batches.values()))
        return jnp.full(first.shape[0], first.shape[1])
    return (weights != 0).sum(tuple(range(1, weights.ndim)))
