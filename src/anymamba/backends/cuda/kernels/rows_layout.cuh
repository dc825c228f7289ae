// How the selective scan is laid over lanes where the steps of a channel lie side by side in memory. A lane owns ITEMS neighbouring steps
// of each of NC channels; LT lanes lie along time, WT warps of a block follow them; the other lanes and warps have other channels.
// B and C are read once for the NC channels of a lane. The states are taken one after another, so any number of them will do.
#pragma once
#include "scan_terms.cuh"

constexpr int ITEMS = 8;
constexpr int ROWS = 32 / LT;             // sets of NC channels in a warp
constexpr int CHANNELS = WC * ROWS * NC;  // of a block
constexpr int SEGMENT = LT * ITEMS;       // steps of a warp
constexpr int TILE = WT * SEGMENT;        // steps of a block at a time
constexpr int THREADS = WC * WT * 32;
constexpr int UNROLLED = UNROLL;          // a macro's value does not reach a pragma

// Where this lane stands.
struct Place {
    int lane, lt, wt, slot;  // slot: of this lane's first channel, among those of the block
    i64 b, g, first, last;   // batch; group; this lane's first channel; the group's last channel
    __device__ __forceinline__ Place(i64 blocks, i64 blocks_of_group, i64 group) {
        const int warp = threadIdx.x / 32;
        lane = threadIdx.x % 32, lt = lane % LT, wt = warp % WT;
        slot = (warp / WT * ROWS + lane / LT) * NC;
        const i64 block = blockIdx.x % blocks;
        b = blockIdx.x / blocks, g = block / blocks_of_group;
        first = g * group + block % blocks_of_group * CHANNELS + slot;
        last = (g + 1) * group - 1;
    }
    // A lane beyond the group computes its last channel, and keeps nothing.
    __device__ __forceinline__ bool has(int c) const { return first + c <= last; }
    __device__ __forceinline__ i64 channel(int c) const { return has(c) ? first + c : last; }
};

#include "items.cuh"

// B and C, state after state and tile after tile, for this lane's steps: one row for its channels, or a constant of each channel. The next
// rows are on their way into a ring in shared memory, of which each lane reads what it fetched itself. Rows are readable in whole Items; a
// lane beyond the end reads the last of them, and multiplies by zero.
constexpr int DEPTH = 4;  // rows of the ring
constexpr int WORDS_B = B_CONSTANT ? 0 : ITEMS * int(sizeof(TB)) / 4, WORDS_C = C_CONSTANT ? 0 : ITEMS * int(sizeof(TC)) / 4;
constexpr int RING = DEPTH * (WORDS_B + WORDS_C) * THREADS;  // floats

