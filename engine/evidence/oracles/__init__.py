"""What recomputes figures' numbers from a model's weights and the token ids: no trace, no hooks, no `ops`."""
