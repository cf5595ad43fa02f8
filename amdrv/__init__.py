"""The driver: an AMD GPU owned from user space. ``amdrv.device`` boots a card, ``amdrv.hal`` is the door to it.

    from amdrv.device import Device

    with Device.open() as card:         # AMDRV_HAL picks the way to the machine; see docs/architecture.md
        print(card.marketing_name, card.boot_stages)

Most programs want ``hcq.open("AM")`` instead, which opens a card by this driver.
"""
