"""Formats of weights that are not read here: their names, and the command that converts the very folder given.

A command writes to the folder's name with `-hf` behind it; BASE stands for the model that training started from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from probe.checkpoints.files import has_weights, stated


def unreadable(folder: Path) -> str | None:
    """The name of the format of this folder's weights and how to convert it; None where it is no such format."""
    if not folder.is_dir():
        return _file(folder)
    return next((told for tell in _FOLDERS if (told := tell(folder)) is not None), None)


def _told(what: str, folder: Path, command: str, more: str = "") -> str:
    return f"{folder}: {what}, which is not read here. Convert it first: {command.format(out=f'{folder}-hf')}{more}"


def partitioned(folder: Path) -> list[Path]:
    """Where DeepSpeed writes: the folder itself, and the one `global_stepN` in a `checkpoint-N` of transformers."""
    inner = sorted(folder.glob("global_step*")) if re.search(r"checkpoint-\d+$", folder.name) else []
    return [folder, *(inner if len(inner) == 1 else [])]


def _zero3(folder: Path) -> str | None:
    holder = next((f for f in partitioned(folder) if _partitions(f)), None)
    if holder is None:
        return None
    top = holder.parent if holder.name.startswith("global_step") else holder
    script = top / "zero_to_fp32.py"
    run = f"python {script}" if script.is_file() else "python -m deepspeed.utils.zero_to_fp32"
    tag = f" -t {holder.name}" if holder != top else ""
    command = f"{run} {top} {{out}}{tag} --safe_serialization"
    return _told("weights that DeepSpeed ZeRO-3 left in partitions", folder, command, _BESIDE)


def _partitions(folder: Path) -> bool:
    return any(folder.glob("zero_pp_rank_*_mp_rank_*_model_states.pt"))


def _megatron(folder: Path) -> str | None:
    if (folder / "dist_ckpt").is_dir():
        command = f"python -m verl.model_merger merge --backend megatron --local_dir {folder} --target_dir {{out}}"
        return _told("a distributed checkpoint of Megatron, saved by verl", folder, command)
    if any(folder.glob("mp_rank_*/model_optim_rng.pt")):
        first = f"--load {folder.parent} --ckpt-convert-format torch_dist --ckpt-convert-save {folder}-torch_dist"
        return _told(
            "a checkpoint of Megatron-LM (tensor parallel ranks)",
            folder,
            f"start the training script once more with {first}; then {_bridge(f'{folder}-torch_dist')}",
        )
    if (folder / "common.pt").is_file() or _says(folder / "metadata.json", "sharded_backend"):
        return _told("a distributed checkpoint of Megatron (torch_dist)", folder, _bridge(str(folder)))
    return None


def _bridge(path: str) -> str:
    return (
        'python -c "from megatron.bridge import AutoBridge; '
        f"AutoBridge.from_hf_pretrained('BASE').export_ckpt('{path}', '{{out}}')\""
    )


def _nemo(folder: Path) -> str | None:
    if (folder / "context").is_dir() and (folder / "weights").is_dir():
        return _told("a checkpoint of NeMo 2", folder, _nemo_export(folder))
    return None


def _nemo_export(path: Path) -> str:
    return (
        'python -c "from pathlib import Path as P; from nemo.collections import llm; '
        f"llm.export_ckpt(path=P('{path}'), target='hf', output_path=P('{{out}}'))\""
    )


def _titan(folder: Path) -> str | None:
    metadata = folder / ".metadata"
    if not metadata.is_file() or b"tok_embeddings.weight" not in metadata.read_bytes():
        return None
    return _told(
        "a distributed checkpoint with torchtitan's own names of parameters",
        folder,
        f"python scripts/checkpoint_conversion/convert_to_hf.py {folder} {{out}} --hf_assets_path BASE "
        "--model_name llama3 --model_flavor 8B",
        " in torchtitan's repository (name and flavor as in training)" + _BESIDE,
    )


def _lightning(folder: Path) -> str | None:
    found = sorted(folder.glob("*.ckpt"))
    return None if not found or has_weights(folder) else _checkpoint_file(found[-1], len(found))


