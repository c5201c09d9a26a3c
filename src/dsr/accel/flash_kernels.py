"""Attention over the few hundred tokens of an image, in Triton: nothing of size N x N reaches memory.

Queries, keys and values come packed as a projection leaves them, (B, N, 3, h, d), and their gradients leave packed
likewise. Matmuls are in the dtype of the tokens (float32: TF32), all other arithmetic is fp32. Every sum has a fixed
order, so that the same inputs always give the same bits. A head of d channels is handled as two tiles, ``MAIN`` and
``REST`` channels wide, because tiles are powers of two: 72 channels are 64 + 16 (half of it masked), not 128. One token
that is left alone is the exception: its matmuls are fp32, of whole heads.

The algorithm and its names are FlashAttention-2's (Dao 2023, Algorithms 1 and 2): ``lse`` is the logarithm of a row's
sum of exponentials, here to base 2, and ``delta`` a row's dot product of its result and the result's gradient.
"""

import triton
import triton.language as tl


@triton.jit
def _load(tokens, rows, STRIDE: tl.constexpr, TOKENS: tl.constexpr, HEAD: tl.constexpr, FIRST: tl.constexpr,
          WIDTH: tl.constexpr):  # fmt: skip
    """Channels ``FIRST`` to ``FIRST + WIDTH`` of some rows, zero beyond the last token and channel."""
    channels = FIRST + tl.arange(0, WIDTH)
    inside = (rows < TOKENS)[:, None]
    if FIRST + WIDTH > HEAD:
        inside = inside & (channels < HEAD)[None]
    return tl.load(tokens + rows[:, None] * STRIDE + channels[None], inside, 0.0)


@triton.jit
def _store(tokens, rows, values, STRIDE: tl.constexpr, TOKENS: tl.constexpr, HEAD: tl.constexpr, FIRST: tl.constexpr,
           WIDTH: tl.constexpr):  # fmt: skip
    channels = FIRST + tl.arange(0, WIDTH)
    inside = (rows < TOKENS)[:, None] & (channels < HEAD)[None]
    tl.store(tokens + rows[:, None] * STRIDE + channels[None], values, inside)


@triton.jit
def _load_whole(tokens, rows, STRIDE: tl.constexpr, TOKENS: tl.constexpr, HEAD: tl.constexpr, MAIN: tl.constexpr,
                REST: tl.constexpr):  # fmt: skip
    """Load all channels in two parts; without a ``REST`` the second one is not used."""
    main = _load(tokens, rows, STRIDE, TOKENS, HEAD, 0, MAIN)
    rest = main
    if REST:
        rest = _load(tokens, rows, STRIDE, TOKENS, HEAD, MAIN, REST)
    return main, rest


@triton.jit
def _scores(left, left_rest, right, right_rest, REST: tl.constexpr):
    """All rows on the left times all rows on the right, transposed."""
    result = tl.dot(left, tl.trans(right))
    if REST:
        result = tl.dot(left_rest, tl.trans(right_rest), result)
    return result


