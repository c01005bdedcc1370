"""The reference job: a small Llama-style language model over bytes, its data, training loop, evaluation and sampling."""
