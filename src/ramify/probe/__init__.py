"""The probe: how the loss answers when one channel is split, for all channels in one pass."""
