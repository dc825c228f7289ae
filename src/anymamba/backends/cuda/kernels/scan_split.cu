// Mamba-1 selective scan, forward, with the warps of a block split in two kinds. Walkers carry the states through time and do nothing
// else; helpers do the element-wise work (softplus, gate) of the tile after and the tile before, and move all data. So the chain of
// states never waits for memory, one pass is enough where channels are few, and both kinds share the units of a multiprocessor.
//
// A stage of shared memory holds a tile of T steps with time running fastest: a walker reads the same number for a run of steps at once.
//
// Warp w of a block runs on scheduler w % 4 of its multiprocessor. Four walkers have a scheduler each, with a helper beside. Three have
// theirs for themselves and the helpers the fourth: 12 channels a block, where those of 16 would leave multiprocessors without work.
#include "scan_forward.cuh"

constexpr int WALKERS = WARPS, HELPERS = WALKERS == 3 ? 3 : 4;
constexpr int LAUNCHED = WALKERS == 3 ? 12 : WALKERS + HELPERS;  // of 12, those that are neither only hold places before helpers
constexpr int WIDE = WALKERS * CW;                               // channels of a block
constexpr int PIECE = WALKERS == 3 ? 4 : WIDE / 4 < 8 ? WIDE / 4 : 8, ACROSS = WIDE / PIECE;  // neighbouring channels that a lane loads
constexpr int PITCH = T + 4;             // no two lanes of a quarter of a warp want the same bank
constexpr int HELD = (T * ACROSS + 32 * HELPERS - 1) / (32 * HELPERS);     // pieces of a helper's lane
constexpr int OF_STATES = T * N / 8, HELD_STATES = (OF_STATES + 32 * HELPERS - 1) / (32 * HELPERS);
constexpr bool PACKED = sizeof(TB) == 2 && sizeof(TC) == 2;  // B and C of a state and step in one word: shared memory is the bottleneck
constexpr int STAGE = (3 * WIDE + (PACKED ? 1 : 2) * N) * PITCH;
constexpr int KEPT = 4;                  // tiles whose u and z a helper keeps, for it needs them again two tiles later
constexpr int KEPT_BYTES = PIECE * int(sizeof(TU) + sizeof(TZ)) * 32 * HELPERS;  // of a piece of every lane
constexpr int UNROLLED = UNROLL;  // a macro's value does not reach a pragma
constexpr bool AHEAD = MIN_BLOCKS == 1;

constexpr bool SWAPPED = T >= 32 && LN <= 8;

// Where step t of a channel or a state lies in its row of T: helpers write many rows at once, and rows of a tile would meet in the same
// banks. Multiples of 8 are swapped, so that the runs of steps which walkers read stay together.
__device__ __forceinline__ int of_channel(int t, int channel) {
    const int k = channel / PIECE;
    return !SWAPPED ? t : t ^ (PIECE == 8 ? k % 4 * 8 : PIECE == 4 ? k / 2 % 4 * 8 : 0);
}
__device__ __forceinline__ int of_state(int t, int n) { return !SWAPPED ? t : t ^ n / 8 % 2 * 16; }

// One stage: step sizes, inputs times them, outputs (WIDE, PITCH); B and C (N, PITCH), or both in B where they are packed.
struct Stage {
    float *dt, *x, *y, *B, *C;
    __device__ __forceinline__ Stage(float* memory, int tile) {
        dt = memory + tile % 2 * STAGE, x = dt + WIDE * PITCH, y = x + WIDE * PITCH, B = y + WIDE * PITCH, C = B + N * PITCH;
    }
};

struct Tile {
    Raw<TU, PIECE> u[HELD];
    Raw<TDT, PIECE> dt[HELD];
    Raw<TZ, PIECE> z[HELD];
    Raw<TB, 8> B[HELD_STATES];
    Raw<TC, 8> C[HELD_STATES];
};

// What a helper's lane does: piece v of it is PIECE channels from column of step v * STEPS + step of a tile. Its pointers walk along: those
// of inputs are at the tile to load next, that of the output at the one to finish next. left: steps of a tile that there are.
struct Helper {
    static constexpr int STEPS = 32 * HELPERS / ACROSS;
    const ForwardArguments& p;
    char* kept;
    int lane, step, column;
    bool live;
    const char *u, *dt, *z, *B, *C;
    char* out;
    float bias[PIECE], D[PIECE];

