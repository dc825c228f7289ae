// What the decode kernels share. One launch computes one token of one text with all of the model: every block keeps a share of
// the rows of each matrix, and the vectors between them pass through mailboxes in global memory.
//
// A letter is three floats and the tag of its layer in one 16-byte word, so whoever reads the values also knows that they are there:
// no barrier, one trip through the second-level cache. All blocks must run at the same time (a cooperative launch).
//
// Weights do not depend on anything, so each warp has a queue of its next DEPTH pieces of 512 bytes of them in shared memory, which runs
// on across matrices and layers: the memory is busy while the vectors are waited for. The place of a piece that has been multiplied is
// filled at once, so that requests leave evenly; four pieces at a time took 6 % longer on an H100.
#pragma once
#include "lanes.cuh"

typedef unsigned long long u64;

struct __align__(16) Letter { float x[3]; unsigned tag; };

#ifndef EMULATED
// In PTX from CUDA 12.3 on, 16 bytes can be said to be one access. Older compilers are given two halves, which the hardware moves
// together all the same.
#if __CUDACC_VER_MAJOR__ > 12 || (__CUDACC_VER_MAJOR__ == 12 && __CUDACC_VER_MINOR__ >= 3)
#define LETTER_STORE "{.reg .b128 t; mov.b128 t, {%1, %2}; st.relaxed.gpu.global.b128 [%0], t;}"
#define LETTER_LOAD "{.reg .b128 t; ld.relaxed.gpu.global.b128 t, [%2]; mov.b128 {%0, %1}, t;}"
#else
#define LETTER_STORE "st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};"
#define LETTER_LOAD "ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
#endif
__device__ __forceinline__ void post(Letter* box, const Letter& letter) {
    const u64 low = (u64(__float_as_uint(letter.x[1])) << 32) | __float_as_uint(letter.x[0]);
    const u64 high = (u64(letter.tag) << 32) | __float_as_uint(letter.x[2]);
    asm volatile(LETTER_STORE ::"l"(box), "l"(low), "l"(high) : "memory");
}
__device__ __forceinline__ Letter look(const Letter* box) {
    u64 low, high;
    asm volatile(LETTER_LOAD : "=l"(low), "=l"(high) : "l"(box) : "memory");
    return {{__uint_as_float(unsigned(low)), __uint_as_float(unsigned(low >> 32)), __uint_as_float(unsigned(high))}, unsigned(high >> 32)};
}
// The number of this thread, which the compiler cannot keep from an earlier time: what is made of it shall not stay in registers.
__device__ __forceinline__ int thread_anew() {
    int x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}
__device__ __forceinline__ float from_lane(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
__device__ __forceinline__ void prefetch(const void* p) {
#if __CUDA_ARCH__ < 1200
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else  // on which the assemblers of CUDA 12.8 and 12.9 crash; 16 bytes at a multiple of 16
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], 16;" ::"l"(reinterpret_cast<u64>(p) & ~u64(15)));
#endif
}
__device__ __forceinline__ unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// Weights are read once a token, and would drive letters, constants and states out of the second-level cache: a reader that waits for a
// letter whose line is gone waits for the memory, behind all the weights that have been asked for.
__device__ __forceinline__ u64 leave_first() {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
__device__ __forceinline__ void copy_16_bytes(char* to, const char* from, u64 policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "l"(policy) : "memory");
}
__device__ __forceinline__ void close_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wait_groups() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
__device__ __forceinline__ void add(u64* to, u64 x) { asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(to), "l"(x) : "memory"); }
__device__ __forceinline__ u64 peek(const u64* from) {
    u64 x;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(x) : "l"(from) : "memory");
    return x;
}
__device__ __forceinline__ i64 nearest(float x) { return __float2ll_rn(x); }
__device__ __forceinline__ float inverse_root(float x) { return rsqrtf(x); }
__device__ __forceinline__ void give_way() {}
__device__ __forceinline__ void fail() { __trap(); }
#endif

struct int8 { signed char bits; };

// The bytes of an int8 weight become the low bits of a float of 2^23 and more.
template <> struct Format<int8> {
    static __device__ __forceinline__ float one(const void* p, i64 i) { return static_cast<const int8*>(p)[i].bits; }
    template <int W> static __device__ __forceinline__ float get(const Words<W>& x, int i) {
        return __uint_as_float(0x4b000000u | (((x.w[i / 4] ^ 0x80808080u) >> (i % 4 * 8)) & 0xffu)) - 8388736.0f;
    }
};

