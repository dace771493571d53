"""Who acts: `hf` (a transformers model, CPU or GPU) and `scripted` (given words, for tests). Imports nothing itself."""