    __device__ __forceinline__ Helper(const ForwardArguments& given, float* memory, int number, i64 b, int ch0)
        : p(given), kept(reinterpret_cast<char*>(memory + 2 * STAGE)), lane(number) {
        step = lane / ACROSS, column = lane % ACROSS * PIECE;
        const int first = ch0 + column, state = lane / (N / 8);
        live = first < p.channels;
        const i64 g = ch0 / p.group;
        u = p.u + b * p.u_b + step * p.u_l + first * i64(sizeof(TU)), dt = p.dt + b * p.dt_b + step * p.dt_l + first * i64(sizeof(TDT));
        z = p.z + b * p.z_b + step * p.z_l + first * i64(sizeof(TZ)), out = p.out + b * p.out_b + step * p.out_l + first * i64(sizeof(TU));
        B = p.B + b * p.B_b + g * p.B_g + state * p.B_l + lane % (N / 8) * 8 * sizeof(TB);
        C = p.C + b * p.C_b + g * p.C_g + state * p.C_l + lane % (N / 8) * 8 * sizeof(TC);
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            bias[i] = HAS_BIAS && live ? Format<TBIAS>::one(p.bias, first + i) : 0.0f;
            D[i] = HAS_D && live ? Format<TD>::one(p.D, first + i) : 0.0f;
        }
    }

    // where u of piece v of a tile is kept, and behind it z: what a lane keeps only that lane reads
    __device__ __forceinline__ char* place(int tile, int v) const { return kept + (tile % KEPT * HELD + v) * KEPT_BYTES; }
    static __device__ __forceinline__ char* of_z(char* u) { return u + 32 * HELPERS * PIECE * int(sizeof(TU)); }

    __device__ __forceinline__ void load(Tile& tile, int left) {
#pragma unroll
        for (int v = 0; v < HELD; v++) {
            clear(tile.u[v]), clear(tile.dt[v]), clear(tile.z[v]);
            if (live && v * STEPS + step < left) {
                load_words(tile.dt[v], dt + v * STEPS * p.dt_l);
                load_words(tile.u[v], u + v * STEPS * p.u_l);
                if (HAS_Z) load_words(tile.z[v], z + v * STEPS * p.z_l);
            }
        }
#pragma unroll
        for (int v = 0; v < HELD_STATES; v++) {
            constexpr int APART = 32 * HELPERS / (N / 8);  // steps
            clear(tile.B[v]), clear(tile.C[v]);
            if (v * APART + lane / (N / 8) < left) {
                load_words(tile.B[v], B + v * APART * p.B_l);
                load_words(tile.C[v], C + v * APART * p.C_l);
            }
        }
        u += T * p.u_l, dt += T * p.dt_l, z += T * p.z_l, B += T * p.B_l, C += T * p.C_l;
    }

    __device__ __forceinline__ void spread(const Tile& tile, const Stage& to, int number, int left) const {
#pragma unroll
        for (int v = 0; v < HELD; v++) {
            const int s = v * STEPS + step;
            if (s >= T) continue;
            const bool inside = s < left;
            if (HAS_D) store_words(place(number, v) + lane * PIECE * sizeof(TU), tile.u[v]);
            if (HAS_Z) store_words(of_z(place(number, v)) + lane * PIECE * sizeof(TZ), tile.z[v]);
#pragma unroll
            for (int i = 0; i < PIECE; i++) {
                const float size = step_size(Format<TDT>::get(tile.dt[v], i), bias[i]), d = inside ? size : 0.0f;
                const int at = (column + i) * PITCH + of_channel(s, column);
                to.dt[at] = d;
                to.x[at] = d * Format<TU>::get(tile.u[v], i);
            }
        }
#pragma unroll
        for (int v = 0; v < HELD_STATES; v++) {
            const int piece = lane + v * 32 * HELPERS, n = piece % (N / 8) * 8, at = n * PITCH + of_state(piece / (N / 8), n);
            if (piece >= OF_STATES) continue;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (PACKED) {
                    const unsigned b = tile.B[v].w[i / 2], c = tile.C[v].w[i / 2];
                    to.B[at + i * PITCH] = __uint_as_float(i % 2 ? b >> 16 | (c & 0xffff0000u) : (b & 0xffffu) | c << 16);
                } else {
                    to.B[at + i * PITCH] = Format<TB>::get(tile.B[v], i);
                    to.C[at + i * PITCH] = Format<TC>::get(tile.C[v], i);
                }
            }
        }
    }

    __device__ __forceinline__ void finish(const Stage& from, int number, int left) {
#pragma unroll
        for (int v = 0; v < HELD; v++) {
            const int s = v * STEPS + step;
            if (!live || s >= left) continue;
            Raw<TU, PIECE> u;
            Raw<TZ, PIECE> z;
            if (HAS_D) load_words(u, place(number, v) + lane * PIECE * sizeof(TU));
            if (HAS_Z) load_words(z, of_z(place(number, v)) + lane * PIECE * sizeof(TZ));
            float y[PIECE];
#pragma unroll
            for (int i = 0; i < PIECE; i++) {
                y[i] = from.y[(column + i) * PITCH + of_channel(s, column)];
                if (HAS_D) y[i] = fmaf(D[i], Format<TU>::get(u, i), y[i]);
                if (HAS_Z) y[i] *= Format<TZ>::get(z, i) * sigmoid(Format<TZ>::get(z, i));
            }
            Raw<TU, PIECE> narrow;
#pragma unroll
            for (int i = 0; i < PIECE; i += 2) Format<TU>::put(narrow, i, y[i], y[i + 1]);
            store_words(out + v * STEPS * p.out_l, narrow);
        }
        out += T * p.out_l;
    }
};

