"""What limits a server's throughput now, in words.

``process_sample``, ``machine_sample`` and ``server_sample`` are what is known at one moment; ``sampler`` takes them.
``diagnose`` compares two samples and returns findings; it is pure, and its rules are in the ``*_rules`` modules. Each
finding's meaning and advice are in ``catalogue``. ``report`` is the JSON of ``/stats``. It changes nothing, loads no
numpy and no inference code, and reads only /proc, /sys and what the HTTP process hands to it.
"""
