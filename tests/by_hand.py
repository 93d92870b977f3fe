"""Update rules in plain Python, as a user writes them down, with the mistakes that users make.

Each takes the gradients of one parameter, perhaps its values as well, and yields its updates. Rules
here share nothing with the package.
"""

import math


def momentum(gradients, rate=0.1, beta=0.9, *, form="heavy ball", share=1.0):
    """`form`: "heavy ball", "nesterov", "old" (the velocity from before), "minus"."""
    velocity = 0.0
    for g in gradients:
        before = velocity
        velocity = beta * velocity + share * g
        yield -rate * {
            "heavy ball": velocity, "nesterov": g * share + beta * velocity, "old": before,
            "minus": g * share - beta * velocity,
        }[form]  # fmt: skip


def adam(
    gradients, rate=0.01, b1=0.9, b2=0.999, eps=1e-8, *, epsilon="outside", first="right",
    second="right", moment="new", square="new", amsgrad=None,
):  # fmt: skip
    """`first`, `second`: how a bias is corrected; `moment`, `square`: which is used."""
    m = v = top = 0.0
    for k, g in enumerate(gradients, 1):
        old_m, old_v = m, v
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        mean = corrected({"new": m, "old": old_m}[moment], b1, first, k)
        power = corrected(1.0, b2, second, k)
        used = {"new": v, "old": old_v}[square]
        if amsgrad == "before":
            top = max(top, used)
            used = top
        hat = used * power
        if amsgrad == "after":
            top = max(top, hat)
            hat = top
        below = {
            "outside": math.sqrt(hat) + eps, "inside": math.sqrt(hat + eps),
            "before": (math.sqrt(used) + eps) * math.sqrt(power), "minus": math.sqrt(hat) - eps,
            "no root": hat + eps,
        }.get(epsilon)  # fmt: skip
        if epsilon == "beside":
            yield -rate * ((mean / math.sqrt(hat) if hat > 0 else 0.0) + eps)
        else:
            yield -rate * mean / below if below else 0.0


def corrected(moment, b, how, k):
    if how == "multiplied":
        return moment * (1 - b**k)
    return moment / {"right": 1 - b**k, "none": 1.0, "ahead": 1 - b ** (k + 1),
                     "constant": 1 - b}[how]  # fmt: skip


def nadam(gradients, rate=0.01, b1=0.9, b2=0.999, eps=1e-8):
    m = v = 0.0
    for k, g in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        ahead = b1 * m / (1 - b1 ** (k + 1)) + (1 - b1) * g / (1 - b1**k)
        yield -rate * ahead / (math.sqrt(v / (1 - b2**k)) + eps)


def rmsprop(gradients, rate=0.01, decay=0.9, eps=1e-8, *, inside=True, centred=False):
    v = mean = 0.0
    for g in gradients:
        v = decay * v + (1 - decay) * g * g
        mean = decay * mean + (1 - decay) * g
        used = v - mean * mean if centred else v
        yield -rate * g / (math.sqrt(used + eps) if inside else math.sqrt(used) + eps)


def adagrad(gradients, rate=0.1, start=0.1, eps=1e-7):
    total = start
    for g in gradients:
        total += g * g
        yield -rate * g / math.sqrt(total + eps)


def adamax(gradients, rate=0.01, b1=0.9, b2=0.999, eps=1e-8):
    m = u = 0.0
    for k, g in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * g
        u = max(b2 * u, abs(g) + eps)
        yield -rate * m / (1 - b1**k) / u


def adabelief(gradients, rate=0.01, b1=0.9, b2=0.999, eps=1e-16):
    m = s = 0.0
    for k, g in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps
        yield -rate * m / (1 - b1**k) / (math.sqrt(s / (1 - b2**k)) + eps)


def adadelta(gradients, rate=1.0, rho=0.9, eps=1e-6):
    squares = moves = 0.0
    for g in gradients:
        squares = rho * squares + (1 - rho) * g * g
        move = math.sqrt(moves + eps) / math.sqrt(squares + eps) * g
        moves = rho * moves + (1 - rho) * move * move
        yield -rate * move


def lion(gradients, rate=0.001, b1=0.9, b2=0.99, *, updated_first=False):
    m = 0.0
    for g in gradients:
        before = m
        m = b2 * m + (1 - b2) * g
        yield -rate * sign(b1 * (m if updated_first else before) + (1 - b1) * g)


def rprop(gradients, rate=0.01, minus=0.5, plus=1.2, low=1e-6, high=50.0, *, turn="rests"):
    """`turn`: what a gradient of the other sign does; "rests", "moves", "remembers", "late"."""
    size, kept, last = rate, 0.0, 0.0
    for g in gradients:
        same = sign(g) * kept
        if same > 0:
            size = min(max(size * plus, low), high)
        elif same < 0:
            size = min(max(size * minus, low), high)
        move = -size * sign(g)
        kept = sign(g)
        if same < 0 and turn != "moves":
            move = 0.0
            if turn != "remembers":
                kept = 0.0
        if turn == "late":
            move, last = (0.0 if same < 0 else last), move
        yield move


def sign(value):
    return float(value > 0) - float(value < 0)