// What a walker's lane reads of LN steps.
struct Group {
    float dt[LN], x[LN], B[NS][LN], C[NS][LN];

    __device__ __forceinline__ void load(const Stage& at, int row, int n, int t) {
        load_floats(dt, at.dt + row * PITCH + of_channel(t, row));
        load_floats(x, at.x + row * PITCH + of_channel(t, row));
#pragma unroll
        for (int i = 0; i < NS; i++) load_floats(B[i], at.B + (n + i * LN) * PITCH + of_state(t, i * LN));
#pragma unroll
        for (int i = 0; i < NS; i++)
            if (!PACKED) load_floats(C[i], at.C + (n + i * LN) * PITCH + of_state(t, i * LN));
    }
};

// The same, ready for the states.
struct Ready {
    float decay[NS][LN], add[NS][LN], C[NS][LN];

    __device__ __forceinline__ void step(const Group& group, const float (&A)[NS], int s) {
#pragma unroll
        for (int i = 0; i < NS; i++) {
            decay[i][s] = decay_of(group.dt[s] * A[i], i >= NS - POLYNOMIAL);
            const Words<1> both = {{__float_as_uint(group.B[i][s])}};
            add[i][s] = group.x[s] * (PACKED ? Format<TB>::get(both, 0) : group.B[i][s]);
            C[i][s] = PACKED ? Format<TC>::get(both, 1) : group.C[i][s];
        }
    }
};

// LN sums over LN lanes, of which lane n gets number n: one of the exchanges at a time.
constexpr int LEVELS = LN == 16 ? 4 : LN == 8 ? 3 : LN == 4 ? 2 : 1;
__device__ __forceinline__ void sum_level(float (&v)[LN], int level, int lane) {
    const int half = LN >> (level + 1);
    const bool upper = lane & half;
#pragma unroll
    for (int i = 0; i < LN / 2; i++)
        if (i < half) {
            const float give = upper ? v[i] : v[i + half], keep = upper ? v[i + half] : v[i];
            v[i] = keep + exchange(give, half);
        }
}

// One lane's states n, n + LN, ... of one channel, the channel's LN lanes side by side.
struct Walker {
    float A[NS], h[NS];
    int n, row, channel;  // row: of the block's channels
    bool live;

    __device__ __forceinline__ Walker(const ForwardArguments& p, int warp, int lane, int ch0) {
        n = lane % LN, row = warp * CW + lane / LN, channel = ch0 + row, live = channel < p.channels;
#pragma unroll
        for (int i = 0; i < NS; i++) {
            A[i] = live ? Format<TA>::one(p.A, channel * p.a_d + (n + i * LN) * p.a_n) * LOG2E : 0.0f;
            h[i] = 0.0f;
        }
    }

