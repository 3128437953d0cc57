"""Learning rates: part of the highest one at each step, a function of the step alone, so that training resumes at any.

one-cycle   up from 1/25 over the first 3/10 of the steps, down to 0, both by a cosine (Smith and Topin, 2018)
cosine      from 1 down to 0 (Loshchilov and Hutter, ICLR 2017)
step        1, from half of the steps on 1/10, from three quarters on 1/100 (He et al., CVPR 2016)
constant    1
"""

import math

from bnncc.train.options import Schedule

RISE, START = 0.3, 1 / 25


def factor(schedule: Schedule, step: int, steps: int, warm_up: int = 0) -> float:
    """0 to 1. step: 0 to steps - 1. warm_up: steps in which the rate rises linearly before the schedule begins."""
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    done = (step - warm_up) / max(1, steps - warm_up)
    if schedule == "cosine":
        return _cosine(done, 1, 0)
    if schedule == "step":
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    if schedule == "constant":
        return 1.0
    return _cosine(done / RISE, START, 1) if done < RISE else _cosine((done - RISE) / (1 - RISE), 1, 0)


def _cosine(done: float, first: float, last: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
