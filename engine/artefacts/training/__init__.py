"""Makes checkpoints: fine-tuning and distillation in a process of its own."""
