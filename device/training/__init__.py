"""How the packaged CSM voice is made: the corpus, its codec, the model, and fine-tuning. Never run on a bedside device."""