constexpr int WARPS = NT / 32;
constexpr int UNROLLED = UNROLL;  // a macro's value does not reach a pragma
constexpr int E = 16 / int(sizeof(TW));  // weights of a lane's load
constexpr int SEGMENT = 32 * E;          // of a warp's load

__host__ __device__ constexpr int segments(int columns) { return (columns + SEGMENT - 1) / SEGMENT; }
__host__ __device__ constexpr int up(int a, int b) { return (a + b - 1) / b; }

// Where a vector's element lies in shared memory: what a lane multiplies with one load stands in pieces of 4 floats, 32 lanes
// side by side, so that no two lanes of a quarter of a warp want the same bank.
__device__ __forceinline__ int place(int k) {
    const int in = k % SEGMENT, j = in % E;
    return k - in + j / 4 * 128 + in / E * 4 + j % 4;
}

// The rows of a matrix that a block keeps: from first, count of them.
struct Share {
    int first, count;
    __device__ __forceinline__ Share(unsigned rows, unsigned block) {
        first = rows * block / BLOCKS;
        count = int(rows * (block + 1) / BLOCKS) - first;
    }
};

// The letters that hold a vector of COUNT, of which every block posts its share. A thread has every NT-th of them.
template <int COUNT> struct Letters {
    static constexpr int OF_A_BLOCK = up(up(COUNT, BLOCKS), 3), ALL = BLOCKS * OF_A_BLOCK, HELD = up(ALL, NT);
    Letter letter[HELD];
    int first[HELD], count[HELD], thread;  // first, count: the elements of each

    __device__ __forceinline__ Letters() : thread(thread_anew()) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const int q = thread + i * NT, skipped = q % OF_A_BLOCK * 3;
            const Share share(COUNT, q < ALL ? q / OF_A_BLOCK : 0);
            first[i] = share.first + skipped;
            count[i] = q < ALL ? (share.count - skipped < 3 ? share.count - skipped : 3) : 0;
        }
    }

    // Waits until all with this tag have come.
    __device__ __forceinline__ void take(const Letter* box, unsigned tag) {
        for (unsigned looks = 0;; looks++) {
            bool here = true;
#pragma unroll
            for (int i = 0; i < HELD; i++)
                if (count[i] > 0) {
                    letter[i] = look(box + thread + i * NT);
                    here = here && letter[i].tag == tag;
                }
            if (here) return;
            if (looks > 50000000u) fail();  // another block is gone: an error is better than a device that hangs
            give_way();
        }
    }

    // function(k, x&) of every element
    template <typename Function> __device__ __forceinline__ void each(Function function) {
#pragma unroll
        for (int i = 0; i < HELD; i++)
#pragma unroll
            for (int j = 0; j < 3; j++)
                if (j < count[i]) function(first[i] + j, letter[i].x[j], 3 * i + j);
    }
};

// A vector to which every block adds its part: what a product gives whose columns are dealt to the blocks. Sums of integers do not depend
// on their order, so equal runs give equal bits. A word is the sum in units of 2^-30, times 256, plus the number of blocks that have
// added: whoever reads it also knows whether all have. It is never set back; a reader subtracts what it has seen before. Nobody adds for
// the next layer before all have read, for the layer's output depends on them.
constexpr float UNITS = 1073741824.0f, MOST = 131072.0f;  // MOST: of one block's part; 255 of them fit

__device__ __forceinline__ void add_part(u64* word, float x) {
    const float bounded = fminf(fmaxf(x, -MOST), MOST);
    add(word, (u64(nearest(bounded * UNITS)) << 8) + 1);
}

// By all threads: waits until every block has added to the COUNT words, STEP apart, and gives function(k, sum) of each. seen: what they
// were before, in shared memory.
template <int COUNT, int STEP, typename Function> __device__ __forceinline__ void take_sums(const u64* words, u64* seen, Function function) {
#pragma unroll 1
    for (int k = threadIdx.x; k < COUNT; k += NT) {
        u64 word;
        for (unsigned looks = 0;; looks++) {
            word = peek(words + k * STEP);
            if (((word - seen[k]) & 255) == BLOCKS) break;
            if (looks > 50000000u) fail();
            give_way();
        }
        function(k, float(i64(word - seen[k]) >> 8) * (1.0f / UNITS));
        seen[k] = word;
    }
}

