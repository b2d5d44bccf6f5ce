"""One process or many, one precision or another: what accelerate does for the loop. Imported when a run starts."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from reconx_ros.core import BackendUnavailableError, InvalidInputError

_PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class Processes:
    """The processes of a run (``accelerate launch`` starts many) and the precision they compute with.

    Args:
        precision: float32, bfloat16 or float16.
        device: "cpu" keeps to the CPU; other devices are accelerate's to choose, one per process.
        idle_parameters: some of what learns takes no part in the loss, since conditions are hidden.

    Raises:
        BackendUnavailableError: without accelerate.
        InvalidInputError: for a precision that the device has not, or another one than before in this process.
    """

    def __init__(self, precision: str, device: torch.device, idle_parameters: bool = False) -> None:
        if importlib.util.find_spec("accelerate") is None:
            raise BackendUnavailableError(
                "training of the video model needs the Python package accelerate: run pip install 'reconx_ros[models]'"
            )
        from accelerate import Accelerator, DistributedDataParallelKwargs

        try:
            self._accelerator = Accelerator(
                mixed_precision=_PRECISIONS[precision], cpu=device.type == "cpu", device_placement=False,
                kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=idle_parameters)],
            )  # fmt: skip
        except ValueError as err:
            reason = str(err).splitlines()[0]
            raise InvalidInputError(f"precision {precision} cannot be used on {device.type}: {reason}") from None

    @property
    def device(self) -> torch.device:
        """Of this process."""
        return torch.device(self._accelerator.device)

    @property
    def count(self) -> int:
        """Number of processes."""
        return int(self._accelerator.num_processes)

    @property
    def number(self) -> int:
        """Of this process, from 0."""
        return int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return bool(self._accelerator.is_main_process)

    def prepare(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Model and optimiser for this process; the model's gradients are averaged over all of them."""
        prepared = self._accelerator.prepare(model, optimiser)
        return prepared[0], prepared[1]

    def release(self) -> None:
        """Forget the prepared models and optimisers."""
        self._accelerator.free_memory()

    def collecting(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around each part of a batch: gradients are exchanged after the last part only."""
        return self._accelerator.no_sync(model) if not last else nullcontext()

    def autocast(self) -> AbstractContextManager[Any]:
        """Around evaluations of the model."""
        return self._accelerator.autocast()

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of a loss, scaled where float16 needs it."""
        self._accelerator.backward(loss)

    def clip(self, model: nn.Module, norm: float) -> None:
        """Shorten the gradient to a norm."""
        self._accelerator.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], norm)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean over all processes."""
        return self._accelerator.reduce(value, reduction="mean")

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    def scaler_state(self) -> dict[str, Any] | None:
        """State of the float16 scaler; None where there is none."""
        scaler = self._accelerator.scaler
        return None if scaler is None else dict(scaler.state_dict())

    def load_scaler(self, state: dict[str, Any] | None) -> None:
        """Continue with a scaler's state."""
        if state is not None and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state)
