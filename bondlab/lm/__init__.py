"""Language models: one face for causal and encoder-decoder models of transformers."""
