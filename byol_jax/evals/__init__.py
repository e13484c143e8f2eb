"""Evaluate an encoder: nearest neighbours, linear, few labels, fine-tuning."""
