"""The contract between engines and workers, and the descriptions of devices that it carries.

``status`` has the messages, ``networks`` the networks on which workers may be. ``device_speed`` is how fast a device
computes, ``device_reading`` its memory, use and temperature at one moment. Nothing here measures or connects.
"""