    // kept: where this lane's part of the next checkpoint goes. One warp a scheduler hides nothing behind another, so several groups are
    // under way: while the states go through one, the exponentials of the next are taken, the sums of the one before are formed, and,
    // where there are registers for it, the one after the next is read.
    __device__ __forceinline__ void walk(const ForwardArguments& p, const Stage& at, i64 t0, float*& kept, int lane) {
        float* out = at.y + row * PITCH + n;
        Group raw, after;
        raw.load(at, row, n, 0);
        if (AHEAD) after.load(at, row, n, T > LN ? LN : 0);
        Ready now;
        float before[LN];
#pragma unroll
        for (int s = 0; s < LN; s++) now.step(raw, A, s), before[s] = 0.0f;
#pragma unroll UNROLLED
        for (int t = 0; t < T; t += LN) {
            if (AHEAD) raw = after;
            Group& to = AHEAD ? after : raw;
            const int read = t + (AHEAD ? 2 : 1) * LN;
            to.load(at, row, n, read < T ? read : t);
            if (HAS_CHECKPOINT && t % EVERY == 0) {
                if (live && t0 + t < p.length)
#pragma unroll
                    for (int i = 0; i < NS; i++) kept[i64(i * LN) * p.channels] = h[i];
                kept += i64(N) * p.channels;
            }
            float y[LN];
            Ready next;
#pragma unroll
            for (int s = 0; s < LN; s++) {
#pragma unroll
                for (int i = 0; i < NS; i++) {
                    h[i] = fmaf(now.decay[i][s], h[i], now.add[i][s]);
                    y[s] = i ? fmaf(h[i], now.C[i][s], y[s]) : h[i] * now.C[i][s];
                }
                next.step(raw, A, s);
                if (s % (LN / (LEVELS + 1)) == 0 && s / (LN / (LEVELS + 1)) < LEVELS) sum_level(before, s / (LN / (LEVELS + 1)), lane);
            }
            if (t) out[of_channel(t - LN, row)] = before[0];
#pragma unroll
            for (int s = 0; s < LN; s++) before[s] = y[s];
            now = next;
        }
#pragma unroll
        for (int level = 0; level < LEVELS; level++) sum_level(before, level, lane);
        out[of_channel(T - LN, row)] = before[0];
    }
};

extern "C" __global__ void __launch_bounds__(LAUNCHED * 32, MIN_BLOCKS) scan_split(const ForwardArguments p) {
    extern __shared__ __align__(16) float shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, ch0 = int(blockIdx.x % p.blocks) * WIDE;
    const i64 b = blockIdx.x / p.blocks;
    const int tiles = int((p.length + T - 1) / T), rest = int(p.length - i64(tiles - 1) * T);  // steps of the last tile
    if (warp >= WALKERS) {
        if (WALKERS == 3 && warp % 4 != 3) return;
        const int number = WALKERS == 3 ? warp / 4 : warp - WALKERS;
        Helper helper(p, shared, number * 32 + lane, b, ch0);
        const auto left = [=](int tile) { return tile < tiles - 1 ? T : tile == tiles - 1 ? rest : 0; };
        Tile next;  // after the one that the walkers are at
        helper.load(next, left(0));
        helper.spread(next, Stage(shared, 0), 0, left(0));
        helper.load(next, left(1));
        meet<(WALKERS + HELPERS) * 32>();
#pragma unroll 1
        for (int tile = 0; tile < tiles; tile++) {
            helper.spread(next, Stage(shared, tile + 1), tile + 1, left(tile + 1));
            helper.load(next, left(tile + 2));
            if (tile) helper.finish(Stage(shared, tile - 1), tile - 1, T);
            meet<(WALKERS + HELPERS) * 32>();
        }
        helper.finish(Stage(shared, tiles - 1), tiles - 1, rest);
    } else {
        Walker walker(p, warp, lane, ch0);
        float* kept = p.checkpoint + (b * p.steps * N + walker.n) * p.channels + walker.channel;
        meet<(WALKERS + HELPERS) * 32>();
#pragma unroll 1
        for (int tile = 0; tile < tiles; tile++) {
            walker.walk(p, Stage(shared, tile), i64(tile) * T, kept, lane);
            meet<(WALKERS + HELPERS) * 32>();
        }
        if (HAS_LAST && walker.live)
#pragma unroll
            for (int i = 0; i < NS; i++) p.last[(b * p.channels + walker.channel) * N + walker.n + i * LN] = walker.h[i];
    }
}
