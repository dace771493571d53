"""One model over the processes of `accelerate launch`: FSDP2, set up by accelerate's own settings.

Decided here: where there are processes, every one keeps its part of each weight, of its gradient and of what the
optimizer keeps of it; whole is only the layer that is at work. There is no second way (whole copies) and no key of ours
for it: how many processes there are, and whether weights rest in the CPU's memory, is said to accelerate
(`--fsdp_offload_params`, `--fsdp_activation_checkpointing`, `--fsdp_transformer_layer_cls_to_wrap`), and decides no
result. torch's `fully_shard` is called, not `Accelerator.prepare`: that knows no FSDP on a CPU, and one mixed precision
for all trainings of a process. Weights travel as they are kept, in float32 where they are trained: what a matrix
product rounds to (autocast) is then the same for any number of processes.
Left out on purpose: reading the weights in one process only (each reads the whole model into the CPU's memory before
it keeps its part), whole layers kept from the forward to the backward pass, several models at a time in groups.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ipr.types import IprError

PATIENCE = timedelta(days=1)
"""How long processes wait for one another: while the first makes experts or writes a model. NCCL's own 10 minutes are
too short for that; one that dies is the launcher's matter."""


def here(device: torch.device) -> Any:
    """accelerate's state: this process among those that were launched, or alone.

    What is asked first joins them: by gloo for a CPU, by NCCL for GPUs.
    """
    from accelerate import PartialState

    return PartialState(cpu=device.type == "cpu", timeout=PATIENCE)


def several() -> bool:
    """Whether models that are trained are spread over processes."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_spread(model: Any) -> bool:
    return isinstance(model, FSDPModule)


def spread(model: Any) -> None:
    """Spread a model over the processes, in place; nothing where this one is alone, or where it has been done.

    `model` is whole and the same in every process, on the CPU so that a GPU never holds it whole. Afterwards every pass
    is one of all processes: all have to make as many. Gradients are summed over them.
    """
    state = here(model.device)
    if not several() or is_spread(model):
        return
    from accelerate import FullyShardedDataParallelPlugin

    asked = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    if asked.activation_checkpointing:
        model.activation_checkpointing_enable()
    how: dict[str, Any] = {
        "mesh": init_device_mesh(state.device.type, (state.num_processes,)),
        "reshard_after_forward": True,
        "offload_policy": OffloadPolicy() if state.device.type == "cpu" else asked.cpu_offload,
    }
    names = asked.transformer_cls_names_to_wrap or getattr(model, "_no_split_modules", None) or ()
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if asked.transformer_cls_names_to_wrap and not layers:  # each process would gather the whole model
        kinds = ", ".join(getattr(model, "_no_split_modules", None) or ["none"])
        raise IprError(
            f"accelerate's settings wrap {', '.join(names)}, which this model has not (its layers: {kinds});"
            " correct fsdp_transformer_layer_cls_to_wrap, or leave it out"
        )
    for layer in layers:
        fully_shard(layer, **how)
    fully_shard(model, **how)  # what is left: embeddings, the last norm, the output layer
    for module in model.modules():
        if isinstance(module, FSDPModule):  # a loss is divided by the counts of the whole update: its parts are summed
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def place(model: Any) -> torch.device:
    """Where a model's inputs belong, which is not where its weights are that rest in the CPU's memory."""
    first = next(model.parameters())
    return here(first.device).device if isinstance(first, DTensor) else first.device


def whole(tensor: Tensor) -> Tensor:
    """A tensor of a model with the parts of all processes, in every one. All have to ask for it."""
    # From where it rests in the CPU's memory first to the GPU, over which it travels.
    return cast(DTensor, tensor.to(here(tensor.device).device)).full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(model: Any) -> dict[str, Tensor] | None:
    """The state of a model that is spread, on the CPU, in the first process (the others get nothing in it); None where
    it is not spread. Of an adapter its own weights only. All processes have to ask for it."""
    if not is_spread(model):
        return None
    found: dict[str, Tensor] = {}
    once: dict[int, Tensor] = {}  # tied weights are one tensor, also in a file
    for name, kept in model.state_dict(keep_vars=True).items():
        if kept.requires_grad or not hasattr(model, "peft_config"):
            if id(kept) not in once:
                tensor = whole(kept.detach())
                once[id(kept)] = tensor.cpu() if here(tensor.device).is_main_process else tensor.new_empty(0)
            found[name] = once[id(kept)]
    return found if here(place(model)).is_main_process else {}


def forget_pass(model: Any) -> None:
    """After a pass that ended in an error: the next one starts anew."""
    if is_spread(model):
        model.reset_iter_state()
