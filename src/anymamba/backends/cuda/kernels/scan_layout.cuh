// How the selective scan is laid over lanes. A warp owns CW channels and all their N states: a lane holds NS states of each of NC
// channels, LN lanes share a channel, LC lanes lie along the channels.
#pragma once
#include "scan_terms.cuh"

constexpr int LN = N / NS;
constexpr int LC = 32 / LN;
constexpr int CW = LC * NC;
constexpr int E = CW < 8 ? CW : 8;       // neighbouring channels that one lane loads, converts and stores
constexpr int ROW = CW / E;              // such pieces in a time step

// A of this lane's channels and states, times log2(e).
__device__ __forceinline__ void load_A(float (&A)[NC][NS], const void* p, i64 a_d, i64 a_n, int first, int n0, int channels) {
#pragma unroll
    for (int c = 0; c < NC; c++)
#pragma unroll
        for (int n = 0; n < NS; n++)
            A[c][n] = first + c < channels ? Format<TA>::one(p, (first + c) * a_d + (n0 + n) * a_n) * LOG2E : 0.0f;
}

// Pieces of 8 states of STEPS rows of B or C, from their memory to rows of 2 * N floats in shared memory.
template <typename Type, int STEPS> struct States {
    static constexpr int PIECES = (STEPS * N / 8 + 31) / 32;
    Raw<Type, 8> raw[PIECES];
    __device__ __forceinline__ void load(const char* p, i64 row_bytes, i64 t0, i64 end, int lane) {
#pragma unroll
        for (int v = 0; v < PIECES; v++) {
            const int piece = lane + 32 * v;
            const i64 t = t0 + piece / (N / 8);
            if (piece < STEPS * N / 8 && t < end) load_words(raw[v], p + t * row_bytes + piece % (N / 8) * 8 * sizeof(Type));
            else clear(raw[v]);
        }
    }
    __device__ __forceinline__ void spread(float* to, int lane) const {
#pragma unroll
        for (int v = 0; v < PIECES; v++) {
            const int piece = lane + 32 * v;
            float x[8];
#pragma unroll
            for (int i = 0; i < 8; i++) x[i] = Format<Type>::get(raw[v], i);
            if (piece < STEPS * N / 8) store_floats(to + piece / (N / 8) * 2 * N + piece % (N / 8) * 8, x);
        }
    }
};

// Pieces of E channels of STEPS rows of u, delta, z or dout. Piece number q of a tile lies at float q * E of its shared array.
template <typename Type, int STEPS> struct Rows {
    static constexpr int PIECES = (STEPS * ROW + 31) / 32;
    Raw<Type, E> raw[PIECES];
    __device__ __forceinline__ void load(const char* p, i64 row_bytes, i64 t0, i64 end, bool live, int lane) {
#pragma unroll
        for (int v = 0; v < PIECES; v++) {
            const int piece = lane + 32 * v;
            const i64 t = t0 + piece / ROW;
            if (live && piece < STEPS * ROW && t < end) load_words(raw[v], p + t * row_bytes);
            else clear(raw[v]);
        }
    }
    __device__ __forceinline__ float get(int v, int i) const { return Format<Type>::get(raw[v], i); }
};

// Writes one piece of E floats as Type.
template <typename Type> __device__ __forceinline__ void write_piece(char* to, const float (&x)[E]) {
    Raw<Type, E> out;
#pragma unroll
    for (int i = 0; i < E; i += 2) Format<Type>::put(out, i, x[i], x[i + 1]);
    store_words(to, out);
}
