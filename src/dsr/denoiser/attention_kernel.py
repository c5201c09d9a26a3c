"""Attention without a backward pass, in Triton: it turns queries and keys itself and wastes little on odd head widths."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend(
    packed, cosines, sines, output, tokens, factor,
    HEADS: tl.constexpr, HEAD: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, TURN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """``QUERIES`` queries of one head of one image against all keys.

    ``packed`` is (B, tokens, 3, HEADS, HEAD), ``output`` (B, tokens, HEADS, HEAD). A head is held as ``MAIN`` channels
    and, if HEAD is no power of two, ``REST`` more, some of them past its end and zero.
    """
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    width = HEADS * HEAD
    packed += image * tokens * 3 * width + head * HEAD
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    q_main = _turned(packed, cosines, sines, query, tokens, width, 0, MAIN, HEAD, TURN)
    main = tl.zeros((QUERIES, MAIN), tl.float32)
    if REST > 0:
        q_rest = _turned(packed, cosines, sines, query, tokens, width, MAIN, REST, HEAD, TURN)
        rest = tl.zeros((QUERIES, REST), tl.float32)
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    for start in tl.range(0, tokens, KEYS, num_stages=STAGES):
        key = start + tl.arange(0, KEYS)
        k_main = _turned(packed + width, cosines, sines, key, tokens, width, 0, MAIN, HEAD, TURN)
        scores = tl.dot(q_main, tl.trans(k_main))
        if REST > 0:
            k_rest = _turned(packed + width, cosines, sines, key, tokens, width, MAIN, REST, HEAD, TURN)
            scores = tl.dot(q_rest, tl.trans(k_rest), scores)
        scores = tl.where((key < tokens)[None], scores * factor, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        weights, shrink = tl.exp2(scores - larger[:, None]), tl.exp2(largest - larger)
        total, largest = total * shrink + tl.sum(weights, 1), larger
        weights = weights.to(q_main.dtype)
        v_main = _turned(packed + 2 * width, cosines, sines, key, tokens, width, 0, MAIN, HEAD, False)
        main = tl.dot(weights, v_main, main * shrink[:, None])
        if REST > 0:
            v_rest = _turned(packed + 2 * width, cosines, sines, key, tokens, width, MAIN, REST, HEAD, False)
            rest = tl.dot(weights, v_rest, rest * shrink[:, None])
    output += image * tokens * width + head * HEAD
    place = query[:, None] * width
    channel = tl.arange(0, MAIN)[None]
    tl.store(output + place + channel, main / total[:, None], (query < tokens)[:, None])
    if REST > 0:
        channel = MAIN + tl.arange(0, REST)[None]
        tl.store(output + place + channel, rest / total[:, None], (query < tokens)[:, None] & (channel < HEAD))


@triton.jit
def _turned(
    source, cosines, sines, token, tokens, width,
    FIRST: tl.constexpr, COLUMNS: tl.constexpr, HEAD: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Load ``COLUMNS`` channels of tokens from the channel ``FIRST`` on, zero past the ends, turned if asked."""
    column = FIRST + tl.arange(0, COLUMNS)
    inside = (token < tokens)[:, None]
    if FIRST + COLUMNS > HEAD:
        inside = inside & (column < HEAD)[None]
    value = tl.load(source + token[:, None] * 3 * width + column[None], inside, 0.0)
    if TURN:
        pair = FIRST // 2 + tl.arange(0, COLUMNS // 2)
        known = (token < tokens)[:, None] & (pair < HEAD // 2)[None]
        angle = token[:, None] * (HEAD // 2) + pair[None]
        cosine, sine = tl.load(cosines + angle, known, 0.0), tl.load(sines + angle, known, 0.0)
        even, odd = tl.split(tl.reshape(value.to(tl.float32), (token.shape[0], COLUMNS // 2, 2)))
        turned = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
        value = tl.reshape(turned, (token.shape[0], COLUMNS)).to(value.dtype)
    return value
