# SPDX-License-Identifier: Apache-2.0
"""A process of `test_several_hosts.py`: trains runs one after another, so that JAX is started once.

python one_of_several.py PORT PROCESSES PROCESS FOLDER...    each FOLDER beside its FOLDER.json, a resolved config
"""

import sys
from pathlib import Path

from t5x_like.config_files import run_from_json
from t5x_like.files import read_json
from t5x_like.parallel.companions import together
from t5x_like.parallel.hosts import find_hosts

port, processes, process, *folders = sys.argv[1:]
with together(find_hosts(f"localhost:{port}", int(processes), int(process))):
    from t5x_like.training.loop import train
    from t5x_like.training.startup import configure_jax

    configure_jax()
    for folder in folders:
        train(run_from_json(read_json(Path(folder + ".json"))), folder)
