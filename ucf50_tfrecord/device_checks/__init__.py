"""Checks and measurements of training on the devices of a machine, on clips that they make themselves."""