@triton.jit
def _attend_to(
    query, query_rest, keys, values, rows, row_max, row_sum, result, rest, factor,
    STRIDE: tl.constexpr, TOKENS: tl.constexpr, HEAD: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Take one tile of keys and values into the running softmax."""
    key, key_rest = _load_whole(keys, rows, STRIDE, TOKENS, HEAD, MAIN, REST)
    value, value_rest = _load_whole(values, rows, STRIDE, TOKENS, HEAD, MAIN, REST)
    scores = _scores(query, query_rest, key, key_rest, REST) * factor
    if MASKED:
        scores = tl.where((rows < TOKENS)[None], scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    weights = tl.exp2(scores - new_max[:, None])
    shrink = tl.exp2(row_max - new_max)
    row_sum = row_sum * shrink + tl.sum(weights, 1)
    weights = weights.to(value.dtype)
    result = tl.dot(weights, value, result * shrink[:, None])
    if REST:
        rest = tl.dot(weights, value_rest, rest * shrink[:, None])
    return new_max, row_sum, result, rest


@triton.jit
def _attend_tile(
    packed, attended, lse, rows, factor,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, LAST: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Attention of the tokens ``rows`` of one head, at which all pointers are already."""
    STRIDE: tl.constexpr = 3 * HEADS * HEAD
    keys, values = packed + HEADS * HEAD, packed + 2 * HEADS * HEAD
    query, query_rest = _load_whole(packed, rows, STRIDE, TOKENS, HEAD, MAIN, REST)
    row_max = tl.full((QUERIES,), float("-inf"), tl.float32)
    row_sum = tl.zeros((QUERIES,), tl.float32)
    result = tl.zeros((QUERIES, MAIN), tl.float32)
    rest = tl.zeros((QUERIES, REST if REST else 1), tl.float32)
    WHOLE: tl.constexpr = TOKENS // KEYS * KEYS
    for start in tl.range(0, WHOLE, KEYS):
        row_max, row_sum, result, rest = _attend_to(
            query, query_rest, keys, values, start + tl.arange(0, KEYS), row_max, row_sum, result, rest, factor,
            STRIDE, WHOLE, HEAD, MAIN, REST, False,
        )  # fmt: skip
    if WHOLE < TOKENS:
        row_max, row_sum, result, rest = _attend_to(
            query, query_rest, keys, values, WHOLE + tl.arange(0, LAST), row_max, row_sum, result, rest, factor,
            STRIDE, TOKENS, HEAD, MAIN, REST, True,
        )  # fmt: skip
    _store(attended, rows, result / row_sum[:, None], HEADS * HEAD, TOKENS, HEAD, 0, MAIN)
    if REST:
        _store(attended, rows, rest / row_sum[:, None], HEADS * HEAD, TOKENS, HEAD, MAIN, REST)
    if KEEP:
        tl.store(lse + rows, row_max + tl.log2(row_sum), rows < TOKENS)


@triton.jit
def _attend_one(
    packed, attended, row, factor,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Attention of one token of one head, without tensor cores: they would multiply a whole tile.

    It has no ``lse`` for a backward pass, which forms the weights again from less exact scores.
    """
    OUTPUT: tl.constexpr = HEADS * HEAD
    channels = tl.arange(0, WIDTH)
    inside = channels < HEAD
    query = tl.load(packed + row * 3 * OUTPUT + channels, inside, 0.0).to(tl.float32) * factor
    row_max, row_sum, result = float("-inf"), 0.0, tl.zeros((WIDTH,), tl.float32)
    # Unrolled, so that no tile's loads have to wait for the sums of the one before.
    for start in tl.static_range(0, TOKENS, KEYS):
        rows = start + tl.arange(0, KEYS)
        key = _load(packed + OUTPUT, rows, 3 * OUTPUT, TOKENS, HEAD, 0, WIDTH).to(tl.float32)
        value = _load(packed + 2 * OUTPUT, rows, 3 * OUTPUT, TOKENS, HEAD, 0, WIDTH).to(tl.float32)
        scores = tl.where(rows < TOKENS, tl.sum(query[None] * key, 1), float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 0))
        weights, shrink = tl.exp2(scores - new_max), tl.exp2(row_max - new_max)
        row_sum = row_sum * shrink + tl.sum(weights, 0)
        result = result * shrink + tl.sum(weights[:, None] * value, 0)
        row_max = new_max
    tl.store(attended + row * OUTPUT + channels, result / row_sum, inside)


@triton.jit
def attend_forward(
    packed, attended, lse, factor,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, LAST: tl.constexpr, ALONE: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Attention of ``QUERIES`` tokens of one head, into (B, N, h, d); ``factor`` is d^-1/2 / ln 2.

    ``KEYS`` keys are taken at a time, and what remains as one tile of ``LAST``. If ``ALONE`` is not 0, the last token
    is a tile of its own, takes ``ALONE`` keys at a time, and gets no ``lse``. ``lse``, (B, h, N), is written if the
    backward pass will need it.
    """
    TILES: tl.constexpr = (TOKENS + QUERIES - 1) // QUERIES
    tile, pair = tl.program_id(0) % TILES, tl.program_id(0) // TILES
    image, head = pair.to(tl.int64) // HEADS, pair % HEADS
    packed += image * TOKENS * 3 * HEADS * HEAD + head * HEAD
    attended += image * TOKENS * HEADS * HEAD + head * HEAD
    lse += pair * TOKENS
    # The outer condition is known to the compiler, which leaves the branch out; "and" would make it one of the GPU's.
    if ALONE:  # noqa: SIM102
        if tile == TILES - 1:
            _attend_one(
                packed, attended, tile * QUERIES, factor, TOKENS, HEADS, HEAD, 2 * MAIN if REST else MAIN, ALONE
            )
            return
    _attend_tile(
        packed, attended, lse, tile * QUERIES + tl.arange(0, QUERIES), factor,
        TOKENS, HEADS, HEAD, MAIN, REST, QUERIES, KEYS, LAST, KEEP,
    )  # fmt: skip
