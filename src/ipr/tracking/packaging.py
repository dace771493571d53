"""A model folder as an MLflow model: `mlflow.transformers.load_model` loads it, `mlflow models serve` serves it.

Decided here: MLmodel, requirements, example and the tokenizer's files are written beside the model's own, which stay as
they are, so that one folder serves MLflow and us. Nothing is loaded for it. Weights are hard links where the store is a
folder on the same disk, and weights that MLflow has already are not sent again (`view`). An adapter names its base, by
path or hub name and by hash; the base's weights are not in the package.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ipr import models, store
from ipr.models.folders import base_of

TASK = "llm/v1/chat"
"""What is served: chat messages in, an answer out, in OpenAI's form."""
NEEDS = ("mlflow", "torch", "transformers", "accelerate", "peft")
TOKENIZER = ("tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "chat_template")
"""How the names of a tokenizer's files begin."""


def is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()


def package(folder: Path, aside: Path, example: Sequence[Mapping[str, str]], metadata: Mapping[str, Any]) -> None:
    """Fill the folder `aside` with the MLflow model of `folder`."""
    from mlflow import pyfunc
    from mlflow.models import Model
    from mlflow.models.utils import _save_example
    from mlflow.transformers.llm_inference_utils import infer_signature_from_llm_inference_task
    from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv

    models.copy_files(folder, aside)
    of_tokenizer = [file for file in folder.iterdir() if file.name.startswith(TOKENIZER)]
    for file in of_tokenizer:
        target = aside / "components" / "tokenizer" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    flavour: dict[str, Any] = {
        "task": "text-generation",
        "instance_type": "TextGenerationPipeline",
        "inference_task": TASK,
        "pipeline_model_type": "AutoModelForCausalLM",
        "source_model_name": folder.parent.name,
        "components": ["tokenizer"],
        "tokenizer_type": "AutoTokenizer",
    }
    about = dict(metadata) | {"task": TASK}
    if (folder / "adapter_config.json").is_file():
        base = base_of(folder)
        flavour |= {"local_base_model_path": models.resolve(base["path"]), "peft_adaptor": "."}
        about |= {"base_model": base["path"], "base_hash": base["hash"]}
    else:
        flavour["model_binary"] = "."
    needs = [f"{name}=={version(name).split('+')[0]}" for name in NEEDS]
    made = Model(metadata=about, signature=infer_signature_from_llm_inference_task(TASK))
    _save_example(made, {"messages": [dict(message) for message in example]}, str(aside))
    made.add_flavor("transformers", transformers_version=version("transformers"), code=None, **flavour)
    pyfunc.add_to_model(made, "mlflow.transformers", conda_env="conda.yaml", python_env="python_env.yaml")
    made.model_size_bytes = sum(file.stat().st_size for file in aside.rglob("*") if file.is_file())
    _mlflow_conda_env(path=str(aside / "conda.yaml"), additional_pip_deps=needs[1:])
    store.write_text(aside / "requirements.txt", "\n".join(needs) + "\n")
    _PythonEnv.current().to_yaml(str(aside / "python_env.yaml"))
    made.save(str(aside / "MLmodel"))


def local(place: str) -> Path | None:
    """The folder of an artifact store on this machine; None where it is somewhere else."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(place)


def schema_and_profile(path: Path) -> tuple[str, str] | None:
    """A Parquet file's columns and size as MLflow shows them with a data set; None where it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from mlflow.types.utils import _infer_schema

    if path.suffix != ".parquet" or not path.is_file():
        return None
    file = pq.ParquetFile(path)
    first = next(file.iter_batches(1), None)
    if first is None or not first.num_rows:
        return None
    rows = file.metadata.num_rows
    with warnings.catch_warnings(action="ignore"):  # a hint that columns of whole numbers have no missing values
        schema = _infer_schema(pa.Table.from_batches([first]).to_pandas().map(_plain))
    columns = {"mlflow_colspec": schema.to_dict()}
    profile = {"num_rows": rows, "num_elements": rows * len(file.schema_arrow.names), "bytes": path.stat().st_size}
    return json.dumps(columns), json.dumps(profile)


def _plain(value: Any) -> Any:
    """Arrays of pyarrow as lists, which MLflow's schema knows."""
    return value.tolist() if hasattr(value, "tolist") else value
