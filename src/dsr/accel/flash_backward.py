"""Gradients of the attention of `flash_kernels`, in Triton: queries and keys with values are a kernel each."""

import triton
import triton.language as tl

from dsr.accel.flash_kernels import _load_whole, _scores, _store


@triton.jit
def _rotate_back(values, cosines, sines, rows, TOKENS: tl.constexpr, HEAD: tl.constexpr, FIRST: tl.constexpr,
                 WIDTH: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Undo RoPE: rotate pairs of channels by minus the angles of their tokens; the tables are (N, d / 2)."""
    pairs = FIRST // 2 + tl.arange(0, WIDTH // 2)
    inside = (rows < TOKENS)[:, None] & (pairs < HEAD // 2)[None]
    place = rows[:, None] * (HEAD // 2) + pairs[None]
    cosine, sine = tl.load(cosines + place, inside, 0.0), tl.load(sines + place, inside, 0.0)
    even, odd = tl.split(tl.reshape(values, (ROWS, WIDTH // 2, 2)))
    return tl.reshape(tl.join(even * cosine + odd * sine, odd * cosine - even * sine), (ROWS, WIDTH))


@triton.jit
def _store_with_sums(
    values, grad_packed, sums, rows, STRIDE: tl.constexpr, TOKENS: tl.constexpr, HEAD: tl.constexpr,
    FIRST: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Store a gradient and its sums over this tile's tokens."""
    _store(grad_packed, rows, values, STRIDE, TOKENS, HEAD, FIRST, WIDTH)
    channels = FIRST + tl.arange(0, WIDTH)
    tl.store(sums + channels, tl.sum(tl.where((rows < TOKENS)[:, None], values, 0.0), 0), channels < HEAD)


@triton.jit
def attend_backward_queries(
    packed, attended, lse, grad_attended, delta, grad_packed, sums, cosines, sines, factor, scale,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Gradient of ``QUERIES`` queries of one head, before RoPE, into their place in ``grad_packed``, (B, N, 3, h, d).

    ``delta``, (B, h, N), is written for the keys' kernel, which comes next.
    ``sums``, (B, tiles, h, d), gets its sums over this tile's tokens.
    """
    TILES: tl.constexpr = (TOKENS + QUERIES - 1) // QUERIES
    tile, pair = tl.program_id(0) % TILES, tl.program_id(0) // TILES
    image, head = pair.to(tl.int64) // HEADS, pair % HEADS
    STRIDE: tl.constexpr = 3 * HEADS * HEAD
    OUTPUT: tl.constexpr = HEADS * HEAD
    packed += image * TOKENS * STRIDE + head * HEAD
    attended += image * TOKENS * OUTPUT + head * HEAD
    grad_attended += image * TOKENS * OUTPUT + head * HEAD
    keys, values = packed + OUTPUT, packed + 2 * OUTPUT
    rows = tile * QUERIES + tl.arange(0, QUERIES)
    query, query_rest = _load_whole(packed, rows, STRIDE, TOKENS, HEAD, MAIN, REST)
    grad, grad_rest = _load_whole(grad_attended, rows, OUTPUT, TOKENS, HEAD, MAIN, REST)
    result, result_rest = _load_whole(attended, rows, OUTPUT, TOKENS, HEAD, MAIN, REST)
    row_delta = tl.sum(grad.to(tl.float32) * result.to(tl.float32), 1)
    if REST:
        row_delta += tl.sum(grad_rest.to(tl.float32) * result_rest.to(tl.float32), 1)
    place = pair * TOKENS + rows
    tl.store(delta + place, row_delta, rows < TOKENS)
    row_lse = tl.load(lse + place, rows < TOKENS, 0.0)
    grad_query = tl.zeros((QUERIES, MAIN), tl.float32)
    grad_query_rest = tl.zeros((QUERIES, REST if REST else 1), tl.float32)
    for start in tl.range(0, TOKENS, KEYS):
        others = start + tl.arange(0, KEYS)
        key, key_rest = _load_whole(keys, others, STRIDE, TOKENS, HEAD, MAIN, REST)
        value, value_rest = _load_whole(values, others, STRIDE, TOKENS, HEAD, MAIN, REST)
        scores = _scores(query, query_rest, key, key_rest, REST) * factor - row_lse[:, None]
        weights = tl.exp2(tl.where((others < TOKENS)[None], scores, float("-inf")))
        grad_weights = _scores(grad, grad_rest, value, value_rest, REST)
        grad_scores = (weights * (grad_weights - row_delta[:, None])).to(key.dtype)
        grad_query = tl.dot(grad_scores, key, grad_query)
        if REST:
            grad_query_rest = tl.dot(grad_scores, key_rest, grad_query_rest)
    grad_query = _rotate_back(grad_query * scale, cosines, sines, rows, TOKENS, HEAD, 0, MAIN, QUERIES)
    grad_packed += image * TOKENS * STRIDE + head * HEAD
    sums += (image * TILES + tile) * OUTPUT + head * HEAD
    _store_with_sums(grad_query, grad_packed, sums, rows, STRIDE, TOKENS, HEAD, 0, MAIN)
    if REST:
        grad_query_rest = _rotate_back(grad_query_rest * scale, cosines, sines, rows, TOKENS, HEAD, MAIN, REST, QUERIES)
        _store_with_sums(grad_query_rest, grad_packed, sums, rows, STRIDE, TOKENS, HEAD, MAIN, REST)


@triton.jit
def attend_backward_keys(
    packed, lse, grad_attended, delta, grad_packed, sums, cosines, sines, factor, scale,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Gradients of ``KEYS`` keys and values of one head, as :func:`attend_backward_queries` leaves those of queries.

    ``sums``, (B, tiles, 2, h, d), gets their sums over this tile's tokens.
    """
    TILES: tl.constexpr = (TOKENS + KEYS - 1) // KEYS
    tile, pair = tl.program_id(0) % TILES, tl.program_id(0) // TILES
    image, head = pair.to(tl.int64) // HEADS, pair % HEADS
    STRIDE: tl.constexpr = 3 * HEADS * HEAD
    OUTPUT: tl.constexpr = HEADS * HEAD
    packed += image * TOKENS * STRIDE + head * HEAD
    grad_attended += image * TOKENS * OUTPUT + head * HEAD
    others = tile * KEYS + tl.arange(0, KEYS)
    key, key_rest = _load_whole(packed + OUTPUT, others, STRIDE, TOKENS, HEAD, MAIN, REST)
    value, value_rest = _load_whole(packed + 2 * OUTPUT, others, STRIDE, TOKENS, HEAD, MAIN, REST)
    grad_key, grad_value = tl.zeros((KEYS, MAIN), tl.float32), tl.zeros((KEYS, MAIN), tl.float32)
    grad_key_rest = tl.zeros((KEYS, REST if REST else 1), tl.float32)
    grad_value_rest = tl.zeros((KEYS, REST if REST else 1), tl.float32)
    for start in tl.range(0, TOKENS, QUERIES):
        rows = start + tl.arange(0, QUERIES)
        query, query_rest = _load_whole(packed, rows, STRIDE, TOKENS, HEAD, MAIN, REST)
        grad, grad_rest = _load_whole(grad_attended, rows, OUTPUT, TOKENS, HEAD, MAIN, REST)
        place = pair * TOKENS + rows
        row_lse = tl.load(lse + place, rows < TOKENS, 0.0)
        row_delta = tl.load(delta + place, rows < TOKENS, 0.0)
        weights = tl.exp2(_scores(key, key_rest, query, query_rest, REST) * factor - row_lse[None])
        # Queries and gradients beyond the last token are zero, so whatever weight they get adds nothing.
        grad_weights = _scores(value, value_rest, grad, grad_rest, REST)
        grad_scores = (weights * (grad_weights - row_delta[None])).to(query.dtype)
        weights = weights.to(query.dtype)
        grad_value = tl.dot(weights, grad, grad_value)
        grad_key = tl.dot(grad_scores, query, grad_key)
        if REST:
            grad_value_rest = tl.dot(weights, grad_rest, grad_value_rest)
            grad_key_rest = tl.dot(grad_scores, query_rest, grad_key_rest)
    grad_key = _rotate_back(grad_key * scale, cosines, sines, others, TOKENS, HEAD, 0, MAIN, KEYS)
    grad_packed += image * TOKENS * STRIDE + head * HEAD + OUTPUT
    sums += (image * TILES + tile) * 2 * OUTPUT + head * HEAD
    _store_with_sums(grad_key, grad_packed, sums, others, STRIDE, TOKENS, HEAD, 0, MAIN)
    _store_with_sums(grad_value, grad_packed + OUTPUT, sums + OUTPUT, others, STRIDE, TOKENS, HEAD, 0, MAIN)
    if REST:
        grad_key_rest = _rotate_back(grad_key_rest * scale, cosines, sines, others, TOKENS, HEAD, MAIN, REST, KEYS)
        _store_with_sums(grad_key_rest, grad_packed, sums, others, STRIDE, TOKENS, HEAD, MAIN, REST)
        _store_with_sums(grad_value_rest, grad_packed + OUTPUT, sums + OUTPUT, others, STRIDE, TOKENS, HEAD, MAIN, REST)
