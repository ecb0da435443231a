"""The training state on disk: everything that a killed run needs to go on as if nothing had happened.

One safetensors file, replaced in one piece: tensors (network, best network so far, moments of the optimiser, curves) and,
in its metadata, JSON (stage, step, schedule, best figure, fingerprint of the recipe). No pickle. The random draws need
no state of their own: every step seeds its generators from the seed, the stage and the step (`step_seed`).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from regsim.errors import InputError
from regsim.output import atomic_path

STATE = "training-state.safetensors"
FORMAT = 1
_KEY = "regsim training state"
Tensors = dict[str, torch.Tensor]


@dataclass
class TrainingState:
    """What is stored. `facts`: JSON values. `tensors`: groups (`network`, `best`, `optimiser`, ...) of named tensors."""

    facts: dict[str, Any]
    tensors: dict[str, Tensors] = field(default_factory=dict)


def step_seed(seed: int, stage: int, step: int, process: int, purpose: str) -> int:
    """A seed in [0, 2^63) for one step: the first 8 bytes of BLAKE2b of the arguments as text, one bit dropped.

    >>> step_seed(0, 1, 20, 0, "batch")
    4817968693120622657
    """
    text = f"{purpose}/{seed}/{stage}/{step}/{process}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def fingerprint(values: Mapping[str, Any]) -> str:
    """A hash of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def save_state(folder: Path, state: TrainingState) -> None:
    """Replace the state in one piece; a process killed at any moment leaves the old one or the new one."""
    flat = {
        f"{group}/{name}": tensor.detach().to("cpu").contiguous().clone()
        for group, tensors in state.tensors.items()
        for name, tensor in tensors.items()
    }
    with atomic_path(folder / STATE) as part:
        save_file(flat, part, metadata={_KEY: json.dumps(state.facts)})
        with part.open("rb") as written:
            os.fsync(written.fileno())


def load_state(folder: Path) -> TrainingState | None:
    """Read the state; None where there is none.

    Raises:
        InputError: the file is damaged, or not a training state.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            text = (stored.metadata() or {}).get(_KEY)
            if text is None:
                raise InputError(f"'{path}' is not a training state of regsim; remove it or give another folder")
            groups: dict[str, Tensors] = {}
            for key in stored.keys():  # noqa: SIM118  (not a dictionary)
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = stored.get_tensor(key)
            return TrainingState(json.loads(text), groups)
    except (SafetensorError, OSError, json.JSONDecodeError) as problem:
        raise InputError(f"training state '{path}' is damaged ({problem}); remove it to train from the start") from None


def remove_state(folder: Path) -> None:
    """Remove the state, when the finished model is written."""
    (folder / STATE).unlink(missing_ok=True)
