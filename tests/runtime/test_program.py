"""Reading a compiled program: work known beforehand is found in XLA's text."""

import json

import jax
import jax.numpy as jnp
import pytest

from lmjax.runtime import devices, program, roofline

TEXT = """HloModule m

%body (p: (s32[], bf16[128,256])) -> (s32[], bf16[128,256]) {
  %p = (s32[], bf16[128,256]{1,0}) parameter(0)
  %x = bf16[128,256]{1,0} get-tuple-element(%p), index=1
  %w = bf16[256,256]{1,0} constant({...})
  %d = bf16[128,256]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %t = (s32[], bf16[128,256]{1,0}) tuple(%i, %d)
}

%sliced (a: f32[10,64]) -> f32[64] {
  %a = f32[10,64]{1,0} parameter(0)
  %s = f32[1,64]{1,0} slice(%a), slice={[0:1], [0:64]}
  ROOT %b = f32[64]{0} bitcast(%s)
}

ENTRY %main (p0: f32[10,64], t: (s32[], bf16[128,256])) -> f32[64] {
  %p0 = f32[10,64]{1,0} parameter(0)
  %t = (s32[], /*index=1*/bf16[128,256]{1,0}) parameter(1)
  %l = (s32[], bf16[128,256]{1,0}) while(%t), body=%body, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %f = f32[64]{0} fusion(%p0), kind=kLoop, calls=%sliced
}
"""  # noqa: E501


def test_a_loop_counts_as_often_as_it_turns_and_a_slice_for_its_part():
    product, fusion = program.works(TEXT)
    assert (product.kind, product.times, product.float32) == ("product", 7, False)
    operands = ("bf16", "bf16"), ((128, 256), (256, 256))
    assert product.product == program.Product(*operands, ((1,), (0,)), ((), ()))
    assert product.flops == 2 * 128 * 256 * 256
    assert product.bytes == 2 * (128 * 256 * 2 + 256 * 256)
    assert (fusion.kind, fusion.bytes) == ("fusion", 2 * 64 * 4)


EXCHANGED = """HloModule m

%body (p: (s32[], bf16[16,256])) -> (s32[], bf16[16,256]) {
  %p = (s32[], bf16[16,256]{1,0}) parameter(0)
  %x = bf16[16,256]{1,0} get-tuple-element(%p), index=1
  %s = (bf16[16,256]{1,0}, bf16[128,256]{1,0}) all-gather-start(%x), dimensions={0}
  %g = bf16[128,256]{1,0} all-gather-done(%s)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %t = (s32[], bf16[16,256]{1,0}) tuple(%i, %x)
}

ENTRY %main (w: f32[800], v: f32[8], t: (s32[], bf16[16,256])) -> f32[100] {
  %w = f32[800]{0} parameter(0)
  %v = f32[8]{0} parameter(1)
  %t = (s32[], bf16[16,256]{1,0}) parameter(2)
  %l = (s32[], bf16[16,256]{1,0}) while(%t), body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %a = (f32[800]{0}, f32[8]{0}) all-reduce-start(%w, %v), to_apply=%add
  %b = (f32[800]{0}, f32[8]{0}) all-reduce-done(%a)
  ROOT %r = f32[100]{0} reduce-scatter(%w), dimensions={0}, to_apply=%add
}
"""  # noqa: E501


def test_what_devices_exchange_is_listed_and_is_no_work():
    assert program.works(EXCHANGED) == []
    assert program.collectives(EXCHANGED) == [
        ("all-gather", 128 * 256 * 2, 7),
        ("all-reduce", 808 * 4, 1),
        ("reduce-scatter", 800 * 4, 1),
    ]


def test_what_xla_compiles_here_is_read():
    step = jax.jit(lambda a, b: jnp.tanh(a @ b).sum())
    a, b = jnp.ones((256, 512)), jnp.ones((512, 384))
    works = program.works(step.lower(a, b).compile().as_text())
    assert sum(w.flops * w.times for w in works) == 2 * 256 * 512 * 384
    assert [w.float32 for w in works if w.kind == "product"] == [True]
    assert len(roofline.large_float32(works)) == 1


def test_a_roofline_takes_the_slower_of_arithmetic_and_memory():
    rates = roofline.stated(devices.find("h100"))
    square = ((1024, 1024),) * 2
    bfloat16 = program.Product(("bf16", "bf16"), square, ((1,), (0,)), ((), ()))
    slow = program.Work("product", "p", 1e12, 1.0, 0, 0, 1, bfloat16)
    assert roofline.seconds(slow, rates) == pytest.approx(1e12 / (0.65 * 989e12) + 2e-6)
    moving = program.Work("fusion", "f", 0, 3.35e9, 0, 0, 1)
    assert roofline.seconds(moving, rates) == pytest.approx(1e-3 / 0.85 + 2e-6)
    computing = moving._replace(bytes=1.0, operations=1e9)
    dear = moving._replace(bytes=1.0, dear=1e9)
    both = [roofline.seconds(work, rates) - rates.launch for work in (computing, dear)]
    assert both[1] == pytest.approx(10 * both[0])
    float32 = slow._replace(product=bfloat16._replace(dtypes=("f32", "f32")))
    assert roofline.seconds(float32, rates) > 1.9 * roofline.seconds(slow, rates)
    measured = rates._replace(products={bfloat16: 1e12})
    assert roofline.seconds(slow, measured) == pytest.approx(1 + 2e-6)


def test_a_product_knows_its_operations_and_its_narrowest_side():
    batched = program.Product(
        ("f32", "f32"), ((6, 256, 64), (6, 512, 64)), ((2,), (2,)), ((0,), (0,))
    )
    assert batched.flops == 2 * 6 * 256 * 512 * 64
    assert batched.narrow
    assert not batched._replace(shapes=((6, 256, 128), (6, 512, 128))).narrow
    assert batched._replace(shapes=((6, 32, 128), (6, 512, 128))).narrow


def test_what_cublas_is_called_with_is_read():
    text = TEXT.replace(
        "dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
        'custom-call(%x, %w), custom_call_target="__cublas$lt$matmul", backend_config={"gemm":'
        '{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":'
        '["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}',
    )
    assert program.works(text)[0].product == program.works(TEXT)[0].product


def test_operations_are_counted_by_what_they_cost():
    x = jnp.ones((128, 1024))
    step = jax.jit(lambda x: jnp.exp(x) * x + jnp.tanh(x))
    works = program.works(step.lower(x).compile().as_text())
    assert sum(work.dear for work in works) == 2 * x.size
    assert sum(work.operations for work in works) == 2 * x.size


def test_works_survive_json():
    works = program.works(TEXT)
    again = [program.from_plain(values) for values in json.loads(json.dumps(works))]
    assert again == works
    assert len({work.product for work in again}) == 2
