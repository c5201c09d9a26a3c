"""What a denoiser's block does between its matrix products, in Triton: each kernel reads and writes the tokens once.

Arithmetic is fp32 whatever is stored; shapes are those of `dsr.denoiser.layers`, with T = B N rows of tokens. Sums
over tokens are made in two steps, in a fixed order, so that the same inputs always give the same bits. Kernels that
take whole rows hold a row as two tiles, ``MAIN`` and ``REST`` channels wide, because tiles are powers of two: 1152
channels are 1024 + 128 instead of 2048 that are nearly half empty.
"""

# Triton calls these functions with pointers and compiles their bodies: Python's types do not describe them.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _row(values, place, columns, inside):
    return tl.load(values + place + columns, inside, 0.0).to(tl.float32)


@triton.jit
def _updated(
    x, update, bias, gate, stream, place, condition, columns, inside, UPDATED: tl.constexpr
):  # fmt: skip
    """Return x + gate (update + bias), which is also stored; without an update, x."""
    value = _row(x, place, columns, inside)
    if UPDATED:
        added = _row(update, place, columns, inside) + _row(bias, 0, columns, inside)
        value += _row(gate, condition, columns, inside) * added
        tl.store(stream + place + columns, value, inside)
    return value


@triton.jit
def _modulated(value, factor, weight, scale, shift, condition, columns, inside):
    scaled = _row(weight, 0, columns, inside) * (1.0 + _row(scale, condition, columns, inside))
    return value * factor * scaled + _row(shift, condition, columns, inside)


@triton.jit
def modulate_forward(
    x, update, bias, gate, weight, scale, shift, stream, hidden, kept, condition_stride, tokens,
    WIDTH: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, EPS: tl.constexpr, UPDATED: tl.constexpr,
    LARGEST: tl.constexpr,
):  # fmt: skip
    """One row: stream = x + gate (update + bias); hidden = stream normalised, scaled around one and shifted.

    ``tokens`` rows share a condition; ``kept`` gets each row's factor of the normalisation for the backward pass. If
    there is a ``LARGEST`` number, rows of hidden are divided so that it is their largest, and ``kept`` gets by what.
    """
    row = tl.program_id(0).to(tl.int64)
    place, condition = row * WIDTH, row // tokens * condition_stride
    main, rest = tl.arange(0, MAIN), MAIN + tl.arange(0, REST)
    inside, rest_inside = main < WIDTH, rest < WIDTH
    value = _updated(x, update, bias, gate, stream, place, condition, main, inside, UPDATED)
    others = _updated(x, update, bias, gate, stream, place, condition, rest, rest_inside, UPDATED)
    factor = 1.0 / tl.sqrt((tl.sum(value * value, 0) + tl.sum(others * others, 0)) / WIDTH + EPS)
    value = _modulated(value, factor, weight, scale, shift, condition, main, inside)
    others = _modulated(others, factor, weight, scale, shift, condition, rest, rest_inside)
    if LARGEST > 0:
        factor = tl.maximum(tl.max(tl.abs(value), 0), tl.max(tl.abs(others), 0)) / LARGEST + 1e-30
        value, others = value / factor, others / factor
    tl.store(hidden + place + main, value, inside)
    tl.store(hidden + place + rest, others, rest_inside)
    tl.store(kept + row, factor)


@triton.jit
def _constants(weight, scale, gate, bias, condition, columns, inside, UPDATED: tl.constexpr):
    """Return weight, 1 + scale, gate and bias of one condition."""
    around = 1.0 + _row(scale, condition, columns, inside)
    gated, constant = around, around
    if UPDATED:
        gated, constant = _row(gate, condition, columns, inside), _row(bias, 0, columns, inside)
    return _row(weight, 0, columns, inside), around, gated, constant


