"""In from what people have: tables, checkpoints and architectures of other projects."""
