"""Models: their folders (`folders`), loading and saving (`loading`), new small ones (`make`), GGUF (`from_gguf`),
for other software (`export`).

`plug` is the only touch on the internals of torch and transformers. `embedded/` holds the bases that are shipped.
"""

from ipr.models.export import export
from ipr.models.folders import (
    adapter,
    config_of,
    context_length,
    copy_files,
    copy_model,
    is_here,
    known,
    longest,
    model_hash,
    resolve,
    share_weights,
)
from ipr.models.from_gguf import import_gguf
from ipr.models.loading import (
    LARGE,
    check_model,
    device,
    dtype_of,
    embeddings,
    free_gpu,
    freeze_embeddings,
    gpus,
    load_model,
    load_tokenizer,
    save_blank_adapter,
    save_model,
    with_adapter,
)
from ipr.models.make import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    new_base_model,
    relate_forms,
    shallow,
    tiny_copy,
    train_tokenizer,
)

__all__ = [
    "CHAT_TEMPLATE",
    "LARGE",
    "SPECIAL_TOKENS",
    "adapter",
    "check_model",
    "config_of",
    "context_length",
    "copy_files",
    "copy_model",
    "device",
    "dtype_of",
    "embeddings",
    "export",
    "free_gpu",
    "freeze_embeddings",
    "gpus",
    "import_gguf",
    "is_here",
    "known",
    "load_model",
    "load_tokenizer",
    "longest",
    "model_hash",
    "new_base_model",
    "relate_forms",
    "resolve",
    "save_blank_adapter",
    "save_model",
    "shallow",
    "share_weights",
    "tiny_copy",
    "train_tokenizer",
    "with_adapter",
]
