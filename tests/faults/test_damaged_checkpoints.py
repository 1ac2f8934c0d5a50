# SPDX-License-Identifier: Apache-2.0
"""Any one file of a checkpoint cut short, changed or gone: the checkpoint before it is used, and nothing is deleted."""

import json
import shutil
from contextlib import closing

import jax
import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.training.checkpoints import Checkpoints, load_trained
from t5x_like.training.loop import train
from t5x_like.training.program import program_for
from t5x_like.training.seals import SEAL, damage

MARK = "commit_success.txt"  # Orbax's, put beside what it wrote; nothing is read of it
EVERY = ("training.steps=8", "training.checkpoint_every=4")


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    """The folder of a run with checkpoints of steps 4 and 8, its config and the state at its end."""
    config, folder = make_run(*EVERY), tmp_path_factory.mktemp("whole") / "run"
    train(config, folder)
    return folder, config


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("spoil", [cut, flip, lambda path: path.unlink()], ids=["cut", "flipped", "gone"])
def test_every_file_of_a_checkpoint(spoil, run, tmp_path):
    folder, config = run
    abstract = program_for(config).abstract_state
    with closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        newest = jax.tree.map(np.asarray, checkpoints.restore(abstract)[0])
    shutil.copytree(folder / "checkpoints/4", tmp_path / "earlier/4")
    with closing(Checkpoints(tmp_path / "earlier")) as checkpoints:
        states = {4: jax.tree.map(np.asarray, checkpoints.restore(abstract)[0]), 8: newest}
    assert int(states[4].step) == 4 and int(states[8].step) == 8
    whole = folder / "checkpoints/8"
    names = [name for name in files_of(whole) if (whole / name).stat().st_size]
    assert len(names) > 20
    for number, name in enumerate(names):
        copy = tmp_path / str(number)
        shutil.copytree(folder / "checkpoints", copy)
        spoil(copy / "8" / name)
        without_seal = not (copy / "8" / SEAL).exists()  # as one of an older version: read as it is
        expected = 8 if without_seal or str(name) == MARK else 4
        before, told = files_of(copy), []
        with closing(Checkpoints(copy, note=told.append)) as checkpoints:
            assert checkpoints.latest == expected, name
            state, tally = checkpoints.restore(abstract)
        assert tally["step"] == expected
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, state), states[expected])
        named = "" if name.name == SEAL else f"{name} "
        assert len(told) == (expected == 4) and all(f"{copy}/8 is damaged: {named}" in text for text in told), told
        assert files_of(copy) == before
        shutil.rmtree(copy)


def test_only_what_is_wanted_is_looked_at(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run[0], copy)
    kept = copy / "checkpoints" / "8"
    flip(next(path for path in (kept / "optimizer").rglob("*") if path.is_file() and path.stat().st_size))
    assert damage(kept, only=("params",)) is None
    assert "optimizer/" in damage(kept)


def test_a_run_goes_on_from_the_one_before(run, tmp_path, capsys):
    """It trains the lost steps anew, saves them, and ends just as it did; what is damaged lies beside."""
    folder, config = run
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    (copy / "summary.json").unlink()
    cut(copy / "checkpoints/8/params/_METADATA")
    _, _, earlier = load_trained(copy)
    assert "/8 is damaged: params/_METADATA is not as it was written; it is left there" in capsys.readouterr().err
    assert train(config, copy)["status"] == "finished"
    _, _, ours = load_trained(copy)
    _, _, theirs = load_trained(folder)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (earlier, ours)), strict=True))
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == ["4", "8", "damaged-8"]

    def losses(folder):
        return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]

    assert losses(copy) == losses(folder)


def test_all_of_them(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run[0], copy)
    (copy / "summary.json").unlink()
    for step in (4, 8):
        cut(copy / f"checkpoints/{step}/tally/metadata")
    before = files_of(copy / "checkpoints")
    with pytest.raises(UserError, match=r"each of its 2 checkpoints is damaged, none was touched; bring one back, or"):
        train(run[1], copy)
    assert files_of(copy / "checkpoints") == before