template <int DIRECTION> struct Matrices {
    const char *B, *C, *next_B, *next_C;  // first rows; what is fetched next
    i64 B_n, C_n, length, t;              // bytes between rows; steps; this lane's first step of the tile that is fetched from
    float* ring;
    const float *constant_B, *constant_C;
    int ahead, place;  // state that is fetched next; the place of the ring that is read next
    Raw<TB, ITEMS> row_B;
    Raw<TC, ITEMS> row_C;

    __device__ __forceinline__ Matrices(const char* first_B, const char* first_C, i64 step_B, i64 step_C, i64 steps, i64 first,
                                        float* memory, const float* of_B, const float* of_C)
        : B(first_B), C(first_C), next_B(first_B), next_C(first_C), B_n(step_B), C_n(step_C), length(steps), t(first), ring(memory), constant_B(of_B), constant_C(of_C),
          ahead(0), place(0) {
        start();
#pragma unroll
        for (int i = 0; i < DEPTH - 1; i++) fetch(i);
    }
    template <int WORDS> static __device__ __forceinline__ void copy(float* to, const char* from) {
#pragma unroll
        for (int i = 0; i < WORDS / 4; i++) fetch_16_bytes(to + (i * THREADS + threadIdx.x) * 4, from + 16 * i);
    }
    // of a tile
    __device__ __forceinline__ void start() {
        const i64 last = (length - 1) / ITEMS * ITEMS, at = t > last ? last : t < 0 ? 0 : t;
        next_B = B + at * sizeof(TB), next_C = C + at * sizeof(TC);
    }
    __device__ __forceinline__ void fetch(int to) {
        float* place_B = ring + to * (WORDS_B + WORDS_C) * THREADS;
        if (!B_CONSTANT) copy<WORDS_B>(place_B, next_B);
        if (!C_CONSTANT) copy<WORDS_C>(place_B + WORDS_B * THREADS, next_C);
        end_fetches();
        next_B += B_n, next_C += C_n;
        if (++ahead == N) {
            ahead = 0, t += DIRECTION * TILE;
            start();
        }
    }
    template <int WORDS> static __device__ __forceinline__ void read(Words<WORDS>& to, const float* from) {
#pragma unroll
        for (int i = 0; i < WORDS / 4; i++) {
            const uint4 v = *reinterpret_cast<const uint4*>(from + (i * THREADS + threadIdx.x) * 4);
            to.w[4 * i] = v.x, to.w[4 * i + 1] = v.y, to.w[4 * i + 2] = v.z, to.w[4 * i + 3] = v.w;
        }
    }
    __device__ __forceinline__ void advance(int n) {
        if (N % DEPTH == 0) place = n % DEPTH;  // which the compiler knows where states are laid out in a row
        await_fetches<DEPTH - 2>();
        const float* from = ring + place * (WORDS_B + WORDS_C) * THREADS;
        if (!B_CONSTANT) read(row_B, from);
        if (!C_CONSTANT) read(row_C, from + WORDS_B * THREADS);
        fetch((place + DEPTH - 1) % DEPTH);
        place = (place + 1) % DEPTH;
    }
    // of a lane's channel c, step i and state n
    __device__ __forceinline__ float get_B(int c, int i, int n) const { return B_CONSTANT ? constant_B[c * N + n] : Format<TB>::get(row_B, i); }
    __device__ __forceinline__ float get_C(int c, int i, int n) const { return C_CONSTANT ? constant_C[c * N + n] : Format<TC>::get(row_C, i); }
};

// Which of a lane's steps begin a document, and which are padding: a bit each. marks: 1 and 2, of every step of a sequence.
struct Documents {
    unsigned starts, padding;
    __device__ __forceinline__ void load(const int* marks, i64 t, i64 steps) {
        starts = padding = 0u;
        if (!HAS_MARKS) return;
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const int mark = i < steps ? marks[t + i] : 0;
            starts |= unsigned(mark == 1) << i, padding |= unsigned(mark == 2) << i;
        }
    }
    __device__ __forceinline__ bool begins(int i) const { return HAS_MARKS && (starts >> i & 1u); }
    __device__ __forceinline__ bool pads(int i) const { return HAS_MARKS && (padding >> i & 1u); }
    // of all steps of the lane: nothing passes the start of a document
    __device__ __forceinline__ float decay(float power) const { return HAS_MARKS && starts ? 0.0f : decay_of(power); }
};

// Sets the decays and inputs of ITEMS steps of one channel and state, and the state that they end with from zero.
template <typename Values> __device__ __forceinline__ float steps_from_zero(
    float (&a)[ITEMS], float (&input)[ITEMS], const float (&d)[ITEMS], const float (&x)[ITEMS], float A, const Documents& documents,
    const Values& B) {
    float h = 0.0f;
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        a[i] = documents.begins(i) ? 0.0f : decay_of(d[i] * A);
        input[i] = x[i] * B(i);
        h = i ? fmaf(a[i], h, input[i]) : input[i];
    }
    return h;
}

// Of every lane: decay over its steps, and what they add to the state. Afterwards over all lanes up to it, of the LT along time.
template <int K = 1> __device__ __forceinline__ void scan_forwards(float (&decay)[NC], float (&added)[NC]) {
    if constexpr (K < LT) {
#pragma unroll
        for (int c = 0; c < NC; c++) append_before<LT, K>(decay[c], added[c]);
        scan_forwards<2 * K>(decay, added);
    }
}
// The same from the last lane to the first.
template <int K = 1> __device__ __forceinline__ void scan_backwards(float (&decay)[NC], float (&added)[NC]) {
    if constexpr (K < LT) {
#pragma unroll
        for (int c = 0; c < NC; c++) append_after<LT, K>(decay[c], added[c]);
        scan_backwards<2 * K>(decay, added);
    }
}

// Of a channel and state, in shared memory: A times log2(e), and the state before the tile, of this tile and the next in turns where
// several warps share a channel.
constexpr int PAIR = WT > 1 ? 4 : 2;  // floats
constexpr int BEFORE = (N + 1) * PAIR;  // of a channel; without the gap its neighbours would lie in the same banks
