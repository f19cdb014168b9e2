"""The runs behind the bundled checkpoints and every RECORDED figure: ``python -m engine.training.<name>``."""
