"""What a denoiser's block does between its matmuls, in Triton: each kernel reads and writes the tokens once.

Arithmetic is fp32 whatever is stored; shapes are those of `dsr.denoiser.layers`, with T = B N rows of tokens. Sums
over tokens are made in two steps, in a fixed order, so that the same inputs always give the same bits. Kernels that
take whole rows hold a row as two tiles, ``MAIN`` and ``REST`` channels wide, because tiles are powers of two: 1152
channels are 1024 + 128 instead of 2048 that are nearly half empty.
"""

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
    x, update, bias, gate, weight, scale, shift, stream, hidden, inverse, condition_stride, tokens,
    WIDTH: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, EPS: tl.constexpr, UPDATED: tl.constexpr,
):  # fmt: skip
    """One row: stream = x + gate (update + bias); hidden = RMSNorm(stream) (1 + scale) + shift.

    ``tokens`` rows share a condition; ``inverse`` gets each row's 1 / RMS for the backward pass.
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
    tl.store(hidden + place + main, value, inside)
    tl.store(hidden + place + rest, others, rest_inside)
    tl.store(inverse + row, factor)


@triton.jit
def _constants(weight_ptr, scale_ptr, gate_ptr, bias_ptr, condition, columns, inside, UPDATED: tl.constexpr):
    """Return weight, 1 + scale, gate and bias of one condition."""
    one_plus_scale = 1.0 + _row(scale_ptr, condition, columns, inside)
    gate, bias = one_plus_scale, one_plus_scale
    if UPDATED:
        gate, bias = _row(gate_ptr, condition, columns, inside), _row(bias_ptr, 0, columns, inside)
    return _row(weight_ptr, 0, columns, inside), one_plus_scale, gate, bias


@triton.jit
def _backward_row(
    grad, x_hat, mean, factor, weight, one_plus_scale, gate, bias, grad_shift, grad_factor, grad_gate, grad_sum,
    grad_stream_ptr, update_ptr, grad_x_ptr, grad_update_ptr, grad_condition_ptr, size, place, columns, inside,
    UPDATED: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Store the gradients of one row's channels and return the sums with them."""
    grad_x = _row(grad_stream_ptr, place, columns, inside) + factor * (grad * weight * one_plus_scale - x_hat * mean)
    tl.store(grad_x_ptr + place + columns, grad_x, inside)
    if EACH:
        tl.store(grad_condition_ptr + place + columns, grad, inside)
        tl.store(grad_condition_ptr + size + place + columns, grad * x_hat * weight, inside)
        grad_factor += grad * x_hat * one_plus_scale
    else:
        grad_shift += grad
        grad_factor += grad * x_hat
    if UPDATED:
        tl.store(grad_update_ptr + place + columns, grad_x * gate, inside)
        gate_share = grad_x * (_row(update_ptr, place, columns, inside) + bias)
        if EACH:
            tl.store(grad_condition_ptr + 2 * size + place + columns, gate_share, inside)
            grad_sum += grad_x * gate
        else:
            grad_gate += gate_share
            grad_sum += grad_x
    return grad_shift, grad_factor, grad_gate, grad_sum


@triton.jit
def _store_sums(sums, grad_shift, grad_factor, grad_gate, grad_sum, columns, inside, WIDTH: tl.constexpr):
    tl.store(sums + columns, grad_shift, inside)
    tl.store(sums + WIDTH + columns, grad_factor, inside)
    tl.store(sums + 2 * WIDTH + columns, grad_gate, inside)
    tl.store(sums + 3 * WIDTH + columns, grad_sum, inside)