// Rows of this block go to lanes in runs of 30 a warp, so that every third lane can post a letter of its row and the next two.
constexpr int ROUND = 30 * WARPS;
__device__ __forceinline__ int row_of_lane() { return threadIdx.x % 32 < 30 ? threadIdx.x / 32 * 30 + threadIdx.x % 32 : -1; }

// By every lane of the warp: element i of this block's count, in x; box: of the block's first letter.
__device__ __forceinline__ void post_rows(Letter* box, int i, int count, float x, unsigned tag) {
    const int lane = threadIdx.x % 32;
    const float second = from_lane(x, (lane + 1) % 32), third = from_lane(x, (lane + 2) % 32);
    if (i >= 0 && i < count && i % 3 == 0) post(box + i / 3, {{x, second, third}, tag});
}

// The sum over LANES neighbouring lanes, in each of them.
template <int LANES> __device__ __forceinline__ float lane_sum(float x) {
#pragma unroll
    for (int mask = LANES / 2; mask; mask /= 2) x += exchange(x, mask);
    return x;
}

// A lane's part of a unit: two sums, so that no chain is longer than need be.
__device__ __forceinline__ void add_weighted(float (&sum)[2], const Words<4>& w, const float* x) {
#pragma unroll
    for (int piece = 0; piece < E / 4; piece++) {
        float v[4];
        load_floats(v, x + piece * 128);
#pragma unroll
        for (int j = 0; j < 4; j++) sum[j % 2] = fmaf(Format<TW>::get(w, piece * 4 + j), v[j], sum[j % 2]);
    }
}

// A model file says what its products are: KINDS of them a layer. The first two are with in_proj, whose rows are cut in two so that what
// the others need of the first is on its way while the second is computed; then out_proj; the head is one more in a layer after the last.
constexpr int FIRST = 0, SECOND = 1, OUT = 2, HEAD = KINDS;
__host__ __device__ constexpr int columns(int kind);          // of the matrix
__host__ __device__ constexpr int sharers(int kind);          // warps that share a row, at most
__device__ __forceinline__ int rows_here(int kind);           // that this block keeps
__device__ __forceinline__ int row_of(int kind, int i);       // in the matrix, of this block's i-th
__device__ __forceinline__ int border(int kind, int i);       // the first row after i that is not the neighbour of the row before

// A unit is a segment of a row. A block deals the units of its rows to its warps in runs of neighbours.
__device__ __forceinline__ int first_unit(int units, int warp) {
    return units < WARPS ? (warp < units ? warp : units) : int(unsigned(units) * warp / WARPS);
}
__device__ __forceinline__ int warp_of(int unit, int units) {
    return units < WARPS ? unit : int((unsigned(WARPS) * (unit + 1) - 1) / unsigned(units));
}

// One warp's run in one matrix: where it begins, its units, its place among the warps that share its first row. Of all its rows only
// the first can have begun in another warp.
struct Run {
    int row, segment, units, slot;
    i64 offset;  // bytes, of this block's row and segment from the beginning of the matrix
    i64 unused;

    __device__ __forceinline__ void set(int kind, int warp) {
        const int across = segments(columns(kind)), all = rows_here(kind) * across, begin = first_unit(all, warp);
        units = first_unit(all, warp + 1) - begin;
        row = begin / across, segment = begin % across;
        slot = units ? warp - warp_of(row * across, all) : 0;
        offset = (i64(row_of(kind, row)) * columns(kind) + segment * SEGMENT) * int(sizeof(TW));
    }
};

// How many warps share row i of this block.
__device__ __forceinline__ int parts_of(int kind, int i) {
    const int across = segments(columns(kind)), units = rows_here(kind) * across;
    return warp_of((i + 1) * across - 1, units) - warp_of(i * across, units) + 1;
}

__host__ __device__ constexpr bool ragged() {
    for (int kind = 0; kind <= HEAD; kind++)
        if (columns(kind) % SEGMENT) return true;
    return false;
}

// The weights of one warp, in the order of their use. Kernels that are straight through every layer once have no code in the cache of
// instructions but what is small: what can be known beforehand is read from runs.
struct Stream {
    const u64* table;
    const Run* runs;
    char* queue;  // of this lane: it copies what it will read itself
    const char *base, *at;
    int layer, kind, row, segment, left, gap;  // gap: the row before which the matrix is left for another row
    unsigned put, got;  // bytes

