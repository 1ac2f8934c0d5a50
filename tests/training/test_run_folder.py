# SPDX-License-Identifier: Apache-2.0
"""Which commit a run folder says it ran from."""

import subprocess

from t5x_like.training import run_folder


def test_the_commit_that_is_recorded(tmp_path, monkeypatch):
    """None where no checkout tracks the package, then a commit, then one with changes; untracked files are none."""

    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        return subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True)

    package = tmp_path / "site-packages" / "run_folder.py"
    package.parent.mkdir()
    package.write_text("one = 1\n")
    (tmp_path / "README").write_text("another project\n")
    monkeypatch.setattr(run_folder, "__file__", str(package))
    assert run_folder._git_commit() is None  # no checkout at all
    git("init")
    git("add", "README")
    git("commit", "-m", "another project")
    assert run_folder._git_commit() is None  # another project's
    git("add", ".")
    git("commit", "-m", "the package")
    commit = git("rev-parse", "HEAD").stdout.strip()
    (tmp_path / "notes").write_text("untracked\n")
    assert run_folder._git_commit() == commit
    package.write_text("one = 2\n")
    assert run_folder._git_commit() == commit + "-dirty"
