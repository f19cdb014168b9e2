"""Text and tokens: tokenizers, vocabulary pieces, merges, chat templates, and escapers for what is shown."""
