"""Encoders out and in: `native` (orbax, lossless), `timm` (timm and torchvision), `load` (both)."""
