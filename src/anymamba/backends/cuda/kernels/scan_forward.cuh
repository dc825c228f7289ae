// What the forward scans are given.
#pragma once
#include "scan_layout.cuh"

struct ForwardArguments {
    const char *u, *dt, *z, *B, *C, *A, *D, *bias;
    char* out;
    float *last, *checkpoint, *added, *sum_dt;
    i64 u_b, u_l, dt_b, dt_l, z_b, z_l, out_b, out_l, B_b, B_g, B_l, C_b, C_g, C_l;  // bytes
    i64 a_d, a_n;                                                                    // elements
    i64 length, channels, group, blocks, steps, every, chunk, chunks;
};
