"""Run by torch's launcher with two ranks: one tiny model saved as verl, accelerate and plain DCP save it.

torchrun --nproc-per-node 2 make_shards.py MODEL FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp._shard_utils import _create_chunk_dtensor, _create_chunk_sharded_tensor
from transformers import AutoModelForCausalLM


def read(base: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def fsdp2(base: str, mesh: Any) -> Any:
    model = read(base)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def as_verl(state: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"model_world_size_{dist.get_world_size()}_rank_{dist.get_rank()}.pt")


def fsdp1(model: Any, mesh: Any) -> tuple[Any, Any]:
    """Parts as FSDP1's own code cuts them with a mesh and without (only to train it asks for an accelerator)."""
    rank, world = dist.get_rank(), dist.get_world_size()
    whole = model.state_dict()
    parts = {n: _create_chunk_dtensor(x, rank, mesh) for n, x in whole.items()}
    old = {
        n: _create_chunk_sharded_tensor(x, rank, world, world, dist.distributed_c10d._get_default_group())
        for n, x in whole.items()
    }
    return parts, old


def stepped(model: Any) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    optimizer.step()
    return optimizer


def main(base: str, root: Path) -> None:
    dist.init_process_group("gloo")
    one = init_device_mesh("cpu", (2,), mesh_dim_names=("fsdp",))
    model = fsdp2(base, one)
    optimizer = stepped(model)
    state = get_model_state_dict(model)
    as_verl(model.state_dict(), root / "verl2/global_step_1/actor")
    dcp.save(state, checkpoint_id=str(root / "bare/step-1"))
    dcp.save({"model": state}, checkpoint_id=str(root / "accelerate/checkpoint-1/pytorch_model_fsdp_0"))
    both = {"model": state, "optim": get_optimizer_state_dict(model, optimizer), "step": 7}
    dcp.save(both, checkpoint_id=str(root / "both/step_1/policy/weights"))
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        torch.save(full, root / "full.pt")
    parts, old = fsdp1(read(base), one)
    as_verl(parts, root / "verl1/global_step_1/actor")
    as_verl(old, root / "without_mesh/global_step_1/actor")
    copies = init_device_mesh("cpu", (2, 1), mesh_dim_names=("ddp", "fsdp"))
    as_verl(fsdp2(base, copies).state_dict(), root / "hybrid/global_step_1/actor")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
