"""The engine `criu`: docs/engine.md."""
