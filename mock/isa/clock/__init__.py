"""The modelled clock: how long a launch would take on a Radeon RX 7900 XTX."""