def _checkpoint_file(file: Path, count: int = 1) -> str:
    many = f" ({count} of them in this folder; the same for each)" if count > 1 else ""
    if file.is_dir():
        first = f"python -m lightning.pytorch.utilities.consolidate_checkpoint {file}; then "
        return _told(f"a sharded checkpoint of Lightning{many}", file, first + _state_dict(f"{file}.consolidated"))
    return _told(f"a checkpoint of Lightning{many}", file, _state_dict(str(file)))


def _state_dict(path: str) -> str:
    return (
        'python -c "import torch; from transformers import AutoModelForCausalLM as A, AutoTokenizer as T; '
        f"s = torch.load('{path}', map_location='cpu', weights_only=True)['state_dict']; "
        "p = 'model.' if 'model.model.norm.weight' in s else ''; m = A.from_pretrained('BASE'); "
        "m.load_state_dict({{k.removeprefix(p): v for k, v in s.items()}}); "
        "m.save_pretrained('{out}'); T.from_pretrained('BASE').save_pretrained('{out}')\""
    )


def _gguf(folder: Path) -> str | None:
    found = sorted(folder.glob("*.gguf"))
    return None if not found or has_weights(folder) else _gguf_file(found[0])


def _gguf_file(file: Path) -> str:
    command = (
        "pip install gguf; "
        'python -c "from transformers import AutoModelForCausalLM as A, AutoTokenizer as T; '
        f"[c.from_pretrained('{file.parent}', gguf_file='{file.name}').save_pretrained('{{out}}') for c in (A, T)]\""
    )
    return _told("weights in GGUF (llama.cpp)", file, command, " (quantised weights stay rounded)")


def _mlx(folder: Path) -> str | None:
    if isinstance(stated(folder).get("quantization"), dict):
        command = f"mlx_lm.convert --hf-path {folder} --mlx-path {{out}} --dequantize"
        return _told("a model quantised by MLX", folder, command)
    adapter = folder / "adapter_config.json"
    if (folder / "adapters.safetensors").is_file() or _says(adapter, "lora_parameters"):
        command = f"mlx_lm.fuse --model BASE --adapter-path {folder} --save-path {{out}} --dequantize"
        return _told("an adapter of MLX, which is none of PEFT's", folder, command)
    return None


def _consolidated(folder: Path) -> str | None:
    if has_weights(folder):
        return None
    if any(folder.glob("consolidated*.safetensors")):
        return _told(
            "weights under Mistral's own names (consolidated.safetensors)", folder, _converter("mistral", folder)
        )
    if any(folder.glob("consolidated.*.pth")):
        return _told("weights under Llama's own names (consolidated.*.pth)", folder, _converter("llama", folder))
    return None


def _converter(family: str, folder: Path) -> str:
    return (
        f"pip install 'transformers<5'; python -m transformers.models.{family}.convert_{family}_weights_to_hf "
        f"--input_dir {folder} --output_dir {{out}}"
    )


def _older(folder: Path) -> str | None:
    for file, option, what in (("flax_model.msgpack", "flax", "Flax"), ("tf_model.h5", "tf", "TensorFlow")):
        if (folder / file).is_file() and not has_weights(folder):
            command = (
                "pip install 'transformers<5'; "
                'python -c "from transformers import AutoModelForCausalLM as A, AutoTokenizer as T; '
                f"A.from_pretrained('{folder}', from_{option}=True).save_pretrained('{{out}}'); "
                f"T.from_pretrained('{folder}').save_pretrained('{{out}}')\""
            )
            return _told(f"weights of {what}", folder, command)
    return None


def _file(file: Path) -> str | None:
    if not file.is_file():
        return None
    if file.suffix == ".gguf":
        return _gguf_file(file)
    if file.suffix == ".nemo":
        return _told("a checkpoint of NeMo", file, _nemo_export(file))
    return _checkpoint_file(file) if file.suffix == ".ckpt" else None


def _says(file: Path, word: str) -> bool:
    if not file.is_file():
        return False
    try:
        return word in json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
        return False


_BESIDE = "; then copy config.json and the tokenizer's files of BASE there"
_FOLDERS: tuple[Callable[[Path], str | None], ...] = (
    _zero3, _titan, _megatron, _nemo, _lightning, _gguf, _mlx, _consolidated, _older,
)  # fmt: skip
