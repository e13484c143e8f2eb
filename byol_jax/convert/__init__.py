"""Encoders out and in: `native` (Orbax, lossless), `timm` (timm, torchvision), `load` (both)."""
