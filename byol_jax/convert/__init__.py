"""Export and load encoders: `native` (Orbax, lossless), `timm` (and torchvision), `load` (both)."""