@triton.jit
def modulate_backward(
    grad_hidden, grad_stream, stream, inverse, update, bias_ptr, gate_ptr, weight_ptr, scale_ptr,
    grad_x, grad_update, grad_condition, sums, condition_stride, tokens,
    WIDTH: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
    UPDATED: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """``ROWS`` rows of one condition, or, if ``EACH`` row has a condition of its own, any ``ROWS`` rows.

    ``sums``, (groups, parts, 4, WIDTH), gets this program's sums over its rows: of the gradients of shift, of the
    normalised stream's factor weight (1 + scale), and of gate, and of grad_x. If ``EACH``, the gradients of shift,
    scale and gate are written a row at a time to ``grad_condition``, (3, T, WIDTH), and ``sums`` gets the gradients of
    weight and bias in the second and fourth place.
    """
    group, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    main, rest = tl.arange(0, MAIN), MAIN + tl.arange(0, REST)
    inside, inside2 = main < WIDTH, rest < WIDTH
    condition, size = group * condition_stride, tl.num_programs(0).to(tl.int64) * tokens * WIDTH
    weight, one_plus_scale, gate, bias = _constants(
        weight_ptr, scale_ptr, gate_ptr, bias_ptr, condition, main, inside, UPDATED
    )
    weight2, one_plus_scale2, gate2, bias2 = _constants(
        weight_ptr, scale_ptr, gate_ptr, bias_ptr, condition, rest, inside2, UPDATED
    )
    grad_shift, grad_factor = tl.zeros((MAIN,), tl.float32), tl.zeros((MAIN,), tl.float32)
    grad_gate, grad_sum = tl.zeros((MAIN,), tl.float32), tl.zeros((MAIN,), tl.float32)
    grad_shift2, grad_factor2 = tl.zeros((REST,), tl.float32), tl.zeros((REST,), tl.float32)
    grad_gate2, grad_sum2 = tl.zeros((REST,), tl.float32), tl.zeros((REST,), tl.float32)
    for token in tl.range(part * ROWS, tl.minimum(part * ROWS + ROWS, tokens), num_stages=STAGES):
        row = group * tokens + token
        place = row * WIDTH
        if EACH:
            condition = row * condition_stride
            weight, one_plus_scale, gate, bias = _constants(
                weight_ptr, scale_ptr, gate_ptr, bias_ptr, condition, main, inside, UPDATED
            )
            weight2, one_plus_scale2, gate2, bias2 = _constants(
                weight_ptr, scale_ptr, gate_ptr, bias_ptr, condition, rest, inside2, UPDATED
            )
        factor = tl.load(inverse + row)
        grad, grad2 = _row(grad_hidden, place, main, inside), _row(grad_hidden, place, rest, inside2)
        x_hat, x_hat2 = _row(stream, place, main, inside) * factor, _row(stream, place, rest, inside2) * factor
        mean = tl.sum(grad * weight * one_plus_scale * x_hat, 0)
        mean = (mean + tl.sum(grad2 * weight2 * one_plus_scale2 * x_hat2, 0)) / WIDTH
        grad_shift, grad_factor, grad_gate, grad_sum = _backward_row(
            grad, x_hat, mean, factor, weight, one_plus_scale, gate, bias, grad_shift, grad_factor, grad_gate, grad_sum,
            grad_stream, update, grad_x, grad_update, grad_condition, size, place, main, inside, UPDATED, EACH,
        )  # fmt: skip
        grad_shift2, grad_factor2, grad_gate2, grad_sum2 = _backward_row(
            grad2, x_hat2, mean, factor, weight2, one_plus_scale2, gate2, bias2,
            grad_shift2, grad_factor2, grad_gate2, grad_sum2,
            grad_stream, update, grad_x, grad_update, grad_condition, size, place, rest, inside2, UPDATED, EACH,
        )  # fmt: skip
    sums += (group * tl.num_programs(1) + part) * 4 * WIDTH
    _store_sums(sums, grad_shift, grad_factor, grad_gate, grad_sum, main, inside, WIDTH)
    _store_sums(sums, grad_shift2, grad_factor2, grad_gate2, grad_sum2, rest, inside2, WIDTH)


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
    grad_shift, grad_factor = tl.zeros((COLUMNS,), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    grad_gate, grad_sum = tl.zeros((COLUMNS,), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    sums += image * parts * 4 * WIDTH + column
    for _ in range(parts):
        grad_shift += tl.load(sums, inside, 0.0)
        grad_factor += tl.load(sums + WIDTH, inside, 0.0)
        grad_gate += tl.load(sums + 2 * WIDTH, inside, 0.0)
        grad_sum += tl.load(sums + 3 * WIDTH, inside, 0.0)
        sums += 4 * WIDTH
    condition = image * condition_stride + column
    one_plus_scale = 1.0 + tl.load(scale + condition, inside, 0.0).to(tl.float32)
    grad_condition += image * WIDTH + column
    part = tl.num_programs(0) * WIDTH
    tl.store(grad_condition, grad_shift, inside)
    tl.store(grad_condition + part, grad_factor * tl.load(weight + column, inside, 0.0), inside)
    shares += image * 2 * WIDTH + column
    tl.store(shares, grad_factor * one_plus_scale, inside)
    if UPDATED:
        tl.store(grad_condition + 2 * part, grad_gate, inside)
        tl.store(shares + WIDTH, grad_sum * tl.load(gate + condition, inside, 0.0).to(tl.float32), inside)


@triton.jit
def rotate(
    packed, cosines, sines, images, tokens,
    STRIDE: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr,
    IMAGES: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """RoPE: rotate pairs of the first ``WIDTH`` channels of tokens, (B, N, STRIDE), in place.

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
        rotated = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
        tl.store(packed, tl.reshape(rotated, (TILE, COLUMNS)), inside)
        packed += tokens * STRIDE


@triton.jit
def swiglu_forward(
    x, bias, output, rows, HIDDEN: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Gate and value (rows, 2 HIDDEN), without their bias, to silu(gate) value (rows, HIDDEN)."""
    row = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows) & (column < HIDDEN)[None]
    place = row * (2 * HIDDEN) + column[None]
    gate_bias, value_bias = tl.load(bias + column, column < HIDDEN), tl.load(bias + HIDDEN + column, column < HIDDEN)
    gate = tl.load(x + place, inside, 0.0).to(tl.float32) + gate_bias[None]
    value = tl.load(x + HIDDEN + place, inside, 0.0).to(tl.float32) + value_bias[None]
    tl.store(output + row * HIDDEN + column[None], gate * tl.sigmoid(gate) * value, inside)


@triton.jit
def swiglu_backward(
    grad_output, x, bias, grad_x, sums, rows,
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
        gate = tl.load(x + place, inside, 0.0).to(tl.float32) + gate_bias[None]
        value = tl.load(x + HIDDEN + place, inside, 0.0).to(tl.float32) + value_bias[None]
        grad = tl.load(grad_output + row * HIDDEN + column[None], inside, 0.0).to(tl.float32)
        sigmoid = tl.sigmoid(gate)
        grad_value = grad * gate * sigmoid
        grad_gate = grad * value * sigmoid * (1.0 + gate * (1.0 - sigmoid))
        tl.store(grad_x + place, grad_gate, inside)
        tl.store(grad_x + HIDDEN + place, grad_value, inside)
        gate_sum += grad_gate
        value_sum += grad_value
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
