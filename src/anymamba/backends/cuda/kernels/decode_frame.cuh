// What the layers of a decode kernel begin and end with: the token's embedding, residual stream and norm, the layer's output, the head.
#pragma once
#include "decode.cuh"

struct DecodeArguments {
    const u64* table;                    // per layer: its matrices, then other tensors of the family; at the end the head
    const float *constants, *last_norm;  // last_norm: weight of the norm before the head
    const char* embedding;
    const i64* token;
    const float* head_scale;
    Letter* boxes;
    float* logits;
    i64 tag;  // of the first layer; no tag comes twice
    u64 *totals, *seen;  // of vectors that are summed over the blocks: the words, and what they were before this launch
};

constexpr int HIDDEN_BOX = 0, NEXT_BOX = Letters<D_MODEL>::ALL;  // where the mailboxes of the layers' output begin and end

// The block's shared memory, in this order.
struct Memory {
    char* rings;
    u64* table;
    Run* runs;
    int* parts;  // of the rows of each matrix of a layer: warps that share it
    float *residual, *x, *early, *partial, *squares, *mine, *all;  // early: partial sums of the first product

    __device__ __forceinline__ Memory(float* at) {
        rings = reinterpret_cast<char*>(at), at += DEPTH * NT * 4;
        runs = reinterpret_cast<Run*>(at), at += 8 * (KINDS + 1) * WARPS;
        table = reinterpret_cast<u64*>(at), at += 2 * ((LAYERS * TABLE + 2) / 2 * 2);
        parts = reinterpret_cast<int*>(at), at += (KINDS * ROWS + 3) / 4 * 4;
        residual = at, at += (D_MODEL + 3) / 4 * 4;
        x = at, at += VECTOR;
        early = at, at += EARLY;
        partial = at, at += PARTIAL;
        squares = at, at += SQUARES;
        mine = at, at += MINE;  // of this block's channels, from one part of a layer to the next
        all = at;               // of a vector that every block needs
    }
};

template <int COUNT> __device__ __forceinline__ void constants_of(float (&to)[3 * Letters<COUNT>::HELD], Letters<COUNT>& letters, const float* from) {
    letters.each([&](int k, float, int i) { to[i] = from[k]; });
}

// The residual stream grows by the output of the layer with this tag, the vector of the next product becomes residual times weight, and
// the sums of squares are left, one a warp. The norm's factor is multiplied into the product's rows.
__device__ __forceinline__ void enter(const DecodeArguments& p, const Memory& m, const Stream& stream, const float* norm, bool first_layer, unsigned tag) {
    stream.look_ahead();
    Letters<D_MODEL> came;
    float weight[3 * Letters<D_MODEL>::HELD], sum = 0.0f;
    constants_of<D_MODEL>(weight, came, norm);
    if (first_layer) came.each([](int, float& x, int) { x = 0.0f; });
    else came.take(p.boxes + HIDDEN_BOX, tag);
    came.each([&](int k, float x, int i) {
        const float r = m.residual[k] + x;
        m.residual[k] = r;
        sum = fmaf(r, r, sum);
        m.x[place(k)] = r * weight[i];
    });
    sum = lane_sum<32>(sum);
    if (threadIdx.x % 32 == 0) m.squares[threadIdx.x / 32] = sum;
}

// Before the first layer: the token's embedding is the residual stream, and the rings are filled.
__device__ __forceinline__ void begin(const DecodeArguments& p, const Memory& m, Stream& stream) {
    for (int i = threadIdx.x; i < LAYERS * TABLE + 1; i += NT) m.table[i] = p.table[i];
    for (int i = threadIdx.x; i < VECTOR; i += NT) m.x[i] = 0.0f;
    for (int i = threadIdx.x; i < (KINDS + 1) * WARPS; i += NT) m.runs[i].set(i / WARPS, i % WARPS);
    for (int kind = 0; kind < KINDS; kind++)
        for (int i = threadIdx.x; i < rows_here(kind); i += NT) m.parts[kind * ROWS + i] = parts_of(kind, i);
    const i64 token = *p.token;
    if (token < 0 || token >= VOCABULARY) fail();
    for (int i = threadIdx.x; i < D_MODEL; i += NT) m.residual[i] = Format<TE>::one(p.embedding, token * D_MODEL + i);
    __syncthreads();
    stream.start(m.table, m.runs, m.rings);
}

