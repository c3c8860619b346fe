"""What the page's dashboard shows beyond ``/stats``: running requests, cores, models, the last minutes and log lines.

``history`` takes a few numbers at the timer's ticks. Everything else is read when a page asks, about once a second.
``running_requests`` knows the requests that run, and ends one for its sender or for the operator. ``operator`` says who
that is. No text of a request is read here.
"""