    static __device__ __forceinline__ unsigned after(unsigned place) {
        if ((DEPTH & (DEPTH - 1)) == 0) return (place + 512) % (DEPTH * 512);
        return place + 512 == DEPTH * 512 ? 0 : place + 512;
    }

    __device__ __forceinline__ void start(const u64* pointers, const Run* all, char* memory) {
        table = pointers, runs = all, queue = memory + threadIdx.x / 32 * DEPTH * 512 + threadIdx.x % 32 * 16;
        base = at = nullptr, layer = 0, kind = -1, row = segment = left = gap = 0, put = got = 0;
        next();
#pragma unroll 1
        for (int i = 0; i < DEPTH; i++) issue();
    }

    // to the next matrix in which this warp has units
    __device__ __forceinline__ void next() {
        while (left == 0 && !(layer == LAYERS && kind == HEAD)) {
            kind++;
            if (kind == KINDS && layer < LAYERS) {
                layer++;
                kind = layer == LAYERS ? HEAD : 0;
            }
            const Run& run = runs[kind * WARPS + threadIdx.x / 32];
            left = run.units, row = run.row, segment = run.segment;
            base = reinterpret_cast<const char*>(table[layer * TABLE + (kind == HEAD ? 0 : kind)]);
            at = base + run.offset;
            gap = border(kind, row);
        }
    }

    // Before a wait: asks the second-level cache for LOOK_AHEAD times 4 KiB of what comes after the queue. While nothing is read from the
    // queue nothing is asked for either, and a multiprocessor has less under way than the queue holds.
    __device__ __forceinline__ void look_ahead() const {
        const int across = segments(columns(kind)), until = (gap - row) * across - segment, units = left < until ? left : until;
#pragma unroll
        for (int i = 0; i < LOOK_AHEAD; i++) {
            const int byte = (i * 32 + threadIdx.x % 32) * 128;
            if (!ragged() && byte < units * 512) prefetch(at + byte);
        }
    }

    // asks for the next unit, into the place of the one that was read last
    __device__ __forceinline__ void issue() {
        if (left) {
            const int width = columns(kind) * int(sizeof(TW)), lane = threadIdx.x % 32 * 16;
            if (!ragged() || segment * 512 + lane < width) copy_16_bytes(queue + put, at + lane, leave_first());
            at += 512;
            if (--left == 0) {
                next();
            } else if (++segment == segments(columns(kind))) {
                segment = 0, row++;
                if (ragged()) at += width - segments(columns(kind)) * 512;
                if (row == gap) at = base + i64(row_of(kind, row)) * width, gap = border(kind, row);
            }
        }
        close_group();
        put = after(put);
    }
};

// This block's rows of a matrix times the vector in x. Leaves the sums of row i, one a warp that shares it, from
// partial[i * sharers(kind)] on.
__device__ __forceinline__ void multiply(int kind, Stream& stream, const float* x, float* partial) {
    const int across = segments(columns(kind)), most = sharers(kind), lane = threadIdx.x % 32;
    const Run& run = stream.runs[kind * WARPS + threadIdx.x / 32];
    int row = run.row, segment = run.segment, left = run.units, slot = run.slot;
#pragma unroll 1
    while (left > 0) {
        const int stretch = left < across - segment ? left : across - segment;
        const float* from = x + segment * SEGMENT + lane * 4;
        float sum[2] = {0.0f, 0.0f};
#pragma unroll UNROLLED
        for (int i = 0; i < stretch; i++, from += SEGMENT) {
            wait_groups<DEPTH - 1>();
            Words<4> w;
            if (!ragged() || (segment + i) * SEGMENT + lane * E < columns(kind)) load_words(w, stream.queue + stream.got);
            else clear(w);
            add_weighted(sum, w, from);
            stream.got = Stream::after(stream.got);
            stream.issue();
        }
        const float whole = lane_sum<32>(sum[0] + sum[1]);
        if (lane == 0) partial[row * most + slot] = whole;
        row++, slot = 0, segment = 0, left -= stretch;
    }
}

__device__ __forceinline__ float sum_of(const float* partial, int most, int i, int parts) {
    float sum = 0.0f;
#pragma unroll 1
    for (int w = 0; w < parts; w++) sum += partial[i * most + w];
    return sum;
}

__device__ __forceinline__ float root_mean_square(const float* squares, int count, float epsilon) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += squares[w];
    return inverse_root(sum / count + epsilon);
}
