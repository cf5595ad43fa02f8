"""``amdrv-info``: which cards there are, and what one of them is.

    amdrv-info list
    amdrv-info show [--device 0 | --device 0000:03:00.0] [--boot]

Without ``--boot`` a card is only looked at: configuration space, and the discovery table that its firmware keeps.
``--json`` prints the same as one JSON object with a versioned ``schema``.
"""
