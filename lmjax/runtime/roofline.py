"""The time of a step by a roofline over its kernels: each takes what its slowest resource takes."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from lmjax.runtime.devices import Card
from lmjax.runtime.program import Product, Work

# Fractions of a data sheet's figures that kernels reach. Products: an H100 was documented at 798 of
# 989 TFLOP/s for 8192^3; those of a language model are smaller. cuDNN's attention: about 630
# forward at head width 128, less backward and at 64. With these a step of configs/gpt2_124m_h100.py
# was foreseen at 1.134 s and took 1.130 on that card (docs/performance.md).
PRODUCT, ATTENTION, BANDWIDTH = 0.65, 0.45, 0.85
# float32 products run as TF32, at half the rate of bfloat16 on all these cards.
FLOAT32 = 0.5
CACHE = 2**22  # bytes that a CPU still holds when the next kernel reads them
LAUNCH = 2e-6  # seconds between two kernels of a CUDA graph


class Rates(NamedTuple):
    """What a device reaches, a second; `launch` is seconds a kernel."""

    product: float
    product_float32: float
    narrow: float
    """Of products with a side below 128, such as attention's without a kernel of its own."""
    attention: float
    bytes: float
    cached: float
    """Bytes of a kernel that moves so few, `CACHE`, that it finds them in a cache."""
    operations: float
    """Scalar ones, such as additions."""
    dear: float
    """Scalar ones of many instructions each, such as exponentials."""
    launch: float
    products: Mapping[Product, float] = MappingProxyType({})
    """Of products that were each measured."""


def stated(card: Card) -> Rates:
    """Rates by the data sheet and the fractions above."""
    peak = card.tflops * 1e12
    scalar = card.multiprocessors * card.lanes * card.ghz * 1e9
    return Rates(
        product=PRODUCT * peak,
        product_float32=PRODUCT * FLOAT32 * peak,
        narrow=ATTENTION / 2 * peak,
        attention=ATTENTION * peak,
        bytes=BANDWIDTH * card.gbps * 1e9,
        cached=BANDWIDTH * card.gbps * 1e9,  # a card's cache is not told from its memory
        operations=scalar / 2,
        dear=scalar / 20,
        launch=LAUNCH,
    )


def seconds(work: Work, rates: Rates) -> float:
    """Of one call of a kernel."""
    moving = work.bytes / (rates.cached if work.bytes <= CACHE else rates.bytes)
    scalar = work.operations / rates.operations + work.dear / rates.dear
    if work.kind == "attention":
        return rates.launch + max(moving, work.flops / rates.attention)
    rate = rates.product_float32 if work.float32 else rates.product
    if work.product is not None:
        if work.product.narrow:
            rate = min(rate, rates.narrow)
        rate = rates.products.get(work.product, rate)
    return rates.launch + max(moving, work.flops / rate + scalar)


class Times(NamedTuple):
    """Seconds a step, by what they are spent on."""

    products: float
    attention: float
    fusions: float

    @property
    def total(self) -> float:
        return sum(self)


def times(works: Iterable[Work], rates: Rates) -> Times:
    """Seconds of a whole step."""
    spent = {"product": 0.0, "attention": 0.0, "fusion": 0.0}
    for work in works:
        spent[work.kind] += work.times * seconds(work, rates)
    return Times(spent["product"], spent["attention"], spent["fusion"])


def large_float32(works: Iterable[Work]) -> list[Work]:
    """Products in float32 that take more than a hundredth of all products' operations."""
    products = [work for work in works if work.kind == "product"]
    all_flops = sum(work.flops * work.times for work in products)
    return [
        work for work in products if work.float32 and work.flops * work.times > 0.01 * all_flops
    ]
