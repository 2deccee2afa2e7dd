"""The commands, a file each. What they share is in `options`."""