// One channel of the causal convolution: its earlier inputs and its taps, loaded before the new input is there.
struct Channel {
    float before[TAPS], tap[TAPS], bias;  // before: TAPS - 1 of them

    __device__ __forceinline__ void load(const char* state, const float* constants, int channel) {
#pragma unroll
        for (int i = 0; i < TAPS - 1; i++) before[i] = Format<TCONV>::one(state, i64(channel) * (TAPS - 1) + i);
#pragma unroll
        for (int i = 0; i < TAPS; i++) tap[i] = constants[CONV_WEIGHT + channel * TAPS + i];
        bias = constants[CONV_BIAS + channel];
    }

    __device__ __forceinline__ float convolve(char* state, int channel, float now) {
        float sum = fmaf(tap[TAPS - 1], now, bias);
#pragma unroll
        for (int i = 0; i < TAPS - 1; i++) sum = fmaf(tap[i], before[i], sum);
#pragma unroll
        for (int i = 0; i < TAPS - 1; i++) Format<TCONV>::set(state, i64(channel) * (TAPS - 1) + i, i + 2 < TAPS ? before[i + 1] : now);
        return sum * sigmoid(sum);
    }
};

// Brings bytes, at most NT * 128 of them, to the second-level cache: between two tokens the weights drive out all else.
__device__ __forceinline__ void prefetch_all(const void* from, int bytes) {
    const int at = threadIdx.x * 128;
    if (at < bytes + 127) prefetch(static_cast<const char*>(from) + (at < bytes ? at : bytes - 1));
}

// What the layer with these constants and this convolution state reads before its first product.
__device__ __forceinline__ void prefetch_layer(const float* constants, const char* conv_state, int channel, int count) {
    const Share share(D_MODEL, blockIdx.x);
    prefetch_all(constants + NORM + share.first, share.count * 4);
    prefetch_all(conv_state + i64(channel) * (TAPS - 1) * int(sizeof(TCONV)), count * (TAPS - 1) * int(sizeof(TCONV)));
    prefetch_all(constants + CONV_WEIGHT + channel * TAPS, count * TAPS * 4);
    prefetch_all(constants + CONV_BIAS + channel, count * 4);
}

// Row i of this block's part of in_proj, times the factor of the norm before it.
__device__ __forceinline__ float in_row(const Memory& m, const float* constants, int kind, const float* partial, int i, float factor) {
    float sum = sum_of(partial, sharers(kind), i, m.parts[kind * ROWS + i]) * factor;
    if (HAS_SCALE) sum *= constants[IN_SCALE + row_of(kind, i)];
    if (HAS_BIAS) sum += constants[IN_BIAS + row_of(kind, i)];
    return sum;
}

// The product with out_proj, times factor, to everybody's next layer.
__device__ __forceinline__ void leave(const DecodeArguments& p, const Memory& m, int kind, const float* constants, float factor, unsigned tag) {
    const Share share(D_MODEL, blockIdx.x);
#pragma unroll 1
    for (int round = 0; round < share.count; round += ROUND) {
        const int i = row_of_lane() < 0 ? -1 : row_of_lane() + round, row = share.first + i;
        float sum = 0.0f;
        if (i >= 0 && i < share.count) {
            sum = sum_of(m.partial, sharers(kind), i, m.parts[kind * ROWS + i]) * factor;
            if (HAS_SCALE) sum *= constants[OUT_SCALE + row];
            if (HAS_BIAS) sum += constants[OUT_BIAS + row];
        }
        post_rows(p.boxes + HIDDEN_BOX + blockIdx.x * Letters<D_MODEL>::OF_A_BLOCK, i, share.count, sum, tag);
    }
}

// The product with the head, times the factor of the norm before it.
__device__ __forceinline__ void finish(const DecodeArguments& p, const Memory& m, float factor) {
    const Share share(VOCABULARY, blockIdx.x);
    for (int i = threadIdx.x; i < share.count; i += NT) {
        float sum = sum_of(m.partial, sharers(HEAD), i, parts_of(HEAD, i)) * factor;
        if (HAS_SCALE) sum *= p.head_scale[share.first + i];
        p.logits[share.first + i] = sum;
    }
}