@triton.jit
def _passed_back(
    upper, unit, mean, factor, normal, around, gated, constant, of_shift, of_factor, of_gate, of_x,
    grad_stream, update, grad_x, grad_update, grad_condition, total, place, columns, inside,
    UPDATED: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Store the gradients of one row's channels and return the sums with them."""
    lower = _row(grad_stream, place, columns, inside) + factor * (upper * normal * around - unit * mean)
    tl.store(grad_x + place + columns, lower, inside)
    if EACH:
        tl.store(grad_condition + place + columns, upper, inside)
        tl.store(grad_condition + total + place + columns, upper * unit * normal, inside)
        of_factor += upper * unit * around
    else:
        of_shift += upper
        of_factor += upper * unit
    if UPDATED:
        tl.store(grad_update + place + columns, lower * gated, inside)
        of_update = lower * (_row(update, place, columns, inside) + constant)
        if EACH:
            tl.store(grad_condition + 2 * total + place + columns, of_update, inside)
            of_x += lower * gated
        else:
            of_gate += of_update
            of_x += lower
    return of_shift, of_factor, of_gate, of_x


@triton.jit
def _store_sums(sums, of_shift, of_factor, of_gate, of_x, columns, inside, WIDTH: tl.constexpr):
    tl.store(sums + columns, of_shift, inside)
    tl.store(sums + WIDTH + columns, of_factor, inside)
    tl.store(sums + 2 * WIDTH + columns, of_gate, inside)
    tl.store(sums + 3 * WIDTH + columns, of_x, inside)


@triton.jit
def modulate_backward(
    grad_hidden, grad_stream, stream, inverse, update, bias, gate, weight, scale,
    grad_x, grad_update, grad_condition, sums, condition_stride, tokens,
    WIDTH: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
    UPDATED: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """``ROWS`` rows of one condition, or, if ``EACH`` row has a condition of its own, any ``ROWS`` rows.

    ``sums``, (groups, parts, 4, WIDTH), gets this program's sums over its rows: of the gradients of shift, of the
    normalised stream's factor, and of gate, and of grad_x. If ``EACH``, the first three are written a row at a time
    to ``grad_condition``, (3, T, WIDTH), and ``sums`` gets the gradients of weight and bias in place of two of them.
    """
    group, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    main, rest = tl.arange(0, MAIN), MAIN + tl.arange(0, REST)
    inside, rest_inside = main < WIDTH, rest < WIDTH
    condition, total = group * condition_stride, tl.num_programs(0).to(tl.int64) * tokens * WIDTH
    normal, around, gated, constant = _constants(weight, scale, gate, bias, condition, main, inside, UPDATED)
    normal2, around2, gated2, constant2 = _constants(weight, scale, gate, bias, condition, rest, rest_inside, UPDATED)
    of_shift, of_factor = tl.zeros((MAIN,), tl.float32), tl.zeros((MAIN,), tl.float32)
    of_gate, of_x = tl.zeros((MAIN,), tl.float32), tl.zeros((MAIN,), tl.float32)
    of_shift2, of_factor2 = tl.zeros((REST,), tl.float32), tl.zeros((REST,), tl.float32)
    of_gate2, of_x2 = tl.zeros((REST,), tl.float32), tl.zeros((REST,), tl.float32)
    for token in tl.range(part * ROWS, tl.minimum(part * ROWS + ROWS, tokens), num_stages=STAGES):
        row = group * tokens + token
        place = row * WIDTH
        if EACH:
            condition = row * condition_stride
            normal, around, gated, constant = _constants(weight, scale, gate, bias, condition, main, inside, UPDATED)
            normal2, around2, gated2, constant2 = _constants(
                weight, scale, gate, bias, condition, rest, rest_inside, UPDATED
            )
        factor = tl.load(inverse + row)
        upper, upper2 = _row(grad_hidden, place, main, inside), _row(grad_hidden, place, rest, rest_inside)
        unit, unit2 = _row(stream, place, main, inside) * factor, _row(stream, place, rest, rest_inside) * factor
        mean = (tl.sum(upper * normal * around * unit, 0) + tl.sum(upper2 * normal2 * around2 * unit2, 0)) / WIDTH
        of_shift, of_factor, of_gate, of_x = _passed_back(
            upper, unit, mean, factor, normal, around, gated, constant, of_shift, of_factor, of_gate, of_x,
            grad_stream, update, grad_x, grad_update, grad_condition, total, place, main, inside, UPDATED, EACH,
        )  # fmt: skip
        of_shift2, of_factor2, of_gate2, of_x2 = _passed_back(
            upper2, unit2, mean, factor, normal2, around2, gated2, constant2, of_shift2, of_factor2, of_gate2, of_x2,
            grad_stream, update, grad_x, grad_update, grad_condition, total, place, rest, rest_inside, UPDATED, EACH,
        )  # fmt: skip
    sums += (group * tl.num_programs(1) + part) * 4 * WIDTH
    _store_sums(sums, of_shift, of_factor, of_gate, of_x, main, inside, WIDTH)
    _store_sums(sums, of_shift2, of_factor2, of_gate2, of_x2, rest, rest_inside, WIDTH)


@triton.jit
def modulate_finish(
    sums, weight, scale, gate, grad_condition, shares, condition_stride, parts,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, UPDATED: tl.constexpr,
):  # fmt: skip
    """Add up the ``sums`` of one condition: gradients of shift, scale and gate into ``grad_condition``, (3, B, WIDTH).

    ``shares``, (B, 2, WIDTH), gets the condition's shares of the gradients of weight and bias.
    """
    image = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < WIDTH
    of_shift, of_factor = tl.zeros((COLUMNS,), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    of_gate, of_x = tl.zeros((COLUMNS,), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    sums += image * parts * 4 * WIDTH + column
    for _ in range(parts):
        of_shift += tl.load(sums, inside, 0.0)
        of_factor += tl.load(sums + WIDTH, inside, 0.0)
        of_gate += tl.load(sums + 2 * WIDTH, inside, 0.0)
        of_x += tl.load(sums + 3 * WIDTH, inside, 0.0)
        sums += 4 * WIDTH
    condition = image * condition_stride + column
    around = 1.0 + tl.load(scale + condition, inside, 0.0).to(tl.float32)
    grad_condition += image * WIDTH + column
    part = tl.num_programs(0) * WIDTH
    tl.store(grad_condition, of_shift, inside)
    tl.store(grad_condition + part, of_factor * tl.load(weight + column, inside, 0.0), inside)
    shares += image * 2 * WIDTH + column
    tl.store(shares, of_factor * around, inside)
    if UPDATED:
        tl.store(grad_condition + 2 * part, of_gate, inside)
        tl.store(shares + WIDTH, of_x * tl.load(gate + condition, inside, 0.0).to(tl.float32), inside)


@triton.jit
def rotate(
    packed, cosines, sines, images, tokens,
    STRIDE: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr,
    IMAGES: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Turn pairs of the first ``WIDTH`` channels of tokens, (B, N, STRIDE), in place.

    A program takes ``TILE`` tokens of ``IMAGES`` images, which have the same angles; the tables are (N, HEAD / 2).
    """
    token = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    pair = (tl.program_id(1) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)) % (HEAD // 2)
    inside = (token < tokens)[:, None] & (column < WIDTH)[None]
    angle = token[:, None] * (HEAD // 2) + pair[None]
    cosine = tl.load(cosines + angle, (token < tokens)[:, None], 0.0)
    sine = tl.load(sines + angle, (token < tokens)[:, None], 0.0)
    first = tl.program_id(2).to(tl.int64) * IMAGES
    packed += first * tokens * STRIDE + token[:, None] * STRIDE + column[None]
    for _ in range(tl.minimum(images - first, IMAGES)):
        value = tl.load(packed, inside, 0.0).to(tl.float32)
        even, odd = tl.split(tl.reshape(value, (TILE, COLUMNS // 2, 2)))
        turned = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
        tl.store(packed, tl.reshape(turned, (TILE, COLUMNS)), inside)
        packed += tokens * STRIDE


@triton.jit
def swiglu_forward(
    product, bias, output, rows, HIDDEN: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Gate and value (rows, 2 HIDDEN), without their bias, to silu(gate) value (rows, HIDDEN)."""
    row = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows) & (column < HIDDEN)[None]
    place = row * (2 * HIDDEN) + column[None]
    gate_bias, value_bias = tl.load(bias + column, column < HIDDEN), tl.load(bias + HIDDEN + column, column < HIDDEN)
    gate = tl.load(product + place, inside, 0.0).to(tl.float32) + gate_bias[None]
    value = tl.load(product + HIDDEN + place, inside, 0.0).to(tl.float32) + value_bias[None]
    tl.store(output + row * HIDDEN + column[None], gate * tl.sigmoid(gate) * value, inside)


@triton.jit
def swiglu_backward(
    grad_output, product, bias, grad_product, sums, rows,
    HIDDEN: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradient of gate and value; ``sums``, (programs, 2 HIDDEN), gets its sums over this program's ``ROWS`` rows."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    within = column < HIDDEN
    gate_bias, value_bias = tl.load(bias + column, within), tl.load(bias + HIDDEN + column, within)
    gate_sum, value_sum = tl.zeros((TILE, COLUMNS), tl.float32), tl.zeros((TILE, COLUMNS), tl.float32)
    first = tl.program_id(0) * ROWS
    for start in range(first, tl.minimum(first + ROWS, rows), TILE):
        row = (start + tl.arange(0, TILE)).to(tl.int64)[:, None]
        inside = (row < rows) & within[None]
        place = row * (2 * HIDDEN) + column[None]
        gate = tl.load(product + place, inside, 0.0).to(tl.float32) + gate_bias[None]
        value = tl.load(product + HIDDEN + place, inside, 0.0).to(tl.float32) + value_bias[None]
        upper = tl.load(grad_output + row * HIDDEN + column[None], inside, 0.0).to(tl.float32)
        sigmoid = tl.sigmoid(gate)
        of_value = upper * gate * sigmoid
        of_gate = upper * value * sigmoid * (1.0 + gate * (1.0 - sigmoid))
        tl.store(grad_product + place, of_gate, inside)
        tl.store(grad_product + HIDDEN + place, of_value, inside)
        gate_sum += of_gate
        value_sum += of_value
    sums += tl.program_id(0).to(tl.int64) * (2 * HIDDEN) + column
    tl.store(sums, tl.sum(gate_sum, 0), within)
    tl.store(sums + HIDDEN, tl.sum(value_sum, 0), within)


@triton.jit
def transpose(source, target, rows, columns, TILE: tl.constexpr):
    """(rows, columns) to (columns, rows)."""
    row = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = (row < rows)[:, None] & (column < columns)[None]
    value = tl.load(source + row[:, None] * columns + column[None], inside, 0.0)
    tl.store(target + column[:, None].to(tl.int64) * rows + row[None], tl.trans(value), tl.trans(inside))
