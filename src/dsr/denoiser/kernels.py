"""What a denoiser's block does between its matrix products, in Triton: each kernel reads and writes the tokens once.

Arithmetic is fp32 whatever is stored; shapes are those of `dsr.denoiser.layers`, with T = B N rows of tokens. Sums
over tokens are made in two steps, in a fixed order, so that the same inputs always give the same bits.
"""

# Triton calls these functions with pointers and compiles their bodies: Python's types do not describe them.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def modulate_forward(
    x, update, bias, gate, weight, scale, shift, stream, hidden, inverse, condition_stride, tokens,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr, UPDATED: tl.constexpr,
):  # fmt: skip
    """One row: stream = x + gate (update + bias); hidden = stream normalised, scaled around one and shifted.

    ``tokens`` rows share a condition; ``inverse`` keeps each row's factor of the normalisation for the backward pass.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    place, condition = row * WIDTH + columns, row // tokens * condition_stride + columns
    value = tl.load(x + place, inside, 0.0).to(tl.float32)
    if UPDATED:
        added = tl.load(update + place, inside, 0.0).to(tl.float32) + tl.load(bias + columns, inside, 0.0)
        value += tl.load(gate + condition, inside, 0.0).to(tl.float32) * added
        tl.store(stream + place, value, inside)
    factor = 1.0 / tl.sqrt(tl.sum(value * value, 0) / WIDTH + EPS)
    scaled = tl.load(weight + columns, inside, 0.0) * (1.0 + tl.load(scale + condition, inside, 0.0).to(tl.float32))
    tl.store(hidden + place, value * factor * scaled + tl.load(shift + condition, inside, 0.0).to(tl.float32), inside)
    tl.store(inverse + row, factor)


@triton.jit
def modulate_backward(
    grad_hidden, grad_stream, stream, inverse, update, bias, gate, weight, scale,
    grad_x, grad_update, grad_condition, sums, condition_stride, tokens,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr, UPDATED: tl.constexpr,
    EACH: tl.constexpr,
):  # fmt: skip
    """``ROWS`` rows of one condition, or, if ``EACH`` row has a condition of its own, any ``ROWS`` rows.

    ``sums``, (groups, parts, 4, WIDTH), gets this program's sums over its rows: of the gradients of shift, of the
    normalised stream's factor, and of gate, and of grad_x. If ``EACH``, the first three are written a row at a time
    to ``grad_condition``, (3, T, WIDTH), and ``sums`` gets the gradients of weight and bias in place of two of them.
    """
    group, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    normal = tl.load(weight + columns, inside, 0.0)
    of_shift, of_factor = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    of_gate, of_x = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    constant = tl.zeros((BLOCK,), tl.float32)
    gated = tl.zeros((BLOCK,), tl.float32)
    if UPDATED:
        constant = tl.load(bias + columns, inside, 0.0)
        gated = tl.load(gate + group * condition_stride + columns, inside, 0.0).to(tl.float32)
    around = 1.0 + tl.load(scale + group * condition_stride + columns, inside, 0.0).to(tl.float32)
    for token in tl.range(part * ROWS, tl.minimum(part * ROWS + ROWS, tokens), num_stages=STAGES):
        row = group * tokens + token
        place = row * WIDTH + columns
        if EACH:
            around = 1.0 + tl.load(scale + row * condition_stride + columns, inside, 0.0).to(tl.float32)
        upper = tl.load(grad_hidden + place, inside, 0.0).to(tl.float32)
        factor = tl.load(inverse + row)
        unit = tl.load(stream + place, inside, 0.0).to(tl.float32) * factor
        inner = upper * normal * around
        mean = tl.sum(inner * unit, 0) / WIDTH
        lower = tl.load(grad_stream + place, inside, 0.0).to(tl.float32) + factor * (inner - unit * mean)
        tl.store(grad_x + place, lower, inside)
        if EACH:
            total = tl.num_programs(0) * tokens * WIDTH
            tl.store(grad_condition + place, upper, inside)
            tl.store(grad_condition + total + place, upper * unit * normal, inside)
            of_factor += upper * unit * around
        else:
            of_shift += upper
            of_factor += upper * unit
        if UPDATED:
            if EACH:
                gated = tl.load(gate + row * condition_stride + columns, inside, 0.0).to(tl.float32)
            tl.store(grad_update + place, lower * gated, inside)
            of_update = lower * (tl.load(update + place, inside, 0.0).to(tl.float32) + constant)
            if EACH:
                tl.store(grad_condition + 2 * total + place, of_update, inside)
                of_x += lower * gated
            else:
                of_gate += of_update
                of_x += lower
    sums += (group * tl.num_programs(1) + part) * 4 * WIDTH + columns
    tl.store(sums, of_shift, inside)
    tl.store(sums + WIDTH, of_factor, inside)
    tl.store(sums + 2 * WIDTH, of_gate, inside)
    tl.store(sums + 3 * WIDTH, of_x, inside)


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
    source, target, cosines, sines, sums, images, tokens,
    source_image, source_head, source_token, target_image, target_head, target_token,
    HEAD: tl.constexpr, WIDTH: tl.constexpr, TURN: tl.constexpr, SUM: tl.constexpr,
    IMAGES: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Turn pairs of channels forwards (TURN 1), backwards (-1) or not at all (0), from one memory layout to another.

    A program takes ``TILE`` tokens of ``IMAGES`` images, which have the same angles; the tables are (tokens, HEAD / 2).
    ``sums``, (programs, WIDTH), gets sums over this program's tokens if asked.
    """
    token = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    pair = (tl.program_id(1) * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)) % (HEAD // 2)
    inside = (token < tokens)[:, None] & (column < WIDTH)[None]
    head, place = column // HEAD, column % HEAD
    from_place = token[:, None] * source_token + (head * source_head + place)[None]
    to_place = token[:, None] * target_token + (head * target_head + place)[None]
    angle = token[:, None] * (HEAD // 2) + pair[None]
    if TURN != 0:
        cosine = tl.load(cosines + angle, (token < tokens)[:, None], 0.0)
        sine = TURN * tl.load(sines + angle, (token < tokens)[:, None], 0.0)
    total = tl.zeros((TILE, COLUMNS), tl.float32)
    first = tl.program_id(2).to(tl.int64) * IMAGES
    source += first * source_image
    target += first * target_image
    for _ in range(tl.minimum(images - first, IMAGES)):
        value = tl.load(source + from_place, inside, 0.0).to(tl.float32)
        if TURN != 0:
            even, odd = tl.split(tl.reshape(value, (TILE, COLUMNS // 2, 2)))
            turned = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
            value = tl.reshape(turned, (TILE, COLUMNS))
        tl.store(target + to_place, value, inside)
        source += source_image
        target += target_image
        if SUM:
            total += value
    if SUM:
        program = (tl.program_id(0) * tl.num_programs(2) + tl.program_id(2)).to(tl.int64)
        tl.store(sums + program * WIDTH + column, tl.sum(total, 0), column < WIDTH)


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
def softmax_forward(scores, factor, rows, LENGTH: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """Replace ``factor`` scores (rows, LENGTH) by their softmax, in place."""
    row = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None]
    inside = (row < rows) & (column < LENGTH)
    value = tl.load(scores + row * LENGTH + column, inside, float("-inf")) * factor
    value = tl.exp(value - tl.max(tl.where(row < rows, value, 0.0), 1)[:, None])
    tl.store(scores + row * LENGTH + column, value / tl.sum(value, 1)[:, None], inside)


@triton.jit
def softmax_backward(grad, weights, factor, rows, LENGTH: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """Replace the gradient of softmax's ``weights`` by that of the scores before the factor, in place."""
    row = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None]
    inside, place = (row < rows) & (column < LENGTH), row * LENGTH + column
    weight, upper = tl.load(weights + place, inside, 0.0), tl.load(grad + place, inside, 0.0)
    mean = tl.sum(weight * upper, 1)[:, None]
    tl.store(grad + place, factor * weight * (upper - mean), inside)
