"""Encoders: tensors of one modality to an encoding."""
